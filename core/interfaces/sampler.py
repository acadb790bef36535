"""Samplers: transforms of logits that requests can ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from maxserve.core.interfaces.component import Ref


__all__ = ["LogitTransform", "RequestParams", "RowOwner", "Rows", "Sampler", "SamplerContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler(Component):
    """A transform of logits that requests can ask for. `build(SamplerContext)` gives a LogitTransform.

    `params` is a frozen dataclass whose fields become request fields and which validates itself by raising
    ValueError. It may have four more members: `check_vocabulary(size)`, which raises ValueError too;
    `tokenized(tokenizer)`, which gives the same without text, before it travels to a worker; the static method
    `defaults_from(generation_config)`, the field values that the model's file gives (without it, those of the same
    names); and `min_stop_tokens`, the number of tokens before which no stop string ends the answer.
    A smaller `stage` runs earlier, ties by name. `keeps_argmax`: skipped when every row is greedy. `switch` is the
    "section.field" of an option, of the core or of the plugin, that lets requests use it: when that is off, those that
    ask for more than the defaults are refused. `with_drafts`: False for one that may not be asked of tokens that may be
    rejected, since it remembers what it was asked; requests that use it have no drafts.
    """

    kind: ClassVar[str] = "sampler"

    params: Ref | None = None
    stage: int = 50
    keeps_argmax: bool = False
    switch: str = ""
    with_drafts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestParams:
    """What requests may say to a sampler, or to the scheduler that serves: the fields of the dataclass `schema`.

    `component` is its name in `SamplingParams.fields`, `owner` its name in error messages. Where a setting forbids the
    fields, `switch` is the option that would let requests use them.
    """

    component: str
    schema: type[Any]
    owner: str
    plugin: str
    summary: str = ""
    switch: str = ""


S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerContext(Context):
    vocab_size: int
    device: torch.device


class LogitTransform(Protocol[S]):
    """Changes logits before the draw. Two optional methods and an attribute are found once, at build:

    `greedy(rows) -> Sequence[bool]` says which rows want the likeliest token and no draw;
    `observe(rows, tokens)` hears of the token each row got;
    `steady = True` says that `prepare` and `greedy` look at nothing but the rows' params, so that what they gave is
    kept while the same requests draw together.
    """

    def prepare(self, rows: Rows) -> S | None:
        """What `apply` needs, or None when there is nothing to do (it is then skipped).

        Of a sampler with `params`, it is called only when some row's request asks for more than the defaults.
        """
        ...

    def apply(self, logits: torch.Tensor, state: S) -> torch.Tensor:
        """New logits, same shape [rows, vocab], float32; may work in place."""
        ...


P = TypeVar("P")


class RowOwner(Protocol):
    """The request of a row. `generator` is its own source of random numbers for samplers, which a seed decides."""

    @property
    def id(self) -> str: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def generator(self) -> np.random.Generator: ...


class Rows:
    """The rows of a logits tensor and whose they are. A request may own several rows of one step."""

    __slots__ = ("_given", "_params", "device", "owners", "ends", "tokens", "prompt_lengths")

    def __init__(
        self,
        params: Sequence[Mapping[type[Any], Any]],
        tokens: Sequence[NDArray[np.int64]],
        prompt_lengths: Sequence[int],
        device: torch.device,
        ends: Sequence[frozenset[int]] = (),
        owners: Sequence[RowOwner] = (),
    ) -> None:
        self._params = params
        self._given: dict[type[Any], list[Any]] = {}
        self.tokens = tokens  # per row: prompt and everything generated before this row
        self.prompt_lengths = prompt_lengths  # per row: how many of `tokens` are prompt
        self.device = device
        self.owners = owners  # per row: the request that it is of
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
