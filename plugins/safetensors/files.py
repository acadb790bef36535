"""Safetensors files, mapped into memory: a tensor that needs no change is the mapped file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.weight_format import ReadsTensor, WeightQuery
from maxserve.loading import read_object
from maxserve.plugins.safetensors.choice import choose_weights
from maxserve.plugins.safetensors.header import read_header

if TYPE_CHECKING:
    import torch

    from maxserve.interfaces.component import Context


class Safetensors:
    """A BuiltWeightFormat."""

    def __init__(self, context: Context | None = None) -> None:
        pass

    def choose(self, query: WeightQuery) -> list[str]:
        return choose_weights(query.names, lambda index: read_object(Path(query.fetch(index))), query.ref)

    def open(self, path: str, config: Mapping[str, Any]) -> SafetensorsFile:
        return SafetensorsFile(path)


class SafetensorsFile:
    """A WeightFile."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.tensors = read_header(path)

    def is_mapped(self, name: str) -> bool:
        return True

    @contextmanager
    def open(self) -> Iterator[ReadsTensor]:
        from safetensors import SafetensorError, safe_open

        try:
            opened = safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise ModelError(f"the weight file {self.path} is damaged ({error}); fetch it again") from error
        with opened as handle:

            def read(name: str, rows: tuple[int, int] | None = None) -> torch.Tensor:
                tensor: torch.Tensor = handle.get_tensor(name)
                return tensor if rows is None else tensor[slice(*rows)]

            yield read
