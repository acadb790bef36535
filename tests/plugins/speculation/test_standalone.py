"""A draft model: texts are those without it, and it sees what the target sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maxserve.core.interfaces.errors import ModelError, SettingsError
from maxserve.interfaces.request import Request, SamplingParams
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served
from maxserve.testing.speculator import SpeculatorChecks, few_pages
from maxserve.testing.tiny_configs import tiny_config

PROMPTS = [list(range(3, 40)), [9, 8], [5, 6, 7] * 9, [5, 6, 7] * 9 + [11, 12]]


def write(folder: Path, family: str = "LlamaForCausalLM", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(family, architectures=[family], **changes)
    randomised(ArchitectureChecks.reference(config)).save_pretrained(folder)  # type: ignore[operator]
    return folder


class TestStandalone(SpeculatorChecks):
    """A draft model that is nearly the target: some drafts stand, others do not."""

    speculator = "standalone"

    def options_for(self, folder: Path) -> dict[str, Any]:
        return {"draft_model_path": str(folder / "draft")}

    def write_model(self, folder: Path) -> None:
        super().write_model(folder)
        near_model(folder, folder / "draft")


def near_model(target: Path, folder: Path) -> None:
    """The target with a little noise on its weights."""
    from safetensors.torch import load_file, save_file

    folder.mkdir()
    (folder / "config.json").write_bytes((target / "config.json").read_bytes())
    generator = torch.Generator().manual_seed(1)
    weights = load_file(target / "model.safetensors")
    noisy = {name: w + w.std() * 0.2 * torch.randn(w.shape, generator=generator) for name, w in weights.items()}
    save_file(noisy, folder / "model.safetensors")


def engine(folder: Path, host: Host, draft: Path | None, **options: Any) -> Any:
    chosen = {} if draft is None else {"speculative_method": "standalone", "draft_model_path": str(draft)}
    return Served(folder, host, **{"max_length": 128, **chosen, **options}).engine


def texts(made: Any, prompts: list[list[int]], tokens: int = 24) -> list[list[int]]:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
    for index, prompt in enumerate(prompts):
        made.add(Request(id=str(index), prompt=tuple(prompt), params=params))
    found: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
    while made.busy:
        for output in made.next_outputs():
            assert output.error is None, output.error
            found[output.id] += output.tokens
        made.check()
    return list(found.values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch_input_tokens": 5},  # prompts in pieces
        {"kv_cache_page_size": 16, "max_batch_size": 2},
        {"enable_prefix_caching": False},
        {"use_subgraphs": False},
    ],
)
@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Gemma3ForCausalLM"])
def test_all_drafts_of_the_target_itself_stand(
    family: str, options: dict[str, Any], plugin_host: Callable[..., Host], tmp_path: Path
) -> None:
    """Its cache is right, then, whatever has happened to the sequences: a wrong entry would change a draft."""
    folder = write(tmp_path / "target", family)
    expected = texts(engine(folder, plugin_host(), None, **options), PROMPTS)
    made = engine(folder, plugin_host(), folder, **options)
    assert texts(made, PROMPTS) == expected
    assert texts(made, PROMPTS) == expected  # prefixes are found now
    stats = made.stats()
    assert stats.draft_tokens > 50
    assert stats.accepted_tokens == stats.draft_tokens


def test_drafts_of_preempted_sequences_stand(
    plugin_host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages for three of six sequences; who lost them begins anew, with the target."""
    folder = write(tmp_path / "target")
    prompts = [[index + 1, *range(3, 30)] for index in range(6)]
    options = {"kv_cache_page_size": 16, "max_batch_size": 6, "max_batch_input_tokens": 256}
    expected = texts(engine(folder, plugin_host(), None, **options), prompts, tokens=60)
    few_pages(monkeypatch, 14)
    made = engine(folder, plugin_host(), folder, **options)
    assert texts(made, prompts, tokens=60) == expected
    stats = made.stats()
    assert stats.accepted_tokens == stats.draft_tokens > 50
    assert stats.preemptions > 0


def test_windows_of_long_texts(
    plugin_host: Callable[..., Host], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What windows have passed is not given away: a draft model's passes go back to it, and would write over others."""
    target = write(tmp_path / "target", "Gemma3ForCausalLM")
    near_model(target, tmp_path / "draft")
    prompts = [[(7 * index + 3 * i) % 90 + 3 for i in range(180 if index % 2 else 20)] for index in range(10)]
    options = {"kv_cache_page_size": 16, "max_batch_size": 6, "max_batch_input_tokens": 30, "max_length": 250}
    alone = engine(target, plugin_host(), None, **options)
    expected = texts(alone, prompts, tokens=40)
    with caplog.at_level("WARNING", "maxserve.engine"):
        made = engine(target, plugin_host(), tmp_path / "draft", **options)
    assert "windows have passed are kept until their request ends, for the draft model" in caplog.text
    assert [hasattr(each._cache, "group_block_tables") for each in (alone, made)] == [True, False]
    assert texts(made, prompts, tokens=40) == expected
    assert made.stats().accepted_tokens > 0


@pytest.mark.parametrize("tokens", [1, 2])
def test_prefixes_of_texts_that_wanted_no_drafts_are_whole(
    tokens: int, plugin_host: Callable[..., Host], tmp_path: Path
) -> None:
    target = write(tmp_path / "target")
    made = engine(target, plugin_host(), target, kv_cache_page_size=16, max_batch_input_tokens=24)
    prompt = [(5 * i) % 90 + 3 for i in range(97)]
    texts(made, [prompt], tokens=tokens)
    texts(made, [prompt], tokens=20)
    stats = made.stats()
    assert stats.prefix_hits >= 80
    assert stats.accepted_tokens == stats.draft_tokens > 10


def test_a_draft_model_of_another_family(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    target = write(tmp_path / "target")
    draft = write(tmp_path / "draft", "Qwen2ForCausalLM")
    assert texts(engine(target, plugin_host(), draft), PROMPTS) == texts(engine(target, plugin_host(), None), PROMPTS)


def test_texts_longer_than_the_draft_model_knows_go_on_without(
    plugin_host: Callable[..., Host], tmp_path: Path
) -> None:
    target = write(tmp_path / "target")
    draft = write(tmp_path / "draft", max_position_embeddings=32)
    expected = texts(engine(target, plugin_host(), None), PROMPTS)
    assert texts(engine(target, plugin_host(), draft), PROMPTS) == expected


def tokenizer_of(words: list[str], folder: Path) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {word: index for index, word in enumerate(words)}
    Tokenizer(models.WordLevel(vocabulary, unk_token=words[0])).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def test_another_vocabulary_is_refused(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    target, draft = write(tmp_path / "target"), write(tmp_path / "draft")
    tokenizer_of(["<unk>", "a", "b"], target)
    tokenizer_of(["<unk>", "b", "a"], draft)
    with pytest.raises(ModelError, match=r"another vocabulary than the target: token 1 is 'b' there and 'a' here"):
        engine(target, plugin_host(), draft)
    tokenizer_of(["<unk>", "a", "b", "c"], draft)  # one token more is fine
    engine(target, plugin_host(), draft)


def test_without_a_tokenizer_the_vocabularies_are_of_one_size(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    target = write(tmp_path / "target")
    vocab = json.loads((target / "config.json").read_text())["vocab_size"]
    with pytest.raises(ModelError, match=f"vocabulary of {vocab // 2} tokens where the target has {vocab}"):
        engine(target, plugin_host(), write(tmp_path / "draft", vocab_size=vocab // 2))


def test_a_draft_model_that_is_not_there_ends_the_start(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    target = write(tmp_path / "target")
    with pytest.raises(ModelError, match="there is no folder"):
        engine(target, plugin_host(), tmp_path / "nowhere")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_the_draft_model_is_where_the_target_is(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    target = write(tmp_path / "target")
    with pytest.raises(SettingsError, match="gpu:0"):
        engine(target, plugin_host(), target, draft_devices="gpu:0")
