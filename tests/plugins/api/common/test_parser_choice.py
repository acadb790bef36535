"""Which parsers serve a model, and what they make of an answer together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.parsers import ReasoningContext, ToolContext
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.detokenizer import Detokenizer
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.output_parsing import OutputParser
from maxserve.plugins.api.common.parsers import choose_parsers
from maxserve.plugins.parsers.hermes import Hermes
from maxserve.plugins.parsers.think import Think
from maxserve.plugins.tokenizers.folder import load_tokenizer

QWEN = "{% if tools %}<tool_call>{% endif %}{{ m.content.split('</think>') }}"


@pytest.fixture(scope="module")
def host() -> Host:
    return PluginHost.discover(PluginOptions(), strict=True)


def chosen(host: Host, template: str = QWEN, **options: Any) -> Any:
    return choose_parsers(AnswerOptions(**options), host, template)


def test_the_template_chooses(host: Host, caplog: Any) -> None:
    caplog.set_level("INFO")
    parsers = chosen(host)
    assert (parsers.tools, parsers.reasoning) == (Hermes, Think)
    assert parsers.tool_markers == ("<tool_call>", "</tool_call>")
    assert "tool calls: hermes (found in the chat template); reasoning: think" in caplog.text
    assert chosen(host, "").reasoning is None


def test_the_operator_chooses(host: Host) -> None:
    parsers = chosen(host, tool_parser="mistral", reasoning_parser="none")
    assert parsers.tools.__name__ == "Mistral"
    assert parsers.reasoning is None
    with pytest.raises(
        PluginError, match=r"--tool-parser hermez: no tool parser is called 'hermez' \(did you mean 'her"
    ):
        chosen(host, tool_parser="hermez")


def test_reasoning_comes_off_before_calls_are_looked_for() -> None:
    text = '<think>maybe <tool_call>{"name": "f"}</tool_call></think>Yes.<tool_call>{"name": "g"}</tool_call>'
    reader = OutputParser(Think(ReasoningContext()), Hermes(ToolContext()))
    delta = reader.read(text, last=True)
    assert (delta.content, delta.reasoning) == ("Yes.", 'maybe <tool_call>{"name": "f"}</tool_call>')
    (call,) = delta.calls
    assert (call.name, call.arguments, len(call.id)) == ("g", "{}", 29)
    assert TextDelta(called=reader.called, finish="stop").finish_reason == "tool_calls"
    assert TextDelta(called=reader.called, finish="length").finish_reason == "length"


def test_an_answer_without_calls_stops() -> None:
    reader = OutputParser(None, Hermes(ToolContext()))
    assert reader.read("a <tool_", last=False).content == "a"
    assert reader.read("", last=True).content == " <tool_"
    assert TextDelta(called=reader.called, finish="stop").finish_reason == "stop"


def test_special_tokens_can_be_kept(model_folder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(str(model_folder()))
    ids = tokenizer.encode("<|im_start|>a<|im_end|>", add_special_tokens=False)
    assert Detokenizer(tokenizer).add(ids) == "a"
    assert Detokenizer(tokenizer, visible=("<|im_end|>", "<unknown>")).add(ids) == "a<|im_end|>"
