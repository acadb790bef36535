"""The conformance class catches samplers that are wrong; each of these breaks one promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from maxserve.core.interfaces.sampler import Rows, Sampler
from maxserve.testing.sampler import SamplerChecks


@dataclass(frozen=True, slots=True)
class Push:
    """Adds to the first token's logit."""

    push: float = 0.0

    def __post_init__(self) -> None:
        if self.push < 0:
            raise ValueError(f"push must not be negative, got {self.push}")


class Right:
    """What the others get wrong."""

    def __init__(self, context: Any) -> None:
        pass

    def prepare(self, rows: Rows) -> Tensor | None:
        wanted = [p.push for p in rows.params(Push)]
        return rows.tensor(wanted) if any(wanted) else None

    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        logits[:, 0] += state
        return logits


class ReadsBack(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state) if state.max().item() else logits


class Branches(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state) if (state > 0).any() else logits


class MovesToTheHost(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state.to("cpu"))


class Revives(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits.clamp(min=-50.0), state)


class MixesRows(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state.mean().expand_as(state))


class FirstRowForAll(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state[:1])


class TouchesEveryone(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state) / 2


class OtherType(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state).half()


class DropsATokenPerRow(Right):
    def apply(self, logits: Tensor, state: Tensor) -> Tensor:
        return super().apply(logits, state)[:, :-1]


def failing(build: Any, **changes: Any) -> list[str]:
    """The tests that fail for a sampler."""

    class Checks(SamplerChecks):
        component = Sampler(**({"name": "push", "build": build, "params": Push} | changes))
        cases = (Push(0.0), Push(1.0), Push(30.0))  # one of them neutral: there is no work for it
        bad = ({"push": -1.0},)

    checks, names = Checks(), []
    for name in dir(checks):
        test: Callable[[], None] = getattr(checks, name)
        if name.startswith("test_"):
            try:
                test()
            except (AssertionError, RuntimeError, IndexError):
                names.append(name.removeprefix("test_"))
    return names


def test_the_right_one_passes() -> None:
    assert failing(Right) == []


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (ReadsBack, "apply_reads_nothing_back_from_the_device"),
        (Branches, "apply_reads_nothing_back_from_the_device"),
        (MovesToTheHost, "apply_reads_nothing_back_from_the_device"),
        (Revives, "minus_infinity_stays"),
        (MixesRows, "a_row_depends_on_itself_only"),
        (FirstRowForAll, "permuted_rows_give_permuted_results"),
        (TouchesEveryone, "rows_that_did_not_ask_keep_their_distribution"),
        (OtherType, "shape_dtype_and_device_stay"),
        (DropsATokenPerRow, "shape_dtype_and_device_stay"),
    ],
)
def test_broken_samplers_are_caught(broken: type[Right], promise: str) -> None:
    assert promise in failing(broken)


def test_a_wrong_claim_is_caught() -> None:
    assert failing(Right, keeps_argmax=True) == ["likeliest_token_stays_if_claimed"]


def test_params_that_accept_anything_are_caught() -> None:
    @dataclass
    class Anything:
        push: float = 0.0

    class ForAnything(Right):
        def prepare(self, rows: Rows) -> Tensor | None:
            wanted = [p.push for p in rows.params(Anything)]
            return rows.tensor(wanted) if any(wanted) else None

    class Checks(SamplerChecks):
        component = Sampler(name="push", build=ForAnything, params=Anything)
        cases = (Anything(1.0),)
        bad = ({"push": -1.0},)

    for test in (Checks().test_bad_values_are_refused, Checks().test_params_are_a_frozen_dataclass_with_defaults):
        with pytest.raises(AssertionError, match=r"should have raised ValueError|is not frozen"):
            test()


def test_a_class_without_cases_is_no_test() -> None:
    class Checks(SamplerChecks):
        component = Sampler(name="push", build=Right, params=Push)

    with pytest.raises(AssertionError, match="give `cases`"):
        Checks().test_there_are_cases()


def test_cases_that_all_ask_for_nothing_are_no_test() -> None:
    class Checks(SamplerChecks):
        component = Sampler(name="push", build=Right, params=Push)
        cases = (Push(0.0),)

    with pytest.raises(AssertionError, match="none of `cases` asks for anything"):
        Checks().test_there_are_cases()


def test_cases_of_another_class_are_caught() -> None:
    class Checks(SamplerChecks):
        component = Sampler(name="push", build=Right, params=Push)
        cases = (1.0,)

    with pytest.raises(AssertionError, match=r"case 1\.0 is no Push"):
        Checks().test_there_are_cases()
