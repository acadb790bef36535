"""Ranges of fields, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import annotated_types as at

from maxserve.core.config.catalog import OptionSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def expectation(option: OptionSpec, error: ErrorDetails) -> str:
    """What the option takes instead of the value that pydantic refused."""
    if error["type"] == "string_too_short":
        return "some text"
    return limits(option) or error["msg"].removeprefix("Value error, ")


def limits(option: OptionSpec) -> str:
    """The range of the option's values, such as `from 0 to 65535`; empty when every value of its type will do."""
    multiples = [f"a multiple of {mark.multiple_of}" for mark in option.limits if isinstance(mark, at.MultipleOf)]
    return " and ".join([*_range(option.limits), *multiples])


def _range(marks: tuple[Any, ...]) -> list[str]:
    low: Any = next((mark.ge for mark in marks if isinstance(mark, at.Ge)), None)
    above: Any = next((mark.gt for mark in marks if isinstance(mark, at.Gt)), None)
    high: Any = next((mark.le for mark in marks if isinstance(mark, at.Le)), None)
    if low is not None and high is not None:
        return [f"from {low} to {high}"]
    words = [f"at least {low}"] if low is not None else [f"above {above}"] if above is not None else []
    return words if high is None else [*words, f"at most {high}"]
