"""Damaged and hostile model folders: every start ends soon, with one line, or serves."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import maxserve
from maxserve.core.interfaces.errors import RequestError, UsageError
from maxserve.plugins.api.common import chat_template

SOON = 60.0  # seconds, on a machine that others use too; each takes less than one of them


def start(folder: Path) -> str:
    """What a start says that fails; "" for one that answers."""
    begun, message = time.monotonic(), ""
    try:
        maxserve.LLM(str(folder)).chat([{"role": "user", "content": "hi"}], max_tokens=2)
    except UsageError as error:
        message = str(error)
    except RequestError as error:  # a model that serves, but no conversation of this length
        assert "the model's length" in error.message  # noqa: PT017
    assert time.monotonic() - begun < SOON
    assert "\n" not in message
    return message


def config(**entries: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", entries)


def edit(file: Path, entries: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def growing(folder: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "i"}, "content": "i" * 1000}
    edit(folder / "tokenizer.json", {"normalizer": {"type": "Sequence", "normalizers": [step] * 6}})


def looping(folder: Path) -> None:
    loop = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop)


def looping_later(folder: Path) -> None:
    looping(folder)
    file = folder / "chat_template.jinja"
    file.write_text("{% if messages | length > 1 %}" + file.read_text() + "{% endif %}")


def links(folder: Path) -> None:
    """A shard and a folder that lead to themselves; neither is the model's."""
    for name in ("model-00001-of-00002.safetensors", "original"):
        os.symlink(name, folder / name)


def linked_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.symlink("config.json", folder / "config.json")


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def not_utf8(name: str) -> Callable[[Path], object]:
    """The first letter of the file becomes a byte that no text has."""

    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        at = content.index(b'"') + 1
        (folder / name).write_bytes(content[:at] + b"\xff" + content[at + 1 :])

    return change


def broken_vocabulary(folder: Path) -> None:
    file = folder / "tokenizer.json"
    before, key, after = file.read_bytes().partition(b'"vocab"')
    at = after.index(b'"') + 1
    file.write_bytes(before + key + after[:at] + b"\xff" + after[at + 1 :])


DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"
SEES = {
    "architectures": ["Mistral3ForConditionalGeneration"],
    "model_type": "ministral3",
    "text_config": {"model_type": "ministral3", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 2048},
    "vision_config": {"model_type": "pixtral", "hidden_size": 64, "num_hidden_layers": 2, "patch_size": 14},
}
HOSTILE: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "10^9 layers": (config(num_hidden_layers=10**9), "num_hidden_layers"),
    "10^18 positions": (config(max_position_embeddings=10**18), "max_position_embeddings"),
    "a hidden size of 10^12": (config(hidden_size=10**12), ""),
    "a head size of 10^12": (config(head_dim=10**12), ""),
    "a vocabulary of 10^12": (config(vocab_size=10**12), ""),
    "a yarn without end": (
        config(rope_parameters={"rope_type": "yarn", "factor": 2.0, "beta_fast": -1}),
        "'beta_fast'",
    ),
    "a longrope of 1 position": (
        config(
            rope_parameters={
                "rope_type": "longrope",
                "factor": 2.0,
                "short_factor": [1.0] * 32,
                "long_factor": [1.0] * 32,
                "original_max_position_embeddings": 1,
            }
        ),
        "config.json: ",
    ),
    "deep config": (text("config.json", DEEP), r"config\.json cannot be read as JSON: it is nested too deeply"),
    "deep tokenizer": (text("tokenizer.json", DEEP), r"tokenizer\.json cannot be read"),
    "deep tokenizer config": (text("tokenizer_config.json", DEEP), r"tokenizer_config\.json cannot be read"),
    "config without UTF-8": (not_utf8("config.json"), r"config\.json cannot be read"),
    "tokenizer without UTF-8": (not_utf8("tokenizer.json"), r"tokenizer\.json cannot be read"),
    "tokenizer config without UTF-8": (not_utf8("tokenizer_config.json"), r"tokenizer_config\.json cannot be read"),
    "vocabulary without UTF-8": (broken_vocabulary, r"tokenizer\.json"),
    "deep index": (text("model.safetensors.index.json", DEEP), r"index\.json cannot be read as JSON"),
    "an index of nothing": (text("model.safetensors.index.json", '{"weight_map": {"a": [1]}}'), None),
    "a long number": (text("config.json", '{"a":' + "9" * 100_000 + "}"), r"config\.json cannot be read as JSON"),
    "a growing normalizer": (growing, r"tokenizer\.json: its normalizer can make a text"),
    "a looping template": (looping, "chat template .* may loop without end"),
    "a template that loops once the model has answered": (looping_later, "chat template comes to no end"),
    "links to themselves": (links, None),
    "a config that is a link to itself": (linked_config, r"has no config\.json"),
    "a text model's type for a vision-language model": (config(**SEES), "config.json: "),
    "a vision config of numbers": (config(**SEES | {"model_type": "mistral3", "vision_config": 7}), "config.json: "),
    "no vision config": (config(**SEES | {"model_type": "mistral3", "vision_config": None}), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_ends_the_start_in_one_line(
    demo_copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "_END_SECONDS", 0.5)
    change, reason = HOSTILE[name]
    change(demo_copy)
    message = start(demo_copy)
    assert bool(message) == (reason is not None)
    assert re.search(reason or "", message), message


WRONG = (None, True, -1, 0, 3, 10**12, 1.5, float("nan"), float("inf"), "", "4", [], [1], {}, {"a": 1}, [[[]]])
MORE = {
    "config.json": ("sliding_window", "layer_types", "rope_scaling", "text_config", "quantization_config", "auto_map"),
    "generation_config.json": ("temperature", "top_k", "repetition_penalty", "min_new_tokens", "bad_words_ids"),
    "tokenizer_config.json": (
        "bos_token",
        "chat_template",
        "extra_special_tokens",
        "model_input_names",
        "split_special_tokens",
    ),
}


def wrong(file: Path) -> Iterator[tuple[str, Any]]:
    """Keys of a file, each with a value that it is seldom meant to have."""
    rng = random.Random(file.name)
    for key in dict.fromkeys((*json.loads(file.read_text()), *MORE[file.name])):
        yield from ((key, value) for value in rng.sample(WRONG, 1))


@pytest.mark.parametrize("name", MORE)
def test_wrong_values_end_the_start_in_one_line_or_mean_nothing(demo_copy: Path, name: str) -> None:
    file = demo_copy / name
    whole = file.read_text()
    for key, value in wrong(file):
        file.write_text(whole)
        edit(file, {key: value})
        try:
            start(demo_copy)
        except Exception as error:
            raise AssertionError(f"{name}: {key!r} is {value!r}") from error
