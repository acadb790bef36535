from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.encoding import check_supported, settle_encoding, stored_encoding
from maxserve.plugins.safetensors.files import SafetensorsFile


def saved(path: Path, **tensors: torch.Tensor) -> SafetensorsFile:
    file = str(path / f"{'-'.join(tensors)}.safetensors")
    save_file(tensors, file)
    return SafetensorsFile(file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_headers_tell_the_encoding(tmp_path: Path, dtype: torch.dtype) -> None:
    assert stored_encoding([saved(tmp_path, w=torch.zeros(4, dtype=dtype))]) == str(dtype).removeprefix("torch.")


def test_most_bytes_decide_and_index_buffers_do_not_count(tmp_path: Path) -> None:
    big = saved(tmp_path, big=torch.zeros(100, dtype=torch.bfloat16), ids=torch.arange(500))
    norm = saved(tmp_path, norm=torch.zeros(8))
    assert stored_encoding([norm, big]) == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.int8, "I8"), (torch.uint8, "U8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int32, "I32")]
)
def test_other_types_are_named(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    file = saved(tmp_path, good=torch.zeros(100), bad=torch.zeros(4).to(dtype))
    with pytest.raises(ModelError, match=f"type {name} are not supported yet .tensor bad"):
        stored_encoding([file])


def test_files_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights in"):
        stored_encoding([saved(tmp_path, ids=torch.arange(3))])


def test_what_is_stored_is_served() -> None:
    assert settle_encoding("float16", None, cast=False, ref="m") == "float16"
    assert settle_encoding("bfloat16", "bfloat16", cast=False, ref="m") == "bfloat16"
    assert settle_encoding("bfloat16", "bfloat16", cast=True, ref="m") == "bfloat16"


def test_another_encoding_needs_the_cast_option() -> None:
    with pytest.raises(ModelError, match=r"m is stored as float32, not as the bfloat16.*bf6-bidirectional-cast"):
        settle_encoding("float32", "bfloat16", cast=False, ref="m")
    for stored in ("float32", "bfloat16"):
        for wanted in ("float32", "bfloat16"):
            assert settle_encoding(stored, wanted, cast=True, ref="m") == wanted
    with pytest.raises(ModelError, match="converts between float32 and bfloat16 only, and m is stored as float16"):
        settle_encoding("float16", "float32", cast=True, ref="m")


@pytest.mark.parametrize("cast", [False, True])
def test_encodings_that_nothing_rounds_to_are_refused(cast: bool) -> None:
    with pytest.raises(
        ModelError, match=r"and is not rounded to the q2_k of .*, only to q4_k; use a checkpoint in q2_k"
    ):
        settle_encoding("float32", "q2_k", cast=cast, ref="m", roundable=("q4_k",))
    with pytest.raises(ModelError, match=r"use a checkpoint in nf4 or another value$"):  # no GGUF file has it
        settle_encoding("float32", "nf4", cast=cast, ref="m", roundable=("q4_k",))
    with pytest.raises(ModelError, match="only to nothing"):
        settle_encoding("float32", "q4_k", cast=cast, ref="m")
    for name in ("gptq", "float4_e2m1fnx2", "awq", "nvfp4"):
        with pytest.raises(ModelError, match=f"m is stored as float32, and {name} of .* needs calibration"):
            settle_encoding("float32", name, cast=cast, ref="m", roundable=("q4_k",))


def test_what_is_rounded_is_stored_as_it_was() -> None:
    for stored in ("float32", "bfloat16", "float16"):
        assert settle_encoding(stored, "q4_k", cast=False, ref="m", roundable=("q4_k", "q8_0")) == stored
    with pytest.raises(ModelError, match=r"and q4_k of .* rounds what is stored; drop the cast"):
        settle_encoding("float32", "q4_k", cast=True, ref="m", roundable=("q4_k",))


def test_quantized_checkpoints_are_served_as_they_are() -> None:
    assert settle_encoding("bfloat16", None, cast=False, ref="m", packed="q4_k") == "bfloat16"
    assert settle_encoding("bfloat16", "q4_k", cast=False, ref="m", packed="q4_k") == "bfloat16"
    for other in ("q6_k", "bfloat16"):
        with pytest.raises(ModelError, match=f"is stored as q4_k, not as the {other} of --quantization-encoding"):
            settle_encoding("bfloat16", other, cast=False, ref="m", packed="q4_k")


def test_the_architecture_must_take_the_encoding() -> None:
    check_supported("float32", ("float32",), "A")
    check_supported("float16", ("bfloat16",), "A")
    with pytest.raises(ModelError, match="architecture A does not support bfloat16 weights, only float32"):
        check_supported("bfloat16", ("float32",), "A")
    with pytest.raises(ModelError, match="does not support float16"):
        check_supported("float16", ("float32",), "A")
