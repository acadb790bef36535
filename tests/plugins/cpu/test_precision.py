"""Products with bfloat16 weights: exact, or of rows that are rounded once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maxserve.interfaces.codes import Codes
from maxserve.interfaces.component import Context
from maxserve.interfaces.errors import SettingsError
from maxserve.interfaces.linear import LinearContext
from maxserve.llm import LLM
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.library import library_for
from maxserve.plugins.cpu.linear import PanelMethod

pytestmark = pytest.mark.compiler

PROMPTS = [[1, 2, 3], [5, *range(40)], [9], [*range(60, 77)]]


def method(precision: Any) -> PanelMethod:
    sections = {Config: Config(precision=precision)}
    return PanelMethod(LinearContext(compute=torch.float32, device=torch.device("cpu"), sections=sections))


def rounds() -> bool:
    """Whether this processor multiplies bfloat16, so that the default is to round."""
    library = library_for(Context())
    return bool(library.ms_matrix_units() or library.ms_dot_units())


def product(precision: str, x: Tensor, weight: Tensor) -> Tensor:
    packed = method(precision).create(*weight.shape, torch.bfloat16)
    assert packed is not None
    packed.load_rows(weight, 0)
    return packed.multiply(x, None)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("inputs", [64, 577])
def test_rows_are_rounded_once_to_nearest_even_and_summed_in_float32(inputs: int) -> None:
    """Where they are rounded at all: the error is that of float32 sums of rounded rows."""
    x, weight = random(40, inputs), random(70, inputs).bfloat16()
    x[0, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20])  # ties, and beyond one
    rows = x.bfloat16() if rounds() else x
    expected = rows.double() @ weight.double().T
    torch.testing.assert_close(product("auto", x, weight).double(), expected, atol=2e-5 * inputs**0.5, rtol=0)


@pytest.mark.parametrize("precision", ["auto", "exact"])
@pytest.mark.parametrize("inputs", [96, 577])
def test_a_row_has_its_bits_alone_in_a_batch_and_in_a_chunk(precision: str, inputs: int) -> None:
    x, weight = random(200, inputs), random(515, inputs).bfloat16()
    whole = product(precision, x, weight)
    for first, rows in ((0, 1), (3, 17), (100, 64), (199, 1)):
        assert torch.equal(product(precision, x[first : first + rows], weight), whole[first : first + rows])


def test_what_is_chosen_and_why_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="maxserve"):
        method("auto")
        assert ("rounded to bfloat16" if rounds() else "as float32") in caplog.text
        assert "--native.precision auto: " in caplog.text
        caplog.clear()
        method("exact")
        assert "by bfloat16 weights as float32 (--native.precision exact: asked for)" in caplog.text


@pytest.mark.skipif(not rounds(), reason="refused where the processor does not multiply bfloat16")
def test_fast_is_said_to_round_rows_for_quantized_weights_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="maxserve"):
        method("fast")
    assert "by bfloat16 and quantized weights rounded to bfloat16, with sums in float32" in caplog.text


def test_fast_is_refused_where_it_would_gain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def ms_matrix_units(self) -> int:
            return 0

        ms_dot_units = ms_byte_units = ms_matrix_units

    monkeypatch.setattr("maxserve.plugins.cpu.linear.library_for", lambda context: Without())
    with pytest.raises(SettingsError, match=r"--native\.precision fast: .*AVX512_BF16 or AMX.*use auto or exact"):
        method("fast")
    assert method("auto").storage_dtype(torch.bfloat16) is torch.bfloat16


def logprobs_by_transformers(folder: Path, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """[texts, tokens - 1] of each token after those before it."""
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1].double()
    found: Tensor = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    return found


def test_logits_are_closer_to_float64_than_those_of_transformers_in_bfloat16(tiny_llama: Path) -> None:
    """Since the residual stream, norms, softmax and sums are in float32 all the same."""
    tokens = torch.randint(128, (8, 100), generator=torch.Generator().manual_seed(1))
    exact = logprobs_by_transformers(tiny_llama, tokens, torch.float64)
    theirs = (logprobs_by_transformers(tiny_llama, tokens, torch.bfloat16) - exact).square().mean().sqrt()
    done = LLM(str(tiny_llama)).generate(tokens.tolist(), max_tokens=1, prompt_logprobs=0)
    ours = torch.tensor([[each.logprob for each in text.prompt_logprobs] for text in done], dtype=torch.float64)
    error = (ours - exact).square().mean().sqrt()
    print(f"ours {error:.4f}, theirs {theirs:.4f}")
    assert error < 0.9 * theirs


@pytest.mark.parametrize("precision", ["auto", "exact"])
def test_a_text_does_not_depend_on_its_batch(
    tiny_llama: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="maxserve"):
        llm = LLM(str(tiny_llama), native__precision=precision)
    assert f"--native.precision {precision}: " in caplog.text
    together = [done.tokens for done in llm.generate(PROMPTS, max_tokens=20, temperature=0.0)]
    alone = [llm.generate([prompt], max_tokens=20, temperature=0.0)[0].tokens for prompt in PROMPTS]
    assert together == alone


@pytest.mark.parametrize("levels", [16, 32, 64, 256])
@pytest.mark.parametrize("rows", [1, 3, 5, 40])
def test_rows_are_rounded_for_codes_where_that_is_asked_for(levels: int, rows: int) -> None:
    if not rounds():
        pytest.skip("this processor has no products of bfloat16")
    codes = torch.randint(levels, (70, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(levels))
    own = Codes(codes=codes, table=torch.arange(float(levels)) - levels // 2, group=32, scales=random(70, 3).exp())
    x, weight = random(rows, 96), own.values().double()
    for precision, expected in (("fast", x.bfloat16().double()), ("auto", x.double())):
        made = method(precision).create_codes(70, 96, [own.layout])
        assert made is not None
        made.load_codes(own, 0)
        torch.testing.assert_close(made.multiply(x, None).double(), expected @ weight.T, atol=2e-3, rtol=1e-5)


def test_rows_are_not_rounded_for_codes_that_mean_what_bfloat16_has_not() -> None:
    if not rounds():
        pytest.skip("this processor has no products of bfloat16")
    codes = torch.randint(16, (40, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    own = Codes(codes=codes, table=random(16), group=32, scales=torch.ones(40, 2))
    made = method("fast").create_codes(40, 64, [own.layout])
    assert made is not None
    made.load_codes(own, 0)
    x = random(3, 64)
    torch.testing.assert_close(made.multiply(x, None).double(), x.double() @ own.values().double().T, atol=1e-4, rtol=0)
