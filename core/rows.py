"""Which rows of a step's logits are whose?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

P = TypeVar("P")


class Rows:
    """The rows of a logits tensor and whose they are. A request may own several rows of one step."""

    __slots__ = ("_given", "_params", "device", "ends", "tokens", "prompt_lengths")

    def __init__(
        self,
        params: Sequence[Mapping[type[Any], Any]],
        tokens: Sequence[NDArray[np.int64]],
        prompt_lengths: Sequence[int],
        device: torch.device,
        ends: Sequence[frozenset[int]] = (),
    ) -> None:
        self._params = params
        self._given: dict[type[Any], list[Any]] = {}
        self.tokens = tokens  # per row: prompt and everything generated before this row
        self.prompt_lengths = prompt_lengths  # per row: how many of `tokens` are prompt
        self.device = device
        self.ends = ends or [frozenset()] * len(params)  # per row: the tokens that end its request

    def __len__(self) -> int:
        return len(self._params)

    def asked(self, cls: type[Any]) -> bool:
        """Whether some row's request gave a `cls`."""
        return any(cls in params for params in self._params)

    def asking(self, cls: type[Any]) -> list[int]:
        """The rows whose requests gave a `cls`."""
        return [row for row, params in enumerate(self._params) if cls in params]

    def params(self, cls: type[P]) -> list[P]:
        """One `cls` per row: what the request gave, or the defaults."""
        given = self._given.get(cls)
        if given is None:
            default = None if all(cls in params for params in self._params) else cls()
            given = self._given[cls] = [params.get(cls, default) for params in self._params]
        return given.copy()

    def tensor(self, values: Sequence[Any] | NDArray[Any], dtype: torch.dtype | None = None) -> torch.Tensor:
        """`values` as a tensor on the logits' device, one per row."""
        import numpy as np
        import torch

        made = torch.from_numpy(np.array(values))  # many times faster than torch.tensor of a list
        if dtype is None and made.is_floating_point():
            dtype = torch.get_default_dtype()
        return made.to(self.device, dtype, non_blocking=True)
