"""`max quantize`: what it writes, and what it does not replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from maxserve.interfaces.errors import ModelError
from maxserve.plugins.gguf.quantization import GgufQuantization
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.tiny_configs import tiny_config

FLOAT8 = ("--encoding", "float8_e4m3fn")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"])
    model: Any = randomised(ArchitectureChecks.reference(config))
    model.save_pretrained("plain")
    return tmp_path / "plain"


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_it_writes_a_folder_and_says_how_large_it_is(max_cli: Any, plain: Path) -> None:
    ran = max_cli("quantize", "plain", "rounded", *FLOAT8)
    assert ran.status == 0, ran.err
    assert ran.out.startswith("rounded: ")
    assert " instead of " in ran.out
    weights = load_file(plain.parent / "rounded" / "model.safetensors")
    assert weights["model.layers.0.self_attn.q_proj.weight"].dtype is torch.float8_e4m3fn
    assert names(plain.parent) == ["plain", "rounded"]


def test_a_folder_is_replaced_where_that_is_asked_for(max_cli: Any, plain: Path) -> None:
    out = plain.parent / "rounded"
    out.mkdir()
    (out / "config.json").write_text("old")
    ran = max_cli("quantize", "plain", "rounded", *FLOAT8)
    assert ran.status == 2
    assert "rounded exists; replace it with --force" in ran.err
    assert names(out) == ["config.json"]
    assert max_cli("quantize", "plain", "rounded", *FLOAT8, "--force").status == 0
    assert (out / "model.safetensors").is_file()
    assert names(plain.parent) == ["plain", "rounded"]


def test_what_is_no_model_is_never_replaced(max_cli: Any, plain: Path) -> None:
    (plain.parent / "letters").mkdir()
    (plain.parent / "letters" / "a.txt").write_text("dear")
    for out, why in (
        ("letters", "is not the folder of a model"),
        ("plain", "is, or holds, the checkpoint that is read"),
        (".", "is, or holds, the checkpoint that is read"),
        ("nowhere/rounded", "there is no folder"),
    ):
        ran = max_cli("quantize", "plain", out, *FLOAT8, "--force")
        assert ran.status == 2
        assert why in ran.err
    assert names(plain.parent / "letters") == ["a.txt"]
    assert "model.safetensors" in names(plain)


def test_what_is_read_through_links_is_never_replaced(max_cli: Any, plain: Path) -> None:
    """As the folders of a repository in the cache of Hugging Face hold links alone."""
    linked = plain.parent / "linked"
    linked.mkdir()
    for name in names(plain):
        (linked / name).symlink_to(plain / name)
    ran = max_cli("quantize", "linked", "plain", *FLOAT8, "--force")
    assert ran.status == 2
    assert "plain is, or holds, the checkpoint that is read" in ran.err
    weights = load_file(plain / "model.safetensors")
    assert weights["model.layers.0.self_attn.q_proj.weight"].dtype is torch.float32


@pytest.mark.parametrize("name", ["new", "old", "replaced"])
def test_a_folder_of_any_name_is_replaced(name: str, max_cli: Any, plain: Path) -> None:
    out = plain.parent / name
    out.mkdir()
    (out / "config.json").write_text("old")
    ran = max_cli("quantize", "plain", name, *FLOAT8, "--force")
    assert ran.status == 0, ran.err
    assert names(plain.parent) == sorted(["plain", name])


def test_what_was_there_comes_back_where_the_new_model_cannot_be_put_in_its_place(
    max_cli: Any, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = plain.parent / "rounded"
    out.mkdir()
    (out / "config.json").write_text("old")
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if (path / "model.safetensors").is_file():
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    assert max_cli("quantize", "plain", "rounded", *FLOAT8, "--force").status != 0
    assert names(plain.parent) == ["plain", "rounded"]
    assert (out / "config.json").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError("broken")])
def test_nothing_is_left_of_what_was_interrupted(
    error: Any, max_cli: Any, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(checkpoint: Any, folder: Path, rounds: Any) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("half")
        raise error

    monkeypatch.setattr("maxserve.plugins.quantization.written.write_folder", interrupted)
    out = plain.parent / "rounded"
    out.mkdir()
    (out / "config.json").write_text("old")
    assert max_cli("quantize", "plain", "rounded", *FLOAT8, "--force").status != 0
    assert names(plain.parent) == ["plain", "rounded"]
    assert (out / "config.json").read_text() == "old"


def test_encodings_that_are_not_written_are_refused_by_name(
    max_cli: Any, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GgufQuantization, "write_file")
    ran = max_cli("quantize", "plain", "rounded.gguf", "--encoding", "q4_k")
    assert ran.status == 2
    assert "--encoding q4_k: the plugin that rounds to it writes no checkpoints" in ran.err
    assert "max serve --quantization-encoding q4_k" in ran.err
    assert names(plain.parent) == ["plain"]


def test_what_is_rounded_already_is_refused(max_cli: Any, plain: Path) -> None:
    assert max_cli("quantize", "plain", "rounded", *FLOAT8).status == 0
    ran = max_cli("quantize", "rounded", "again", *FLOAT8)
    assert ran.status != 0
    assert "rounded" in ran.err
    assert names(plain.parent) == ["plain", "rounded"]


def test_values_that_are_no_numbers_are_refused_by_name(max_cli: Any, plain: Path) -> None:
    weights = load_file(plain / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 2] = float("nan")
    save_file(weights, plain / "model.safetensors", metadata={"format": "pt"})
    ran = max_cli("quantize", "plain", "rounded", *FLOAT8)
    assert ran.status != 0
    assert "model.layers.1.mlp.up_proj.weight: some of its values are no numbers" in ran.err
    assert names(plain.parent) == ["plain"]
