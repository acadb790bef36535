"""Checks of samplers.

class TestMinP(SamplerChecks):
    sampler = "min_p"
    cases = [MinP(0.0), MinP(0.05), MinP(0.9)]
    bad = [{"min_p": -1.0}]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from maxserve.core.interfaces.sampler import LogitTransform, Rows, Sampler, SamplerContext
from maxserve.testing.resolve import load, resolve

if TYPE_CHECKING:
    import torch

VOCAB = 97
HISTORY = 12  # tokens of a row's prompt; generated ones follow
ENDS = frozenset({1, 2})  # tokens that end a row's request


class SamplerChecks:
    """Subclass it and name a registered `sampler`, or give the `component` itself.

    `cases` are values of its params class, or request fields, of which at least one asks for something; `bad` are field
    values it must refuse.
    """

    sampler: ClassVar[str] = ""
    component: ClassVar[Sampler | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    cases: ClassVar[Sequence[Any]] = ()
    bad: ClassVar[Sequence[Mapping[str, Any]]] = ()

    def declared(self) -> Sampler:
        """The component under test."""
        return resolve(Sampler, self.sampler, self.component)

    def transform(self) -> LogitTransform[Any]:
        """A fresh transform for a vocabulary of 97 tokens on the CPU."""
        import torch

        build: Callable[[SamplerContext], LogitTransform[Any]] = load(self.declared().build)
        return build(SamplerContext(vocab_size=VOCAB, device=torch.device("cpu"), sections=self.sections))

    def params(self) -> type[Any] | None:
        """The params class, None for a sampler that takes no request fields."""
        ref = self.declared().params
        return None if ref is None else load(ref)

    def apply(self, rows: Rows, logits: torch.Tensor) -> torch.Tensor:
        """What the transform makes of `logits`, which stay as they are."""
        transform = self.transform()
        state = transform.prepare(rows)
        return logits.clone() if state is None else transform.apply(logits.clone(), state)

    def rows(self, wanted: Sequence[Any]) -> Rows:
        """A row for each of `wanted`: a params value, or None where the request gave nothing."""
        import torch

        rng = np.random.default_rng(0)
        tokens = [rng.integers(0, VOCAB, HISTORY + 1 + i % 5) for i in range(len(wanted))]
        given = [{} if value is None else {type(value): value} for value in wanted]
        return _rows(given, tokens, torch.device("cpu"))

    def made(self) -> list[Any]:
        """The cases as values of the params class."""
        cls = self.params()
        return [cls(**case) if cls is not None and isinstance(case, Mapping) else case for case in self.cases]

    def mixed(self) -> list[Any]:
        """Each case, with rows that asked for nothing among them."""
        wanted: list[Any] = [None] if self.params() else []
        for case in self.made():
            wanted += [case, None] if self.params() else [case]
        return wanted

    def test_there_are_cases(self) -> None:
        cls = self.params()
        assert self.cases, "give `cases`: values of the params class, at least one of which asks for something"
        for case in self.made():
            assert cls is None or isinstance(case, cls), f"case {case!r} is no {cls.__name__}"
        states = [self.transform().prepare(self.rows([case])) for case in self.made()]
        assert any(state is not None for state in states), "none of `cases` asks for anything: prepare gives None"

    def test_shape_dtype_and_device_stay(self) -> None:
        logits = _logits(len(self.mixed()))
        result = self.apply(self.rows(self.mixed()), logits)
        assert result.shape == logits.shape
        assert result.dtype == logits.dtype
        assert result.device == logits.device
        assert not result.isnan().any(), "the result holds NaN"

    def test_minus_infinity_stays(self) -> None:
        import torch

        logits = _logits(len(self.mixed()))
        gone = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < 0.5
        gone[:, 0] = False
        result = self.apply(self.rows(self.mixed()), logits.masked_fill(gone, float("-inf")))
        assert (result[gone] == float("-inf")).all(), "a token that was impossible became possible"
        assert not result.isnan().any(), "the result holds NaN"
        assert result.isfinite().any(dim=-1).all(), "a row has no possible token left"

    def test_rows_that_did_not_ask_keep_their_distribution(self) -> None:
        wanted = self.mixed()
        logits = _logits(len(wanted))
        result = self.apply(self.rows(wanted), logits)
        for row, value in enumerate(wanted):
            if value is None:
                _same(result[row].softmax(-1), logits[row].softmax(-1), f"row {row} did not ask and was changed")

    def test_permuted_rows_give_permuted_results(self) -> None:
        wanted = self.mixed()
        logits, rows = _logits(len(wanted)), self.rows(wanted)
        expected = self.apply(rows, logits)
        for first in range(len(wanted)):  # backwards, so that each row is the first one once
            order = [(first - i) % len(wanted) for i in range(len(wanted))]
            moved = _rows(
                [{} if wanted[i] is None else {type(wanted[i]): wanted[i]} for i in order],
                [rows.tokens[i] for i in order],
                rows.device,
            )
            _same(self.apply(moved, logits[order]), expected[order], "a row's result depends on its place")

    def test_a_row_depends_on_itself_only(self) -> None:
        wanted = self.mixed()
        logits, rows = _logits(len(wanted)), self.rows(wanted)
        together = self.apply(rows, logits).softmax(-1)
        for i, value in enumerate(wanted):
            given = {} if value is None else {type(value): value}
            alone = _rows([given], [rows.tokens[i]], rows.device)
            result = self.apply(alone, logits[i : i + 1]).softmax(-1)
            _same(result[0], together[i], f"row {i} depends on the rows beside it")

    def test_a_request_may_own_several_rows(self) -> None:
        tokens = np.random.default_rng(3).integers(0, VOCAB, HISTORY + 4)
        for case in self.made():
            given, logits = {type(case): case}, _logits(4)
            histories = [tokens[: HISTORY + i] for i in range(4)]  # each row sees one token more, as in verification
            device = logits.device
            together = self.apply(_rows([given] * 4, histories, device), logits)
            for i, history in enumerate(histories):
                alone = self.apply(_rows([given], [history], device), logits[i : i + 1])
                _same(alone[0], together[i], f"case {case!r}: row {i} of one request differs from the row alone")

    def test_likeliest_token_stays_if_claimed(self) -> None:
        if not self.declared().keeps_argmax:
            return
        for case in self.made():
            logits = _logits(16)
            result = self.apply(self.rows([case] * 16), logits)
            kept = result.argmax(-1) == logits.argmax(-1)
            assert kept.all(), f"case {case!r} changes the likeliest token, though `keeps_argmax` is declared"

    def test_bad_values_are_refused(self) -> None:
        cls = self.params()
        for values in self.bad:
            assert cls is not None, "`bad` is given, but the sampler has no params"
            try:
                made = cls(**values)
            except ValueError:
                continue
            raise AssertionError(f"{made!r} should have raised ValueError")

    def test_params_are_a_frozen_dataclass_with_defaults(self) -> None:
        cls = self.params()
        if cls is None:
            return
        assert is_dataclass(cls), f"{cls.__name__} is no dataclass"
        assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"  # type: ignore[attr-defined]
        assert fields(cls), f"{cls.__name__} has no fields"
        assert cls() == cls(), f"two {cls.__name__} of defaults differ"

    def test_defaults_of_a_model_are_fields(self) -> None:
        cls = self.params()
        if cls is not None and hasattr(cls, "defaults_from"):
            assert not dict(cls.defaults_from({})), "defaults_from an empty generation_config must give nothing"

    def test_one_that_goes_with_no_drafts_is_asked_for(self) -> None:
        """Else no request could have drafts."""
        assert self.declared().with_drafts or self.params() is not None, "with_drafts=False needs `params`"

    def test_minimum_length_is_a_number(self) -> None:
        for case in self.made():
            least = getattr(case, "min_stop_tokens", 0)
            assert isinstance(least, int), f"case {case!r}: min_stop_tokens is {least!r}"
            assert least >= 0, f"case {case!r}: min_stop_tokens is {least}"

    def test_apply_reads_nothing_back_from_the_device(self) -> None:
        for wanted in ([case] * 3 for case in self.made()):
            transform, rows = self.transform(), self.rows(wanted)
            state = transform.prepare(rows)
            if state is not None:  # None: a neutral value, for which there is no work
                transform.apply(_guarded(_logits(3)), _guarded(state))

    def test_greedy_says_yes_or_no_for_each_row(self) -> None:
        greedy = getattr(self.transform(), "greedy", None)  # optional, see LogitTransform
        if greedy is not None:
            answer = list(greedy(self.rows(self.mixed())))
            assert len(answer) == len(self.mixed())
            assert all(isinstance(value, bool) for value in answer)


def _rows(given: Sequence[Mapping[type[Any], Any]], tokens: Sequence[Any], device: torch.device) -> Rows:
    owners = [_Owner(each) for each in tokens]
    return Rows(given, tokens, [HISTORY] * len(given), device, [ENDS] * len(given), owners)


class _Owner:
    """A request that is known by its tokens, so that it is the same one in whatever row it stands."""

    def __init__(self, tokens: Any) -> None:
        self.seed: int | None = int(tokens.sum())
        self.id = f"request {self.seed}"
        self.generator = np.random.default_rng(self.seed)


def _logits(rows: int) -> torch.Tensor:
    import torch

    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(rows)) * 4


def _same(left: torch.Tensor, right: torch.Tensor, message: str) -> None:
    import torch

    assert torch.allclose(left, right, rtol=1e-5, atol=1e-6), message


def _guarded(value: Any) -> Any:
    """`value` with every tensor in it replaced by one that cannot be read from the host."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.as_subclass(_guard())
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_guarded(part) for part in value)
    if isinstance(value, list):
        return [_guarded(part) for part in value]
    if isinstance(value, dict):
        return {key: _guarded(part) for key, part in value.items()}
    return value


@cache
def _guard() -> type[torch.Tensor]:
    """A tensor class that stands for device memory: whatever would wait for the device raises."""
    import torch

    readers = (
        "item",
        "tolist",
        "cpu",
        "numpy",
        "nonzero",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__array__",
    )
    forbidden = {getattr(torch.Tensor, name): name for name in readers} | {torch.nonzero: "nonzero"}

    class Guarded(torch.Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            name = forbidden.get(func)
            if name is None and func is torch.Tensor.to and "cpu" in str((*args[1:], *(kwargs or {}).values())):
                name = "to('cpu')"
            if name is not None:
                raise AssertionError(f"apply calls {name} on a tensor, which waits for the device in every step")
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    return Guarded
