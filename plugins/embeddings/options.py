"""Options of models that encode texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option


@dataclass(frozen=True, slots=True)
class EmbeddingsOptions:
    """How texts become vectors."""

    pool_embeddings: Annotated[
        bool,
        Option(used_by="embeddings"),
        Field(description="Give one vector per text in embedding models; off, one per token."),
    ] = True
