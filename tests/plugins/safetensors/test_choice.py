from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.safetensors.choice import choose_weights


def chosen(names: list[str], weight_map: Any = None) -> list[str]:
    def read_index(name: str) -> dict[str, Any]:
        assert name in names
        return {"weight_map": weight_map}

    return choose_weights(names, read_index, "org/m")


def test_a_single_file() -> None:
    assert chosen(["config.json", "model.safetensors", "onnx/model.safetensors"]) == ["model.safetensors"]


def test_an_index_is_preferred() -> None:
    names = ["a-1.safetensors", "a-2.safetensors", "extra.safetensors", "model.safetensors.index.json"]
    assert chosen(names, {"x": "a-2.safetensors", "y": "a-1.safetensors"}) == ["a-1.safetensors", "a-2.safetensors"]


def test_an_index_that_was_left_behind_is_not_read() -> None:
    names = ["model.safetensors", "model.safetensors.index.json"]
    assert chosen(names, {"x": "gone-1.safetensors"}) == ["model.safetensors"]
    assert chosen([*names, "b.safetensors"], {"x": "model.safetensors", "y": "b.safetensors"}) == [
        "b.safetensors",
        "model.safetensors",
    ]


def test_consolidated_is_skipped_only_among_others() -> None:
    assert chosen(["consolidated.safetensors"]) == ["consolidated.safetensors"]
    assert chosen(["consolidated.safetensors", "b.safetensors", "a.safetensors"]) == ["a.safetensors", "b.safetensors"]
    both = ["consolidated.0.safetensors", "consolidated.1.safetensors"]
    assert chosen(both) == both


def test_missing_shards_are_named() -> None:
    names = ["model.safetensors.index.json", "a.safetensors"]
    with pytest.raises(ModelError, match=r"lists files that are not there: b\.safetensors;"):
        chosen(names, {"x": "a.safetensors", "y": "b.safetensors"})
    with pytest.raises(ModelError, match=r"lists files that are not there: \.\./b\.safetensors"):
        chosen([*names, "../b.safetensors"], {"y": "../b.safetensors"})
    with pytest.raises(ModelError, match="has no weight_map"):
        chosen(names, None)


BESIDE = {
    "an adapter": ["adapter_model.safetensors", "adapter_config.json"],
    "what training left": ["optimizer.pt", "training_state.safetensors", "training_args.bin", "rng_state.pth"],
    "another precision": ["model.fp16.safetensors", "model.bf16-00001-of-00002.safetensors"],
    "another precision's index": ["model.fp16.safetensors.index.json", "model.fp16-00001-of-00001.safetensors"],
    "the vendor's own format": ["consolidated.safetensors", "consolidated.safetensors.index.json", "params.json"],
    "old shards": ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
    "other formats": ["pytorch_model.bin", "model.onnx", "openvino_model.bin", "tf_model.h5", "flax_model.msgpack"],
    "folders": ["original/consolidated.00.pth", "original/model.safetensors", "onnx/model.safetensors"],
    "another model's": ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json"],
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_lies_beside_the_weights_is_left_alone(what: str) -> None:
    assert chosen(["model.safetensors", *BESIDE[what]]) == ["model.safetensors"]
    shards = [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    names = [*shards, "model.safetensors.index.json", *BESIDE[what]]
    assert chosen(names, {str(i): name for i, name in enumerate(shards)}) == shards


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.fp16.safetensors", "adapter_model.safetensors"], ["model.fp16.safetensors"]),
        (["weights.safetensors", "optimizer.safetensors", "consolidated.00.safetensors"], ["weights.safetensors"]),
        (["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors", "lora.safetensors"], ["m-0*"]),
        (["consolidated-00001-of-00002.safetensors", "consolidated-00002-of-00002.safetensors"], ["consolidated*"]),
    ],
)
def test_weights_of_another_name_are_found(names: list[str], expected: list[str]) -> None:
    assert chosen(names) == [name for name in names if any(fnmatch(name, pattern) for pattern in expected)]


def test_shards_without_an_index_must_all_be_there() -> None:
    with pytest.raises(ModelError, match=r"has 1 of the 2 files that m-00002-of-00002\.safetensors is one of"):
        chosen(["m-00002-of-00002.safetensors"])


def test_what_lies_beside_weights_is_none() -> None:
    assert chosen(["adapter_model.safetensors", "config.json"]) == []
    assert chosen(["config.json"]) == []
