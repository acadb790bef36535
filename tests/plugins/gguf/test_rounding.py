from __future__ import annotations

from collections.abc import Callable

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.rounding import WRITERS, rounded_rows
from maxserve.plugins.gguf.types import ROUNDED, TYPES, rounded_type

BY_NAME = {type.name: type for type in TYPES.values()}
REFERENCE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # those that gguf rounds to


def normal(generator: torch.Generator) -> Tensor:
    return torch.randn(6, 1024, generator=generator) * 0.03


def with_outliers(generator: torch.Generator) -> Tensor:
    return normal(generator) * torch.where(torch.rand(6, 1024, generator=generator) > 0.99, 40.0, 1.0)


def shifted(generator: torch.Generator) -> Tensor:
    return normal(generator) + 0.05


def with_ties(generator: torch.Generator) -> Tensor:
    """Values between two codes, largest ones of both signs, and blocks of one value or none."""
    values = torch.randint(-8, 9, (6, 1024), generator=generator) / 8.0
    values[0], values[1], values[2], values[3] = 0.0, 1.0, -1.0, values[3].abs()
    return values


def tiny(generator: torch.Generator) -> Tensor:
    return normal(generator) * 1e-6  # scales are the least numbers of float16


KINDS = (normal, with_outliers, shifted, with_ties, tiny)
Kind = Callable[[torch.Generator], Tensor]


def values_of(kind: Kind) -> Tensor:
    return kind(torch.Generator().manual_seed(3))


def decoded(rows: Tensor, type: str) -> Tensor:
    number = next(number for number, each in TYPES.items() if each.name == type)
    return torch.from_numpy(gguf.quants.dequantize(rows.numpy(), Type(number)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("type", REFERENCE)
def test_blocks_are_those_of_gguf_to_the_bit(type: str, kind: Kind) -> None:
    rows = values_of(kind)
    expected = torch.from_numpy(gguf.quants.quantize(rows.numpy(), Type[type]))
    assert torch.equal(rounded_rows(rows, BY_NAME[type]), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_rows_are_rounded_as_what_they_hold(dtype: torch.dtype) -> None:
    rows = values_of(normal).to(dtype)
    assert torch.equal(rounded_rows(rows, BY_NAME["Q4_0"]), rounded_rows(rows.float(), BY_NAME["Q4_0"]))


# What llama.cpp's own rounding of the same values is off by: root mean squares, as shares of theirs.
@pytest.mark.parametrize(
    ("type", "kind", "theirs"),
    [
        ("Q4_K", normal, 0.07134),
        ("Q4_K", with_outliers, 0.08654),
        ("Q4_K", shifted, 0.03695),
        ("Q4_K", with_ties, 0.02268),
        ("Q6_K", normal, 0.01806),
        ("Q6_K", with_outliers, 0.03382),
        ("Q6_K", shifted, 0.01445),
        ("Q6_K", with_ties, 0.00510),
    ],
)
def test_blocks_with_groups_are_as_near_as_those_of_llama_cpp(type: str, kind: Kind, theirs: float) -> None:
    rows = values_of(kind)
    off = decoded(rounded_rows(rows, BY_NAME[type]), type) - rows
    assert float(off.square().mean().sqrt() / rows.square().mean().sqrt()) < 1.02 * theirs


@pytest.mark.parametrize("type", sorted(WRITERS))
def test_a_row_does_not_depend_on_those_beside_it(type: str) -> None:
    rows = torch.cat([values_of(kind) for kind in KINDS])
    alone = torch.cat([rounded_rows(row[None], BY_NAME[type]) for row in rows])
    assert torch.equal(rounded_rows(rows.repeat(20, 1), BY_NAME[type]), alone.repeat(20, 1))


@pytest.mark.parametrize("type", sorted(WRITERS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_have_no_scale_are_refused(type: str, value: float) -> None:
    rows = values_of(normal)
    rows[3, 70] = value
    with pytest.raises(ModelError, match="no numbers, or too large"):
        rounded_rows(rows, BY_NAME[type])


def test_rows_that_are_no_whole_blocks_take_smaller_ones() -> None:
    chosen = {
        name: [type and type.name for type in (rounded_type(name, inputs) for inputs in (512, 576, 100))]
        for name in ROUNDED
    }
    assert chosen["q4_k"] == ["Q4_K", "Q5_0", None]
    assert chosen["q6_k"] == ["Q6_K", "Q8_0", None]
    assert chosen["q4_0"] == ["Q4_0", "Q4_0", None]


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_is_rounded_by_itself(name: str) -> None:
    """However a weight is cut into rows that are rounded together, its codes are the same."""
    weight, type = torch.randn(600, 256, generator=torch.Generator().manual_seed(0)), BY_NAME[name]
    together = rounded_rows(weight, type)
    for size in (1, 7, 37):
        assert torch.equal(torch.cat([rounded_rows(part, type) for part in torch.split(weight, size)]), together)
