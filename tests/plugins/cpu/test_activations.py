"""Rows that are whole numbers of 8 or 16 bits when quantized weights are multiplied by them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes
from maxserve.interfaces.errors import SettingsError, Unavailable
from maxserve.interfaces.linear import LinearContext
from maxserve.llm import LLM
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.linear import PanelMethod
from maxserve.testing.codes import CODES, random_codes

pytestmark = pytest.mark.compiler

ERRORS = {"int16": 1e-4, "int8": 1e-2}  # relative, root mean square of a product
AS_FLOATS = {"4 bits by a table", "5 bits by a table", "8 bits by a table", "floats of 8 bits"}
SIZES = [(1, 32), (37, 200), (129, 640)]  # outputs, inputs
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 33)


def method(activations: Any) -> PanelMethod:
    sections = {Config: Config(activations=activations)}
    return PanelMethod(LinearContext(compute=torch.float32, device=torch.device("cpu"), sections=sections))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def loaded(activations: str, codes: Codes) -> Any:
    made = method(activations).create_codes(*codes.codes.shape, [codes.layout])
    assert made is not None
    made.load_codes(codes, 0)
    return made


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("activations", ERRORS)
@pytest.mark.parametrize("kind", CODES)
def test_products_are_near_those_of_float64_and_a_row_does_not_depend_on_the_others(
    activations: str, kind: str
) -> None:
    for size in SIZES:
        codes = random_codes(kind, *size)
        made, x = loaded(activations, codes), random(max(ROWS), size[1] + 3)[:, 2:-1]
        whole = made.multiply(x, None)
        error = relative_error(whole, x.double() @ codes.values().double().T)
        assert error < (1e-6 if kind in AS_FLOATS else ERRORS[activations])
        if kind not in AS_FLOATS:
            assert error > ERRORS[activations] / 100  # they are what was asked for
        for rows in ROWS:
            assert torch.equal(made.multiply(x[:rows], None), whole[:rows])
            assert torch.equal(made.multiply(x[-rows:], None), whole[-rows:])


@pytest.mark.parametrize("activations", ERRORS)
def test_outliers_of_a_span_cost_no_other_span_anything(activations: str) -> None:
    codes = random_codes("4 bits", 40, 128)
    x = random(5, 128)
    x[:, 3] = 1e4
    weight = codes.values().double()
    expected = x[:, 32:].double() @ weight[:, 32:].T
    x[:, :32] = 0
    assert relative_error(loaded(activations, codes).multiply(x, None), expected) < ERRORS[activations]


@pytest.mark.parametrize("activations", ERRORS)
def test_rows_of_nothing_and_of_no_numbers(activations: str) -> None:
    made, x = loaded(activations, random_codes("8 bits", 20, 96)), random(4, 96)
    expected = made.multiply(x, None)
    x[0], x[1, 40], x[2, 95] = 0.0, float("nan"), float("inf")
    found = made.multiply(x, None)
    assert (found[0] == 0).all()
    assert found[1:3].isnan().all()
    assert torch.equal(found[3], expected[3])


@pytest.mark.parametrize("table", ["iq4_nl", "e2m1"])
def test_tables_of_whole_numbers_and_of_halves_are_looked_up(table: str) -> None:
    values = {
        "iq4_nl": [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
        "e2m1": [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6],
    }[table]
    codes = torch.randint(16, (70, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    own = Codes(codes=codes, table=torch.tensor(values, dtype=torch.float32), group=32, scales=random(70, 3).exp())
    x = random(6, 96)
    made = loaded("int16", own)
    error = relative_error(made.multiply(x, None), x.double() @ own.values().double().T)
    assert 1e-6 < error < ERRORS["int16"]
    assert torch.equal(made.embedding(torch.arange(70)), own.values())


def test_what_is_chosen_is_said_and_what_stays_float32_once_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="maxserve"):
        built = method("int8")
        for kind in ("4 bits", "4 bits by a table", "floats of 8 bits", "floats of 8 bits"):
            codes = random_codes(kind, 8, 64 if kind == "4 bits by a table" else 128)
            made = built.create_codes(*codes.codes.shape, [codes.layout])
            assert made is not None
            made.load_codes(codes, 0)
    assert "by quantized weights as int8 with a scale for at most 32 inputs (--native.activations int8" in caplog.text
    assert caplog.text.count("float8_e4m3fn are multiplied by float32") == 1
    assert caplog.text.count("of 4 bits by a table are multiplied by float32") == 1


def test_refused_where_kernels_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(context: Any) -> Any:
        raise Unavailable("there is no C++ compiler")

    monkeypatch.setattr("maxserve.plugins.cpu.linear.library_for", unavailable)
    with pytest.raises(SettingsError, match=r"--native\.activations int8 .*no C\+\+ compiler; leave the option out"):
        method("int8")
    with pytest.raises(Unavailable):
        method("float32")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"linear_method": "none"}, "not for --linear-method none"),
        ({"use_subgraphs": False}, "--no-use-subgraphs forbids"),
        ({"devices": "gpu:0"}, "is for CPUs"),
        ({"native__precision": "fast"}, "--native.precision fast rounds rows to bfloat16"),
    ],
    ids=str,
)
def test_refused_where_it_has_no_meaning(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        LLM(str(tmp_path), native__activations="int16", **options)


@pytest.mark.parametrize("activations", ERRORS)
def test_experts_are_multiplied_likewise(activations: str) -> None:
    experts = [random_codes("4 bits in blocks with offsets", 40, 256, seed=seed) for seed in range(3)]
    made = method(activations).create_expert_codes(3, 40, 256, [experts[0].layout])
    assert made is not None
    for expert, codes in enumerate(experts):
        made.load_codes(expert, codes, 0)
    x, counts = random(20, 256), [1, 0, 19]
    owners = torch.arange(3).repeat_interleave(torch.tensor(counts))
    weights = torch.stack([codes.values() for codes in experts]).double()
    found = made.multiply(x, torch.tensor(counts).cumsum(0), None)
    error = relative_error(found, torch.einsum("ni,noi->no", x.double(), weights[owners]))
    assert ERRORS[activations] / 100 < error < ERRORS[activations]
    alone = loaded(activations, experts[2]).multiply(x[1:], None)
    assert torch.equal(found[1:], alone)


def test_parts_of_a_weight_may_be_of_several_forms() -> None:
    kinds = [kind for kind in CODES if kind != "4 bits with zeros and an order"]
    parts = [random_codes(kind, 5 + 13 * i, 256, seed=i) for i, kind in enumerate(kinds)]
    outputs = sum(len(part.codes) for part in parts)
    made = method("int16").create_codes(outputs, 256, [part.layout for part in parts])
    assert made is not None
    first = 0
    for part in parts:
        made.load_codes(part, first)
        first += len(part.codes)
    x, weight = random(7, 256), torch.cat([part.values() for part in parts])
    assert relative_error(made.multiply(x, None), x.double() @ weight.double().T) < ERRORS["int16"]
    assert torch.equal(made.embedding(torch.arange(outputs)), weight)


def logprobs(llm: LLM, texts: Tensor) -> Tensor:
    done = llm.generate(texts.tolist(), max_tokens=1, prompt_logprobs=0)
    return torch.tensor([[each.logprob for each in text.prompt_logprobs] for text in done])


def test_compiled_layers_take_the_same_way_and_a_text_does_not_depend_on_its_batch(tiny_llama: Path) -> None:
    texts = torch.randint(128, (4, 40), generator=torch.Generator().manual_seed(1))

    def served(activations: str, **options: Any) -> LLM:
        options |= {"native__activations": activations, "native__precision": "exact"}
        return LLM(str(tiny_llama), quantization_encoding="q8_0", **options)

    compiled = served("int8")
    exact, found = logprobs(served("float32"), texts), logprobs(compiled, texts)
    as_written = logprobs(served("int8", layer_compiler="none"), texts)
    for one, other in (
        (found, exact),
        (as_written, exact),
        (found, as_written),
    ):  # numbers next to ties are rounded apart
        difference = float((one - other).square().mean().sqrt())
        print(f"{difference:.5f}")
        assert (1e-3 if other is exact else 0) < difference < 0.3
    finer, as_written = logprobs(served("int16"), texts), logprobs(served("int16", layer_compiler="none"), texts)
    torch.testing.assert_close(finer, as_written, atol=2e-3, rtol=0)
    assert 1e-6 < (finer - exact).abs().max() < 2e-3
    prompts = [[1, 2, 3], [5, *range(40)], [9]]
    together = [done.tokens for done in compiled.generate(prompts, max_tokens=12, temperature=0.0)]
    assert together == [compiled.generate([p], max_tokens=12, temperature=0.0)[0].tokens for p in prompts]
