"""Adapters in the caller's own process, and in `max generate`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

import maxserve
from maxserve.core.interfaces.errors import RequestError, SettingsError
from tests.plugins.lora.conftest import Base

ASKED = {"max_tokens": 8, "temperature": 0.0, "ignore_eos": True}
PROMPT = "the quick"


@pytest.fixture(scope="module")
def base(model_folder: Callable[..., Path]) -> Base:
    made = Base(model_folder(), transformers.LlamaForCausalLM)
    made.adapter("one", seed=1)
    made.adapter("two", seed=2)
    return made


def test_an_adapter_for_all_or_by_name(base: Base) -> None:
    plain = maxserve.LLM(str(base.folder)).generate(PROMPT, **ASKED)[0]
    by_name = maxserve.LLM(str(base.folder), lora={name: str(path) for name, path in base.adapters.items()})
    none, one, two = by_name.generate([PROMPT] * 3, lora=["", "one", "two"], **ASKED)
    assert none.tokens == plain.tokens == by_name.generate(PROMPT, **ASKED)[0].tokens
    assert len({none.tokens, one.tokens, two.tokens}) == 3
    llm = maxserve.LLM(str(base.folder), lora=str(base.adapters["one"]))
    assert llm.generate(PROMPT, **ASKED)[0].tokens == one.tokens
    assert llm.generate(PROMPT, lora="", **ASKED)[0].tokens == plain.tokens
    streamed = [token for delta in llm.stream(prompt=PROMPT, params=llm.params(**ASKED)) for token in delta.tokens]
    assert tuple(streamed) == one.tokens


def test_a_folder_may_have_an_equals_sign_in_its_path(base: Base, tmp_path: Path) -> None:
    """As those of runs that are named by what they were run with."""
    folder = shutil.copytree(base.adapters["one"], tmp_path / "lr=0.1" / "step=5")
    expected = maxserve.LLM(str(base.folder), lora=str(base.adapters["one"])).generate(PROMPT, **ASKED)[0].tokens
    assert maxserve.LLM(str(base.folder), lora=str(folder)).generate(PROMPT, **ASKED)[0].tokens == expected
    named = maxserve.LLM(str(base.folder), lora={"x": str(folder)})
    assert named.generate(PROMPT, lora="x", **ASKED)[0].tokens == expected
    for half in ("=/a", "a="):
        with pytest.raises(SettingsError, match=f"--lora-paths {half}: a name or a path is missing"):
            maxserve.LLM(str(base.folder), enable_lora=True, lora_paths=(half,))


def test_what_is_not_there_is_refused(base: Base) -> None:
    llm = maxserve.LLM(str(base.folder), lora={"one": str(base.adapters["one"])})
    with pytest.raises(RequestError, match="there is no adapter 'two'"):
        llm.generate(PROMPT, lora="two")
    with pytest.raises(RequestError, match="2 adapters for 1 prompts"):
        llm.generate(PROMPT, lora=["one", "one"])
    with pytest.raises(SettingsError, match="no folder '/nothing'"):
        maxserve.LLM(str(base.folder), lora="/nothing")
    with pytest.raises(SettingsError, match=r"^--lora-paths: that changes nothing without --enable-lora"):
        maxserve.LLM(str(base.folder), lora_paths=("a=b",))
    with pytest.raises(SettingsError, match=r"'\.\./a' is no name for an adapter"):
        maxserve.LLM(str(base.folder), enable_lora=True, lora_paths=(f"../a={base.adapters['one']}",))
    with pytest.raises(SettingsError, match="no folder '/not-there'"):
        maxserve.LLM(str(base.folder), enable_lora=True, lora_dir="/not-there")
    with pytest.raises(SettingsError, match="two adapters have the name a"):
        maxserve.LLM(str(base.folder), enable_lora=True, lora_paths=("a=b", "a=c"))


def test_ranks_above_the_largest_are_refused(base: Base) -> None:
    """Those of the adapters are 4."""
    paths = {"one": str(base.adapters["one"])}
    maxserve.LLM(str(base.folder), lora=paths, max_lora_rank=4)
    with pytest.raises(SettingsError, match=r"the rank of model\.layers\.\S+ is 4; --max-lora-rank allows 3"):
        maxserve.LLM(str(base.folder), lora=paths, max_lora_rank=3)


def test_generate_answers_with_an_adapter(base: Base, max_cli: Any) -> None:
    def tokens(*options: str) -> str:
        command = ["generate", "--model", str(base.folder), "--prompt", PROMPT, "--no-detokenize", "--ignore-eos"]
        ran = max_cli(*command, "--max-new-tokens", "8", "--temperature", "0", *options)
        assert ran.status == 0, ran.err
        found: str = ran.out.splitlines()[0]
        return found

    one = str(base.adapters["one"])
    adapted = tokens("--lora", one)
    assert adapted != tokens()
    assert adapted == tokens("--enable-lora", "--lora-paths", f"x={one}", "--lora", "x")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_num_loras": 4}, "--max-cpu-loras is 1 and --max-num-loras is 4"),
        ({"lora_paths": ("a=.", "b=.")}, "--max-cpu-loras is 1 and --lora-paths has 2"),
    ],
)
def test_memory_for_fewer_than_must_be_there_is_refused(base: Base, options: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        maxserve.LLM(str(base.folder), **{"enable_lora": True, "max_cpu_loras": 1, **options})
