"""Model sources: what a model reference leads to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from maxserve.core.interfaces.progress import Progress


__all__ = ["Checkpoint", "ModelLocation", "ModelQuery", "ModelSource"]


class ModelLocation(Protocol):
    """Somewhere a model's files can be had from. ModelError in one line where they cannot."""

    ref: str

    def folder(self) -> Path:
        """A local folder with config and tokenizer."""
        ...

    def names(self) -> Collection[str]:
        """The names of the files that are there, with / between folders."""
        ...

    def fetch(self, names: Sequence[str]) -> list[str]:
        """Local paths of these files; ModelError if there is none of a name."""
        ...

    def pipeline_tag(self) -> str | None:
        """What the page of the model says that it is for, where there is one and it can be asked."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery:
    """What the operator wants of a model, for sources that have several states of it.

    `revision` is of config and tokenizer, `weight_revision` of the weights. `files` are patterns of names that engines
    read beside the usual ones. `trust_remote_code`: Python files of the model are wanted, too.
    """

    progress: Progress
    revision: str = "main"
    weight_revision: str = "main"
    force_download: bool = False
    trust_remote_code: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model reference leads: `path`, a local folder with config.json, weights and tokenizer, or a `location`.

    A location is asked for files when they are needed: config and tokenizer first, weights when these are sound.
    `companions` are options by speculative method, such as `{"eagle": {"draft_model_path": "acme/head"}}`: a method
    that the operator chooses takes those that the operator leaves out.
    """

    path: str = ""
    location: ModelLocation | None = None
    note: str = ""
    companions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Checkpoint(Protocol):
    """What names a model: the options of `maxserve.config.CheckpointSettings`."""

    @property
    def model_path(self) -> str: ...
    @property
    def weight_path(self) -> tuple[str, ...]: ...
    @property
    def quantization_encoding(self) -> Any: ...
    @property
    def cache_quantized(self) -> str: ...
    @property
    def allow_safetensors_weights_fp32_bf6_bidirectional_cast(self) -> bool: ...
    @property
    def huggingface_model_revision(self) -> str: ...
    @property
    def huggingface_weight_revision(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...
    @property
    def force_download(self) -> bool: ...
    @property
    def rope_type(self) -> str | None: ...
    @property
    def use_subgraphs(self) -> bool: ...
    @property
    def vision_config_overrides(self) -> dict[str, Any]: ...
    @property
    def devices(self) -> str: ...
