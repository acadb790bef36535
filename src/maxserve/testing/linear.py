"""Checks of linear methods.

class TestAcme(LinearMethodChecks):
    method = "acme"
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.codes import Codes
from maxserve.core.interfaces.linear import (
    BuiltLinearMethod,
    CodesLinear,
    LinearContext,
    PackedExperts,
    PackedLinear,
    SupportsCodes,
    SupportsEmbedding,
    SupportsExperts,
    SupportsPlainRows,
)
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.testing.codes import CODES, random_codes

__all__ = ["LinearMethodChecks"]

SIZES = [(1, 1), (3, 5), (16, 8), (64, 48), (96, 64), (130, 257), (33, 1100), (515, 96), (70, 640)]  # outputs, inputs
ROWS = (1, 2, 3, 4, 7, 8, 13, 33, 150)
CODE_SIZES = [(1, 32), (70, 96), (37, 200), (129, 640)]  # outputs, inputs
CODE_ROWS = (1, 2, 3, 5, 12, 33, 97)


class LinearMethodChecks:
    """What every linear method must pass on a CPU.

    `tolerance`: a sum of n products, each about 1, may be off by so much times the root of n. `rows_tolerance`: so much
    may an entry of a row be off that a method gives back. Methods that store weights in few bits raise both. What a
    method leaves to the layer (`create` gives None), it need not do.
    """

    method: ClassVar[str]
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    plugins: ClassVar[PluginOptions] = PluginOptions()
    tolerance: ClassVar[float] = 2e-5
    rows_tolerance: ClassVar[float] = 0.0
    row_independent: ClassVar[bool] = True  # to the bit

    @pytest.fixture
    def built(self) -> BuiltLinearMethod:
        host = PluginHost.discover(self.plugins, strict=True)
        context = LinearContext(compute=torch.float32, device=torch.device("cpu"), sections=self.sections)
        built: BuiltLinearMethod = host.build(host.linear_methods.get(self.method), context)
        return built

    def packed(self, built: BuiltLinearMethod, weight: Tensor) -> PackedLinear:
        """The weight in the type the method wants of its checkpoint's, given in two parts."""
        dtype = built.storage_dtype(weight.dtype)
        packed = built.create(weight.shape[0], weight.shape[1], dtype)
        if packed is None:
            pytest.skip(f"{self.method} leaves a weight of {list(weight.shape)} to the layer")
        cut = len(weight) // 3
        for first, rows in ((cut, weight[cut:]), (0, weight[:cut])):
            if len(rows):
                packed.load_rows(rows.to(dtype).clone(), first)
        return packed

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_equals_the_product_in_float64(
        self, built: BuiltLinearMethod, size: tuple[int, int], dtype: torch.dtype
    ) -> None:
        weight, bias = random(*size).to(dtype), random(size[0])
        packed = self.packed(built, weight)
        for rows in ROWS:
            x = random(rows, size[1] + 3)[:, 2:-1]  # rows apart from each other
            for given in (None, bias):
                expected = x.double() @ weight.double().T + (0 if given is None else given.double())
                result = packed.multiply(x, given)
                assert result.dtype == torch.float32
                torch.testing.assert_close(
                    result.double(), expected, atol=self.tolerance * max(1, size[1] ** 0.5), rtol=0
                )

    def test_stores_some_weight(self, built: BuiltLinearMethod) -> None:
        """Otherwise it would be of no use, and nothing below would be tried."""
        stored = built.storage_dtype(torch.float32)
        codes = random_codes("4 bits", 64, 96)
        takes_codes = isinstance(built, SupportsCodes) and built.create_codes(64, 96, [codes.layout]) is not None
        assert takes_codes or any(built.create(outputs, inputs, stored) is not None for outputs, inputs in SIZES)

    @pytest.mark.parametrize("size", SIZES, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_rows_come_out_as_they_were_loaded(
        self, built: BuiltLinearMethod, size: tuple[int, int], dtype: torch.dtype
    ) -> None:
        """Of methods that can give rows at all."""
        weight = random(*size).to(dtype)
        packed = self.packed(built, weight)
        if isinstance(packed, SupportsEmbedding):
            ids = torch.tensor([0, size[0] - 1, size[0] // 2, 0])
            rows, expected = packed.embedding(ids), weight[ids].to(built.storage_dtype(dtype))
            assert rows.dtype == expected.dtype
            torch.testing.assert_close(rows.float(), expected.float(), atol=self.rows_tolerance, rtol=0)
            assert packed.embedding(ids[:0]).shape == (0, size[1])

    def test_any_number_of_axes(self, built: BuiltLinearMethod) -> None:
        weight = random(64, 96)
        packed, x = self.packed(built, weight), random(2, 5, 96)
        for each in (x, x[0, 0], x[:, :0]):
            atol = self.tolerance * 96**0.5
            torch.testing.assert_close(packed.multiply(each, None), each @ weight.T, atol=atol, rtol=0)

    @pytest.mark.parametrize("inputs", [600, 640])
    def test_a_row_does_not_depend_on_the_others(self, built: BuiltLinearMethod, inputs: int) -> None:
        if not self.row_independent:
            pytest.skip(f"{self.method} says that it does not promise this")
        for dtype in (torch.float32, torch.bfloat16):
            packed = self.packed(built, random(100, inputs).to(dtype))
            x = random(max(ROWS), inputs)
            alone = packed.multiply(x[:1], None)
            for rows in ROWS:
                assert torch.equal(packed.multiply(x[:rows], None)[:1], alone)
                assert torch.equal(packed.multiply(x[:rows].flip(0), None)[-1:], alone)

    def experts(self, built: BuiltLinearMethod, weights: Tensor) -> PackedExperts:
        """The weights [experts, outputs, inputs], each given in two parts. Only of methods that store such."""
        if not isinstance(built, SupportsExperts):
            pytest.skip(f"{self.method} stores no experts")
        experts, outputs, inputs = weights.shape
        packed = built.create_experts(experts, outputs, inputs, built.storage_dtype(weights.dtype))
        if packed is None:
            pytest.skip(f"{self.method} leaves experts of [{outputs}, {inputs}] to the layer")
        for expert, weight in enumerate(weights.to(built.storage_dtype(weights.dtype))):
            cut = len(weight) // 3
            for first, rows in ((cut, weight[cut:]), (0, weight[:cut])):
                if len(rows):
                    packed.load_rows(expert, rows.clone(), first)
        return packed

    @pytest.mark.parametrize("size", [(1, 3, 5), (5, 64, 48), (8, 37, 130), (3, 515, 40), (8, 70, 96)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_each_expert_multiplies_its_rows(
        self, built: BuiltLinearMethod, size: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        weights, biases = random(*size).to(dtype), random(*size[:2])
        packed = self.experts(built, weights)
        for counts in ([0, 1, 2, 13, 4, 0, 0, 40], [0, 0, 3, 0, 0, 1, 1, 0], [150, 0, 1, 7, 8, 9, 1, 1]):
            given = counts[: size[0]]
            ends = torch.tensor(given).cumsum(0)
            x = random(sum(given), size[2] + 3)[:, 2:-1]
            owners = torch.arange(size[0]).repeat_interleave(torch.tensor(given))
            expected = torch.einsum("ni,noi->no", x.double(), weights.double()[owners])
            for bias in (None, biases):
                wanted = expected if bias is None else expected + bias.double()[owners]
                result = packed.multiply(x, ends, bias)
                assert result.dtype == torch.float32
                tolerance = self.tolerance * max(1, size[2] ** 0.5)
                torch.testing.assert_close(result.double(), wanted, atol=tolerance, rtol=0)

    def test_a_row_of_an_expert_does_not_depend_on_the_others(self, built: BuiltLinearMethod) -> None:
        if not self.row_independent:
            pytest.skip(f"{self.method} says that it does not promise this")
        for dtype in (torch.float32, torch.bfloat16):
            packed, x = self.experts(built, random(4, 100, 640).to(dtype)), random(90, 640)
            alone = packed.multiply(x[:1], torch.tensor([0, 0, 1, 1]), None)
            for rows in (rows for rows in ROWS if rows < 80):
                x[rows + 2] = x[0]
                ends = torch.tensor([1, 3, rows + 3, 90])
                assert torch.equal(packed.multiply(x, ends, None)[rows + 2 : rows + 3], alone)

    def codes(self, built: BuiltLinearMethod, *parts: Codes) -> CodesLinear:
        """A weight of codes, the last part of which is given first. Only of methods that take such."""
        if not isinstance(built, SupportsCodes):
            pytest.skip(f"{self.method} takes no codes")
        outputs, inputs = sum(len(part.codes) for part in parts), parts[0].codes.shape[1]
        made = built.create_codes(outputs, inputs, [part.layout for part in parts])
        if made is None:
            pytest.skip(f"{self.method} does not take {', '.join(str(part.layout) for part in parts)}")
        end = outputs
        for part in reversed(parts):
            end -= len(part.codes)
            made.load_codes(part, end)
        return made

    def check_codes(self, made: CodesLinear, weight: Tensor) -> None:
        """Products and rows are those of the weight, and a row does not depend on the others."""
        outputs, inputs = weight.shape
        x, bias = random(max(CODE_ROWS), inputs + 3)[:, 2:-1], random(outputs)
        whole = made.multiply(x, bias)
        assert whole.dtype == torch.float32
        expected = x.double() @ weight.double().T + bias.double()
        torch.testing.assert_close(whole.double(), expected, atol=self.tolerance * inputs**0.5, rtol=0)
        for rows in CODE_ROWS if self.row_independent else ():
            assert torch.equal(made.multiply(x[:rows], bias), whole[:rows])
        for given in (x[0], x.unsqueeze(0), x[:0]):
            wanted = whole[: given.numel() // inputs].view(*given.shape[:-1], outputs)
            torch.testing.assert_close(made.multiply(given, bias), wanted, atol=self.tolerance * inputs**0.5, rtol=0)
        ids = torch.tensor([0, outputs - 1, outputs // 2, 0])
        rows_of = made.embedding(ids)
        assert rows_of.dtype == torch.float32
        torch.testing.assert_close(rows_of, weight[ids], atol=self.rows_tolerance, rtol=0)
        assert made.embedding(ids[:0]).shape == (0, inputs)

    @pytest.mark.parametrize("size", CODE_SIZES, ids=str)
    @pytest.mark.parametrize("kind", CODES)
    def test_codes_are_multiplied_as_what_they_mean(
        self, built: BuiltLinearMethod, kind: str, size: tuple[int, int]
    ) -> None:
        codes = random_codes(kind, *size)
        self.check_codes(self.codes(built, codes), codes.values())

    @pytest.mark.parametrize("kinds", [("4 bits", "6 bits in blocks", "4 bits"), tuple(CODES)], ids=len)
    def test_parts_of_a_weight_may_be_codes_of_several_kinds(
        self, built: BuiltLinearMethod, kinds: tuple[str, ...]
    ) -> None:
        parts = [random_codes(kind, 5 + 13 * i, 256, seed=i) for i, kind in enumerate(kinds)]
        self.check_codes(self.codes(built, *parts), torch.cat([part.values() for part in parts]))

    @pytest.mark.parametrize("kind", ["4 bits", "8 bits", "4 bits with zeros and an order"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("sizes", [(40, 17, 33), (16, 1, 64)], ids=str)
    def test_parts_of_a_weight_may_be_no_codes(
        self, built: BuiltLinearMethod, kind: str, dtype: torch.dtype, sizes: tuple[int, ...]
    ) -> None:
        """Whichever of them it is."""
        parts = [random_codes(kind, size, 192, seed=size) for size in sizes]
        for number, part in enumerate(parts):
            coded = [other for other in parts if other is not part]
            if not isinstance(built, SupportsCodes):
                pytest.skip(f"{self.method} takes no codes")
            made = built.create_codes(sum(sizes), 192, [other.layout for other in coded])
            if not isinstance(made, SupportsPlainRows):
                pytest.skip(f"{self.method} takes no plain rows beside codes")
            weight = [other.values() for other in parts]
            plain = weight[number] = weight[number].to(dtype).to(built.storage_dtype(dtype))
            for first, other in zip((0, sizes[0], sizes[0] + sizes[1]), parts, strict=True):
                if other is part:
                    made.load_rows(plain, first)
                else:
                    made.load_codes(other, first)
            self.check_codes(made, torch.cat([each.float() for each in weight]))

    @pytest.mark.parametrize("kind", CODES)
    def test_each_expert_multiplies_its_rows_by_codes(self, built: BuiltLinearMethod, kind: str) -> None:
        if not isinstance(built, SupportsCodes):
            pytest.skip(f"{self.method} takes no codes")
        experts = [[random_codes(kind, rows, 96, seed=e) for rows in (40, 33)] for e in range(5)]
        made = built.create_expert_codes(5, 73, 96, [part.layout for part in experts[0]])
        if made is None:
            pytest.skip(f"{self.method} does not take experts of {experts[0][0].layout}")
        for e, (first, second) in enumerate(experts):
            made.load_codes(e, second, 40)
            made.load_codes(e, first, 0)
        weights = torch.stack([torch.cat([part.values() for part in parts]) for parts in experts])
        biases = random(5, 73)
        for counts in ([0, 1, 2, 40, 0], [97, 0, 5, 1, 3], [0, 0, 0, 0, 0]):
            x, owners = random(sum(counts), 96 + 3)[:, 2:-1], torch.arange(5).repeat_interleave(torch.tensor(counts))
            expected = torch.einsum("ni,noi->no", x.double(), weights.double()[owners])
            for bias in (None, biases):
                wanted = expected if bias is None else expected + bias.double()[owners]
                result = made.multiply(x, torch.tensor(counts).cumsum(0), bias)
                torch.testing.assert_close(result.double(), wanted, atol=self.tolerance * 96**0.5, rtol=0)

    @pytest.mark.parametrize("inputs", [30, 64])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_not_finite_stays_not_finite(self, built: BuiltLinearMethod, inputs: int, dtype: torch.dtype) -> None:
        packed = self.packed(built, (random(20, inputs).abs() + 1).to(dtype))
        x = random(3, inputs).abs()
        x[1, 7] = float("inf")
        x[2, 7] = float("nan")
        out = packed.multiply(x, None)
        assert out[0].isfinite().all()
        assert (out[1] == float("inf")).all()
        assert out[2].isnan().all()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
