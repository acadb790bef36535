"""Models whose weights, config and tokenizer are one file of a plugin's format, served as their safetensors are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file

from maxserve.core.config.settings import ModelSettings
from maxserve.core.loading import location
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.testing.quantization import nibble_plugin, quantize_checkpoint
from maxserve.testing.served import Served
from maxserve.testing.weight_format import CrateFile, crate_plugin, model_contents, write_crate

MODULE = """
from maxserve import WeightFormat, hookimpl

@hookimpl
def maxserve_weight_formats():
    yield WeightFormat(name="crate", build="maxserve.testing.weight_format:CrateFormat", suffixes=(".crate",))
"""
PROMPT = "the quick brown fox"
BODY = {"model": "one", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is unpacked in this process lies there."""
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(location, "_writable", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture
def crate(folder: Path, tmp_path: Path) -> Path:
    """The model of the folder in a file by itself."""
    (tmp_path / "one").mkdir()
    packed(folder, tmp_path / "one" / "model.crate")
    return tmp_path / "one" / "model.crate"


@pytest.fixture
def plugin(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "crates.py").write_text(MODULE)
    return "--custom-architectures", f"{tmp_path}:crates"


def packed(folder: Path, path: Path, **config: Any) -> None:
    contents = model_contents(folder)
    contents["config.json"] = json.dumps(json.loads(contents["config.json"]) | config).encode()
    write_crate(path, load_file(folder / "model.safetensors"), contents)


def test_a_file_with_config_and_tokenizer_answers_as_its_safetensors(
    max_cli: Callable[..., Any], folder: Path, crate: Path, plugin: tuple[str, str], home: Path
) -> None:
    common = ("--prompt", PROMPT, "--max-new-tokens", "12", "--top-k", "1", *plugin)
    wanted = max_cli("generate", "--model", str(folder), *common)
    assert wanted.status == 0, wanted.err
    plan = wanted.err[wanted.err.index("memory plan") :].splitlines()[2:5]
    for ref in (crate, crate.parent):
        ran = max_cli("generate", "--model", str(ref), *common)
        assert ran.status == 0, ran.err
        assert ran.out.partition("\nPrompt size")[0] == wanted.out.partition("\nPrompt size")[0]
        assert ran.err[ran.err.index("memory plan") :].splitlines()[2:5] == plan
    assert len(list(home.iterdir())) == 1, "unpacked once"


def test_a_server_of_one_file(serving: Any, folder: Path, crate: Path, plugin: tuple[str, str]) -> None:
    texts, cards = [], []
    for options in (("--model", str(folder)), ("--model", str(crate)), ("--model", str(crate), "--defer-resolve")):
        with serving(*options, *plugin, "--served-model-name", "one") as server:
            texts.append(httpx.post(f"{server.url}/v1/completions", json=BODY).json()["choices"][0]["text"])
            cards.append(httpx.get(f"{server.url}/v1/models").text)
    assert texts[0] == texts[1] == texts[2]
    assert str(crate.parent) not in cards[1]


def test_the_file_of_a_weight_path(
    plugin_host: Callable[..., Any], folder: Path, crate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the config and the tokenizer of a folder."""
    host = plugin_host(crate_plugin())
    prompt = [[5, 6, 7, 8, 9]]
    (expected,) = Served(folder, host).answers(prompt, 6)
    options: Mapping[str, Any] = {"weight_path": (str(crate),), "quantization_encoding": "float32"}
    (answer,) = Served(folder, host, **options).answers(prompt, 6)
    assert answer == expected
    files = resolve_model(ModelSettings(model_path=str(folder), **options), host, progress=NullProgress())
    assert (files.path, files.weights) == (str(folder), (str(crate),))


def test_quantized_weights_in_such_a_file(plugin_host: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    """Their own config says how they are quantized, also where another config is read."""
    host = plugin_host(crate_plugin(), nibble_plugin())
    nibbles = tmp_path / "nibbles"
    nibbles.mkdir()
    for name, content in (model_contents(folder) | {"model.safetensors": None}).items():
        (nibbles / name).write_bytes((folder / name).read_bytes() if content is None else content)
    quantize_checkpoint(nibbles)
    packed(nibbles, tmp_path / "nibbles.crate")
    prompt = [[5, 6, 7, 8, 9]]
    (expected,) = Served(nibbles, host).answers(prompt, 6)
    (alone,) = Served(tmp_path / "nibbles.crate", host).answers(prompt, 6)
    weights = {"weight_path": (str(tmp_path / "nibbles.crate"),), "quantization_encoding": "float32"}
    (beside,) = Served(folder, host, **weights).answers(prompt, 6)
    assert alone == beside == expected


def test_its_pages_are_shared(crate: Path) -> None:
    """What another process writes into the file is seen: a tensor is no copy."""
    file = CrateFile(str(crate), {})
    with file.open() as read:
        tensor = read("model.embed_tokens.weight")
    content = crate.read_bytes()
    position = content.index(tensor.numpy().tobytes())
    with crate.open("r+b") as stream:
        stream.seek(position)
        stream.write(torch.full_like(tensor, 7.0).numpy().tobytes())
    assert torch.equal(tensor, torch.full_like(tensor, 7.0))


def test_a_file_without_the_plugin_is_refused(max_cli: Callable[..., Any], crate: Path) -> None:
    for ref in (crate, crate.parent):
        ran = max_cli("generate", "--model", str(ref), "--prompt", PROMPT)
        assert ran.status != 0
        assert "is a file without the config of its model" in ran.err or "has no config.json" in ran.err
