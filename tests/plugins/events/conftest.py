from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maxserve.interfaces.cache import CacheContext

Make = Callable[..., CacheContext]


@pytest.fixture
def cache_context() -> Make:
    """A small cache without storage."""

    def make(**changes: Any) -> CacheContext:
        given: dict[str, Any] = {"layers": (), "pages": 24, "page_size": 4, "rows": 4, "max_length": 64}
        return CacheContext(**given | {"dtype": torch.float32, "device": torch.device("cpu")} | changes)

    return make
