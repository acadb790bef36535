"""The parsers that templates in the shape of published ones get, and the way of an answer through them and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.parsers import ReasoningContext, Tool, ToolContext
from maxserve.core.registry.entries import load_ref
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.output_parsing import OutputParser
from maxserve.plugins.api.common.parsers import Parsers, choose_parsers
from maxserve.plugins.parsers import maxserve_reasoning_parsers, maxserve_tool_parsers
from maxserve.testing.parsers import gathered

FOLDER = Path(__file__).parent / "templates"
CLAIMS = {  # by template: its parsers of calls and of reasoning
    "deepseek_v3": ("deepseek_v3", "deepseek"),
    "deepseek_v31": ("deepseek_v3", "deepseek"),
    "deepseek_v32": ("deepseek_v32", "deepseek"),
    "functiongemma": ("gemma3", None),
    "gemma3_tool_code": ("gemma3", None),
    "gemma4": ("gemma4", "gemma4"),
    "glm45": ("glm45", "think"),
    "glm47": ("glm45", "think"),
    "gpt_oss": ("gpt_oss", "gpt_oss"),
    "granite32": ("granite", "granite"),
    "granite33": ("granite", "granite"),
    "granite4": ("hermes", None),
    "kimi_k2": ("kimi_k2", None),
    "kimi_k2_thinking": ("kimi_k2", "kimi_k2"),
    "llama31": ("llama3_json", None),
    "llama4": ("llama4", None),
    "magistral": ("mistral", "mistral"),
    "minimax_m2": ("minimax_m2", "think"),
    "mistral_nemo": ("mistral", None),
    "nemotron_nano": ("tool_call_list", "think"),
    "no_tools": ("json", None),
    "phi4_functools": ("phi4", None),
    "phi4_mini": ("phi4", None),
    "pythonic": ("pythonic", None),
    "qwen3": ("hermes", "think"),
    "qwen3_coder": ("qwen3_coder", None),
    "seed_oss": ("seed_oss", "seed_oss"),
}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "where": {"type": "object"}},
}
TOOLS = (
    Tool(name="weather", description="The weather.", parameters=WEATHER),
    Tool(name="now", description="The time.", parameters={"type": "object", "properties": {}}),
)
SHOWN = [
    {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)}}
    for t in TOOLS
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
USER = {"role": "user", "content": "Weather?"}
RESULT = {"role": "tool", "tool_call_id": "", "content": "Rain."}
OSLO = '{"city": "Oslo", "days": 3}'
WROTE = {  # by template: what the model writes behind the prompt
    "deepseek_v31": f"Look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{OSLO}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "deepseek_v32": 'Hm.</think>Look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n'
    '<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "functiongemma": "<start_function_call>call:weather{city:<escape>Oslo<escape>,days:3,"
    "where:{lat:59.9,near:[<escape>a<escape>,null]}}<end_function_call>",
    "gemma3_tool_code": '```tool_code\nweather(city="Oslo", days=3)\nnow()\n```',
    "gemma4": '<|channel>thought\nHm.\n<channel|><|tool_call>call:weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|>'
    "<|tool_call>call:now{}<tool_call|>",
    "glm45": "\n<think>Hm.</think>\nLook.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>",
    "glm47": "Hm.</think>Look.<tool_call>weather<arg_key>city</arg_key><arg_value>3</arg_value>"
    "<arg_key>days</arg_key><arg_value>3</arg_value></tool_call><tool_call>now</tool_call>",
    "gpt_oss": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.weather"
    f"<|channel|>commentary json<|message|>{OSLO}<|call|>",
    "granite32": f'<|tool_call|>[{{"name": "weather", "arguments": {OSLO}}}, {{"name": "now", "arguments": {{}}}}]',
    "granite4": f'Look.\n<tool_call>\n{{"name": "weather", "arguments": {OSLO}}}\n</tool_call>',
    "kimi_k2": "Look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
    f"{OSLO}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
    "<|tool_calls_section_end|>",
    "kimi_k2_thinking": "<think>Hm.</think>Look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
    f"<|tool_call_argument_begin|>{OSLO}<|tool_call_end|><|tool_calls_section_end|>",
    "llama31": f'{{"name": "weather", "parameters": {OSLO}}}',
    "llama4": f'<|python_start|>{{"name": "weather", "parameters": {OSLO}}}<|python_end|>',
    "magistral": f"[THINK]Hm.[/THINK]Look.[TOOL_CALLS]weather[ARGS]{OSLO}[TOOL_CALLS]now[ARGS]{{}}",
    "minimax_m2": 'Hm.\n</think>\n\nLook.\n<minimax:tool_call>\n<invoke name="weather">\n'
    '<parameter name="city">Oslo</parameter>\n<parameter name="days">3</parameter>\n</invoke>\n'
    '<invoke name="now">\n</invoke>\n</minimax:tool_call>',
    "nemotron_nano": f'Hm.\n</think>\n\n<TOOLCALL>[{{"name": "weather", "arguments": {OSLO}}}]</TOOLCALL>',
    "phi4_functools": f'functools[{{"name": "weather", "arguments": {OSLO}}}]',
    "pythonic": '[weather(city="Oslo", days=3), now()]',
    "qwen3": f'<think>\nHm.\n</think>\n\nLook.\n<tool_call>\n{{"name": "weather", "arguments": {OSLO}}}\n</tool_call>',
    "qwen3_coder": "Look.\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
    "seed_oss": "<seed:think>Hm.</seed:think>\nLook.\n<seed:tool_call>\n<function=weather>\n"
    "<parameter=city>Oslo</parameter>\n<parameter=days>3</parameter>\n</function>\n</seed:tool_call>",
}


@pytest.fixture(scope="module")
def host() -> Host:
    return PluginHost.discover(PluginOptions(), strict=True)


def template(name: str) -> ChatRenderer:
    return ChatRenderer(JinjaTemplate({"default": source(name)}), SPECIAL)


def source(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")


def test_every_template_is_looked_at() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == CLAIMS.keys()


@pytest.mark.parametrize("name", CLAIMS)
def test_a_template_is_claimed_by_one_parser_of_each_kind(name: str, host: Host) -> None:
    calls, reasoning = CLAIMS[name]
    claims = [
        {p.name for p in parsers if p.recognises and load_ref(p.recognises)(source(name)) > 1}
        for parsers in (maxserve_tool_parsers(), maxserve_reasoning_parsers())
    ]
    assert claims == [{calls} - {"json"}, {reasoning} - {None}]
    chosen = choose_parsers(AnswerOptions(), host, source(name))
    assert (chosen.tool_parser, chosen.reasoning_parser) == (calls, reasoning)


@pytest.mark.parametrize("name", WROTE)
def test_what_was_read_renders_as_it_was_written(name: str, host: Host) -> None:
    chat = template(name)
    prompt = chat.render([USER], tools=SHOWN)
    message = read(choose_parsers(AnswerOptions(), host, source(name)), prompt, WROTE[name])
    first = message["tool_calls"][0]
    assert first["function"]["name"] == "weather"
    assert json.loads(first["function"]["arguments"])["days"] == 3
    history = chat.render([USER, message, RESULT | {"tool_call_id": first["id"]}], tools=SHOWN)
    assert history.startswith(prompt + WROTE[name]), history.removeprefix(prompt)


def test_thoughts_and_text_of_gpt_oss_go_back_beside_a_call(host: Host) -> None:
    chat, text = (
        template("gpt_oss"),
        "<|channel|>commentary<|message|>Look.<|end|><|start|>assistant" + WROTE["gpt_oss"],
    )
    prompt = chat.render([USER], tools=SHOWN)
    message = read(choose_parsers(AnswerOptions(), host, source("gpt_oss")), prompt, text)
    assert (message["content"], message["reasoning_content"]) == ("Look.", "Hm.")
    history = chat.render([USER, message, RESULT], tools=SHOWN)  # the template takes one of both
    assert "Look." in history
    assert f"to=functions.weather<|channel|>commentary json<|message|>{OSLO}<|call|>" in history


def test_the_final_message_of_gpt_oss_goes_back(host: Host) -> None:
    chat, text = (
        template("gpt_oss"),
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A.",
    )
    prompt = chat.render([USER])
    message = read(choose_parsers(AnswerOptions(), host, source("gpt_oss")), prompt, text)
    message.pop("tool_calls")
    whole = chat.render([USER, message], add_generation_prompt=False)
    assert whole == prompt + text + "<|return|>"
    later = chat.render([USER, message, USER])
    assert "Hm." not in later
    assert "<|start|>assistant<|channel|>final<|message|>A.<|end|>" in later


def read(parsers: Parsers, prompt: str, text: str) -> dict[str, Any]:
    """The message that a client sends back: the answer as it got it, cut into pieces of three characters."""
    reasoning = parsers.reasoning and parsers.reasoning(ReasoningContext(prompt=prompt[-256:]))
    assert parsers.tools is not None
    reader = OutputParser(reasoning, parsers.tools(ToolContext(tools=TOOLS)))
    deltas = [reader.read(text[i : i + 3], last=False) for i in range(0, len(text), 3)]
    deltas.append(reader.read("", last=True))
    content, thought, calls = gathered(deltas)
    ids = [call.id for delta in deltas for call in delta.calls if call.name]
    told = [
        {"id": call_id, "type": "function", "function": {"name": called, "arguments": arguments}}
        for call_id, (called, arguments) in zip(ids, calls, strict=True)
    ]
    message = {"role": "assistant", "content": content, "tool_calls": told}
    return message | ({"reasoning_content": thought} if thought else {})


def test_a_template_with_no_more_than_the_markers_of_gpt_oss(host: Host) -> None:
    shape = (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endfor %}"
        "{# <|channel|>analysis<|message|> <|channel|>final<|message|> <|channel|>commentary <|call|> <|return|> #}"
    )
    parsers = choose_parsers(AnswerOptions(), host, shape)
    text = "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>Four."
    message = read(parsers, "<|start|>assistant", text)
    assert (message["content"], message["reasoning_content"], message["tool_calls"]) == ("Four.", "Two and two.", [])
