"""What cannot be read, or not be made while a model is loaded, is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.errors import ModelError

METHODS = (
    "aqlm",
    "bitnet",
    "eetq",
    "fbgemm_fp8",
    "fp_quant",
    "higgs",
    "hqq",
    "quanto",
    "quark",
    "quip",
    "spqr",
    "vptq",
)


@pytest.mark.parametrize("method", [*METHODS, "torchao", "exl2", "exl3"])
def test_methods_that_are_not_read(method: str, made: Any, serve: Any, tmp_path: Path) -> None:
    made(tmp_path, "LlamaForCausalLM", lambda name, weight: None, {}, {"quant_method": method})
    with pytest.raises(ModelError, match=rf"is quantized \({method}\), which is not supported yet.* gptq"):
        serve(tmp_path, use_subgraphs=False)


@pytest.mark.parametrize("encoding", ["gptq", "awq", "float4_e2m1fnx2"])
def test_what_needs_texts_is_not_made_of_plain_weights(encoding: str, made: Any, serve: Any, tmp_path: Path) -> None:
    made(tmp_path, "LlamaForCausalLM", lambda name, weight: None, {}, {})
    with pytest.raises(ModelError, match=f"and {encoding} of --quantization-encoding needs calibration"):
        serve(tmp_path, use_subgraphs=False, quantization_encoding=encoding)
