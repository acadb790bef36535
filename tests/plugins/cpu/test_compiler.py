"""What becomes of the sources, and what an operator reads when nothing can."""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.errors import Unavailable
from maxserve.llm import LLM
from maxserve.plugins.cpu import Config, library
from maxserve.plugins.cpu.compiler import SOURCES, compiled_library

pytestmark = pytest.mark.compiler


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source that takes no time to compile."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "one.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr("maxserve.plugins.cpu.compiler.SOURCES", folder)
    return folder


def test_compiles_once_and_again_when_something_changed(sources: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    first = compiled_library("", kept)
    made = first.stat().st_mtime_ns
    assert compiled_library("", kept) == first
    assert first.stat().st_mtime_ns == made
    assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert [path.name for path in first.parent.iterdir()] == [first.name]  # no scraps
    (sources / "one.cpp").write_text('extern "C" int one() { return 2; }\n')
    assert compiled_library("", kept) != first


def test_no_compiler(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler \(g\+\+, clang\+\+, c\+\+\); install one, or name it"):
        compiled_library("", str(tmp_path / "kept"))


def test_a_named_compiler_is_the_only_one_tried(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        compiled_library("no-such-compiler", str(tmp_path / "kept"))
    named = shutil.which("g++") or shutil.which("c++")
    assert named is not None
    assert compiled_library(named, str(tmp_path / "kept")).is_file()


def test_sources_that_do_not_compile(sources: Path, tmp_path: Path) -> None:
    (sources / "one.cpp").write_text("this is no C++\n")
    with pytest.raises(Unavailable, match=r"cannot compile the kernels: .*this") as caught:
        compiled_library("", str(tmp_path / "kept"))
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "kept").iterdir()) == []


def test_what_others_may_write_is_not_run(sources: Path, tmp_path: Path) -> None:
    library = compiled_library("", str(tmp_path / "kept"))
    library.chmod(0o777)
    with pytest.raises(Unavailable, match="can be written by others"):
        compiled_library("", str(tmp_path / "kept"))


def test_no_place_to_keep_it(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"no place for compiled kernels.*--native\.folder"):
        compiled_library("", str(tmp_path / "file" / "kept"))


def test_without_a_home_kernels_are_kept_in_a_private_temporary_folder(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    library = compiled_library("", "")
    assert library.parent == tmp_path / f"maxserve-native-{os.getuid()}"
    assert stat.S_IMODE(library.parent.stat().st_mode) == 0o700


def test_what_cannot_be_compiled_is_tried_and_said_once(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sources / "one.cpp").write_text("this is no C++\n")
    tries: list[str] = []
    compiled = library.compiled_library
    monkeypatch.setattr(library, "compiled_library", lambda *names: (tries.append("x"), compiled(*names))[1])
    context = Context(sections={Config: Config(folder=str(tmp_path / "kept"))})
    reasons = set()
    for _ in range(3):
        with pytest.raises(Unavailable, match="which is slower") as caught:
            library.library_for(context)
        reasons.add(str(caught.value))
    assert len(tries) == len(reasons) == 1
    assert str(tmp_path / "kept") not in reasons.pop(), "a folder that is gone is of no use to the reader"


def test_every_source_ships() -> None:
    assert {path.name for path in SOURCES.iterdir()} >= {"vectors.h", "parts.h", "linear.cpp", "layers.cpp"}


SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "eos_token_id": None,
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"head_dim": 16, "sliding_window": 9, "attn_logit_softcapping": 2.0},
    "granite": {"residual_multiplier": 0.3},
}


@pytest.fixture
def tiny_model(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    from tokenizers import Tokenizer, models
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    family = getattr(request, "param", "llama")
    auto: Any = AutoModelForCausalLM
    auto.from_config(AutoConfig.for_model(family, **SIZES, **OWN[family])).save_pretrained(tmp_path)
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    return str(tmp_path)


PROMPTS = [[1, 2, 3], [5, *range(40)], [9]]


def texts(model: str, **options: Any) -> list[tuple[int, ...]]:
    llm = LLM(model, **options)
    return [done.tokens for done in llm.generate(PROMPTS, max_tokens=30, temperature=0.0)]


@pytest.mark.parametrize("tiny_model", OWN, indirect=True)
def test_an_engine_with_and_without(tiny_model: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="maxserve"):
        compiled = texts(tiny_model)
        assert "linear method: native" in caplog.text
        assert "attention backend: native" in caplog.text
        assert "layer compiler: native" in caplog.text
        assert "run as they are written" not in caplog.text
        caplog.clear()
        plain = texts(tiny_model, use_subgraphs=False)
        assert "native" not in caplog.text
        assert "attention backend: torch" in caplog.text
    assert compiled == plain


def test_an_engine_where_there_is_no_compiler(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so once, and serves."""
    expected = texts(tiny_model)
    monkeypatch.setenv("PATH", str(tmp_path))
    library._library_or_reason.cache_clear()
    assert texts(tiny_model) == expected
    assert [r.levelname for r in caplog.records if "no C++ compiler" in r.message] == ["WARNING"]
    library._library_or_reason.cache_clear()
