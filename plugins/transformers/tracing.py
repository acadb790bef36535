"""The trace of a model's attention calls: it runs once, without memory behind it.

What a config means for windows, scales and caps is known to the class alone, so nothing is read from there. A class
says which tokens see which by a rule from which masks are made; the rule is asked, and is to be causal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from maxserve.architectures.layers import Linear
from maxserve.interfaces.errors import MaxserveError, ModelError
from maxserve.loading import Embedding
from maxserve.plugins.transformers.rope import borders, rotate_without_looking
from maxserve.plugins.transformers.seam import Call, attend_with, configs_of, given
from maxserve.plugins.transformers.swapping import pretend_kept, swap
from maxserve.registry import cause

if TYPE_CHECKING:
    from collections.abc import Iterator


NAME = "maxserve_trace"  # of the functions that listen, among transformers'
TOKENS = 7
# What a call may say besides what it is recognised by, without meaning anything for what is seen.
HARMLESS = frozenset({"scaling", "softcap", "s_aux", "position_ids", "position_embeddings", "cache_position"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What was found. `swaps`: the model still ran when its projections had given their weights away.

    `by_row` are the modules that were called with every token of the text, and with nothing else.
    """

    calls: tuple[Call, ...]
    trunk: str
    dim: int
    vocab_size: int
    swaps: bool
    borders: tuple[int, ...]
    by_row: frozenset[str] = frozenset()


class MakesModel(Protocol):
    """Makes the model that is traced; ModelError if it cannot be made."""

    @property
    def cls(self) -> type[nn.Module]: ...
    @property
    def config(self) -> Any: ...
    def make(self) -> Any: ...


def trace(source: MakesModel, length: int) -> Trace:
    """Runs a model of `source` without memory, for texts up to `length`; ModelError if it cannot be served."""
    try:
        return _trace(source, length, swaps=True)
    except _BrokenError:
        pass  # its code looks at weights of projections itself
    try:
        return _trace(source, length, swaps=False)
    except _BrokenError as error:
        raise ModelError(
            f"{source.cls.__name__} cannot be looked at before its weights are loaded, so it is not known what it "
            f"keeps of a token: {error}"
        ) from error


class _BrokenError(Exception):
    """The model's own code failed."""


def _trace(source: MakesModel, length: int, *, swaps: bool) -> Trace:
    with torch.device("meta"), torch.inference_mode():
        model = source.make()
        _check_positions(type(model))
        if swaps:
            swap(model)
            pretend_kept(model)
        rotate_without_looking(model)
        listener = _Listener(model, length)
        with listener.listening():
            try:
                tokens = torch.zeros(1, TOKENS, dtype=torch.int64)
                positions = torch.arange(TOKENS)[None]
                seen = torch.ones(1, TOKENS, dtype=torch.bool)
                out = model(input_ids=tokens, position_ids=positions, attention_mask=seen, use_cache=False)
            except MaxserveError:
                raise
            except Exception as error:  # the class is not ours
                raise _BrokenError(cause(error)) from error
    trunk, dim = listener.trunk()
    return Trace(
        calls=tuple(listener.calls),
        trunk=trunk,
        dim=dim,
        vocab_size=out.logits.shape[-1],
        swaps=swaps,
        borders=borders(model),
        by_row=frozenset(name for name, all_rows in listener.by_row.items() if all_rows),
    )


def _check_positions(cls: type[Any]) -> None:
    if "position_ids" not in inspect.signature(cls.forward).parameters:
        raise ModelError(
            f"{cls.__name__} takes no positions (position_ids) but counts tokens itself, so that texts cannot be "
            "computed side by side or in pieces"
        )


@dataclass(slots=True)
class _Entered:
    """A module that the model's forward calls itself."""

    name: str
    calls: int = 0
    output: Any = None


@dataclass(slots=True)
class _Listener:
    """Hears which modules run and what they give their attention."""

    model: nn.Module
    length: int
    calls: list[Call] = field(default_factory=list)
    by_row: dict[str, bool] = field(default_factory=dict)
    _rules: list[tuple[Tensor, Callable[..., Tensor]]] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)
    _entered: list[_Entered] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)

    @contextmanager
    def listening(self) -> Iterator[None]:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register(NAME, self._attend)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, self._mask)
        ALL_EXPERTS_FUNCTIONS.register(NAME, _experts)
        attend_with(self.model, NAME)
        for config in configs_of(self.model):
            config._experts_implementation = NAME
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                self._names[id(module)] = name
                if name:
                    stack.callback(module.register_forward_pre_hook(self._enter).remove)
                    stack.callback(module.register_forward_hook(self._leave).remove)
            yield

    def trunk(self) -> tuple[str, int]:
        """The module that has all attention in it and leaves only the head, and the width of what it gives."""
        if not self.calls:
            raise ModelError(
                f"{type(self.model).__name__} does not attend through transformers' functions for attention, so it "
                "cannot be given this cache"
            )
        found = [entered for entered in self._entered if entered.calls]
        if len(found) != 1 or found[0].calls != len(self.calls):
            raise ModelError(f"{type(self.model).__name__} is not made of a trunk of layers and a head")
        return found[0].name, int(hidden_of(found[0].output).shape[-1])

    def _enter(self, module: nn.Module, args: object) -> None:
        if not self._open:
            self._entered.append(_Entered(self._names[id(module)]))
        if isinstance(module, Linear | Embedding):
            self._look_at_rows(module, args)
        self._open.append(self._names[id(module)])

    def _look_at_rows(self, module: nn.Module, args: object) -> None:
        x = args[0] if isinstance(args, tuple) and args else None
        rows = x.shape[: x.dim() - isinstance(module, Linear)] if isinstance(x, Tensor) else ()
        name = self._names[id(module)]
        self.by_row[name] = self.by_row.get(name, True) and tuple(rows) == (1, TOKENS)

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        self._open.pop()
        if not self._open:
            self._entered[-1].output = output

    def _mask(self, *, q_length: int, kv_length: int, mask_function: Callable[..., Tensor], **_: Any) -> Tensor:
        mask = torch.empty(1, 1, q_length, kv_length, dtype=torch.bool, device="meta")
        self._rules.append((mask, mask_function))
        return mask

    def _attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
    ) -> tuple[Tensor, None]:
        name = type(module).__name__
        strange = {key for key, given in options.items() if key not in HARMLESS and isinstance(given, Tensor)}
        scale = options.get("scaling")
        if strange:
            raise ModelError(f"{name} gives its attention what is not understood here: {', '.join(sorted(strange))}")
        if scale is not None and not isinstance(scale, float | int):
            raise ModelError(f"{name} scales scores by a {type(scale).__name__}, which is no number")
        if query.shape[2] != TOKENS or key.shape[2] != TOKENS:
            raise ModelError(f"{name} attends to other tokens than those of the text")
        heads, kv_heads, head_dim, value_dim, scale, softcap, sinks = given(query, key, value, options)
        call = Call(
            module=self._names[id(module)],
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            value_dim=value_dim,
            scale=scale,
            softcap=softcap,
            sinks=sinks,
            window=self._window(name, attention_mask),
        )
        self.calls.append(call)
        if self._entered:
            self._entered[-1].calls += 1
        return query.new_empty(1, TOKENS, query.shape[1], value.shape[3]), None

    def _window(self, name: str, mask: object) -> int | None:
        for made, rule in self._rules:
            if made is mask:
                return window_of(rule, self.length, name)
        raise ModelError(f"{name} makes a mask of its own, so it is not known which tokens see which")


def window_of(rule: Callable[..., Tensor], length: int, name: str) -> int | None:
    """How many tokens each sees by `rule`, its own included; None for all. ModelError unless it is causal so."""
    window = int(_row(rule, length - 1, length).sum())
    for position in {0, 1, 2, window - 1, window, window + 1, length // 2, length - 1}:
        if 0 <= position < length:
            places = torch.arange(length + 1, device="cpu")
            expected = (places <= position) & (places > position - window)
            if not torch.equal(_row(rule, position, length), expected):
                raise ModelError(f"{name} does not look back at the last tokens, as this cache does, but otherwise")
    return window if window < length else None


def _row(rule: Callable[..., Tensor], position: int, length: int) -> Tensor:
    """Which of the positions up to `length` the token at `position` sees."""
    zero = torch.tensor(0, device="cpu")
    places = torch.arange(length + 1, device="cpu")
    try:
        seen = rule(zero, zero, torch.tensor([[position]], device="cpu"), places[None])
        return seen.expand(1, length + 1)[0].cpu().bool()
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"it is not known which tokens see which, since the rule depends on more: {cause(error)}"
        ) from error


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a trunk gives."""
    hidden: Tensor = output[0]
    return hidden


def _experts(module: nn.Module, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
    """What experts give has the shape of what they get; which ones work is not known without numbers."""
    return torch.empty_like(hidden_states)
