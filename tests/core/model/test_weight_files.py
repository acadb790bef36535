from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.errors import ModelError
from maxserve.core.model.weight_files import choose_weights, refuse_unreadable


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


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["config.json"], "no weights: there is no .safetensors file"),
        (["pytorch_model.bin"], "only pickle weights"),
        (["model.pth", "config.json"], "only pickle weights"),
        (["m-q4_k_m.gguf"], "only GGUF weights, which are not supported yet"),
    ],
)
def test_says_what_there_is_instead(names: list[str], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        chosen(names)


def test_named_files_must_be_safetensors() -> None:
    refuse_unreadable("a.safetensors")
    for name, reason in [("a.gguf", "not supported yet"), ("a.bin", "pickle"), ("a.npz", "safetensors files only")]:
        with pytest.raises(ModelError, match=reason):
            refuse_unreadable(name)
