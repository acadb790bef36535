"""What the parsers of single families make of answers as their models write them."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from maxserve.core.interfaces.parsers import Tool, ToolContext
from maxserve.plugins.api.common.output_parsing import OutputParser
from maxserve.plugins.parsers.kimi_k2 import KimiK2
from maxserve.testing.parsers import ToolParserChecks


def tool(name: str, **properties: Any) -> Tool:
    return Tool(name=name, parameters={"type": "object", "properties": properties})


STRING = {"type": "string"}
TOOLS = (
    tool("weather", city=STRING, days={"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    tool(
        "write",
        text=STRING,
        options={"type": "object", "properties": {"n": {"type": "number"}}},
        tags={"type": "array"},
    ),
    tool("now"),
)
HARD = r'{"text": "a \"b\" {c} [d] </tool_call> é 🚀 \\", "n": [-1.5e3, {"x": null}]}'
OSLO = ("weather", '{"city": "Oslo"}')
NOW = ("now", "{}")


class TestDeepSeekV3(ToolParserChecks):
    parser = "deepseek_v3"
    tools = TOOLS
    answers: ClassVar = {
        "Look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
        '{"city": "Oslo"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>": ("Look.", [OSLO, NOW]),
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>": ("", [OSLO, NOW]),
        f"<｜tool▁calls▁begin｜>\n<｜tool▁call▁begin｜>other<｜tool▁sep｜> {HARD}": ("", [("other", HARD)]),
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n{}\n<｜tool▁call▁end｜>": ("", [NOW]),
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>```json\n{}\n```<｜tool▁call▁end｜>Done.": ("Done.", [NOW]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜>nothing",
        "<｜tool▁call▁begin｜>function<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>now<｜tool▁sep｜>[1]\n",
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n[]\n```",
    ]


class TestDeepSeekV32(ToolParserChecks):
    parser = "deepseek_v32"
    tools = TOOLS
    answers: ClassVar = {
        'Look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="weather">\n'
        '<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>': (
            "Look.",
            [("weather", '{"city": "Oslo", "days": 3}'), NOW],
        ),
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="false">[1, {}]'
        '</｜DSML｜parameter>\n<｜DSML｜parameter name="b" string="true">12</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜tool_calls>": ("", [("f", '{"a": [1, {}], "b": "12"}')]),
    }


class TestKimiK2(ToolParserChecks):
    parser = "kimi_k2"
    tools = TOOLS
    answers: ClassVar = {
        "Look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "Oslo"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}'
        "<|tool_call_end|><|tool_calls_section_end|>": ("Look.", [OSLO, NOW]),
        "<|tool_calls_section_begin|>\n<|tool_call_begin|> weather:12 <|tool_call_argument_begin|> "
        f"{HARD} <|tool_call_end|>": ("", [("weather", HARD)]),
        "Hm. <|tool_calls_section_begin|>Now. <|tool_call_begin|>functions.now\n:0<|tool_call_argument_begin|>{}": (
            "Hm. Now.",
            [NOW],
        ),
        "<|tool_call_section_begin|><|tool_call_begin|>functions.get_v2<|tool_call_argument_begin|>{}": (
            "",
            [("get_v2", "{}")],
        ),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<|tool_call_begin|>functions.now:0<|tool_call_end|>",
        "<|tool_call_begin|>0<|tool_call_argument_begin|>{}",
        "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>12",
    ]


class TestKimiK2WithOneTool(ToolParserChecks):
    parser = "kimi_k2"
    tools = TOOLS[:1]
    answers: ClassVar = {
        '<|tool_call_begin|>0<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|>': ("", [OSLO])
    }


class TestGranite(ToolParserChecks):
    parser = "granite"
    tools = TOOLS
    answers: ClassVar = {
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}, {"arguments": {}, "name": "now"}]': (
            "",
            [OSLO, NOW],
        ),
        'Look.\n<tool_call> [\n  {"name": "now", "arguments": {}}\n]</tool_call>\nDone.': ("Look.\nDone.", [NOW]),
        '<|tool_call|>{"name": "now", "arguments": {}}\n{"name": "now"}\n\nDone.': ("\n\nDone.", [NOW, NOW]),
        '[{"name": "now", "arguments": {}}]': ("", [NOW]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<|tool_call|>",
        "<|tool_call|> [",
        '[{"name": "unknown", "arguments": {}}]',
        "[1, 2]",
        "<tool_call> it",
    ]


class TestPhi4(ToolParserChecks):
    parser = "phi4"
    tools = TOOLS
    answers: ClassVar = {
        '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>': ("", [OSLO]),
        'Look. functools[{"name": "now", "arguments": {}}, {"name": "now", "parameters": {}}]': ("Look.", [NOW, NOW]),
        '[{"type": "function", "name": "now", "arguments": {}}]': ("", [NOW]),
        '<|tool_call|>{"name": "now"}<|/tool_call|>': ("", [NOW]),
    }
    plain: ClassVar = [*ToolParserChecks.plain, "import functools", "functools[0]", "functools[] is", "functools.cache"]


class TestToolCallList(ToolParserChecks):
    parser = "tool_call_list"
    tools = TOOLS
    answers: ClassVar = {
        '<TOOLCALL>[{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "now", "arguments": {}}]</TOOLCALL>': (
            "",
            [OSLO, NOW],
        ),
        'Look.\n<tool_calls>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n{"name": "now", "arguments": {}}\n'
        "</tool_calls>": ("Look.", [OSLO, NOW]),
        '<tool_calls>[{"name": "now", "arguments": {}, "id": "a"}]</tool_calls>': ("", [NOW]),
    }
    plain: ClassVar = [*ToolParserChecks.plain, "<TOOLCALL>", "<tool_calls>none</tool_calls>"]


class TestLlama4(ToolParserChecks):
    parser = "llama4"
    tools = TOOLS
    answers: ClassVar = {
        "<|python_start|>[weather(city='Oslo'), now()]<|python_end|>": ("", [OSLO, NOW]),
        "[weather(city='Oslo')]": ("", [OSLO]),
        '<|python_start|>{"name": "other", "parameters": {"a": 1}}<|python_end|>': ("", [("other", '{"a": 1}')]),
        '{"name": "weather", "parameters": {"city": "Oslo"}}; {"name": "now", "parameters": {}}': ("", [OSLO, NOW]),
        '{"name": "now", "parameters": {}}\n{"name": "now", "parameters": {}} ; yes': (" yes", [NOW, NOW]),
        '[{"name": "now", "arguments": {}}]': ("", [NOW]),
        "Look. <|python_start|>[now()]<|python_end|>": ("Look.", [NOW]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<|python_start|>print(1)<|python_end|>",
        "[other(a=1)]",
        '{"name": "Bob", "parameters": {}}',
        '{"name": "now", "age": 1}',
        "[",
    ]


class TestGlm45(ToolParserChecks):
    parser = "glm45"
    tools = TOOLS
    answers: ClassVar = {
        "Look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>": (
            "Look.",
            [("weather", '{"city": "Oslo", "days": 3}'), NOW],
        ),
        "<tool_call>weather<arg_key>city</arg_key><arg_value>3</arg_value><arg_key>days</arg_key>"
        "<arg_value>null</arg_value></tool_call>": ("", [("weather", '{"city": "3", "days": null}')]),
        "<tool_call>write\n<arg_key>text</arg_key>\n<arg_value>\n<a>1</a>\n</tool_call> it\n</arg_value>\n"
        '<arg_key>options</arg_key>\n<arg_value>{"n": "2"}</arg_value>\n</tool_call>': (
            "",
            [("write", '{"text": "\\n<a>1</a>\\n</tool_call> it\\n", "options": {"n": 2}}')],
        ),
        "<tool_call>other<arg_key>a</arg_key><arg_value>[1]</arg_value></tool_call>": ("", [("other", '{"a": [1]}')]),
        # a forgotten end of the value
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo\n<arg_key>days</arg_key>\n<arg_value>3\n"
        "</tool_call>": ("", [("weather", '{"city": "Oslo", "days": 3}')]),
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>': ("", [NOW]),
    }
    plain: ClassVar = [*ToolParserChecks.plain, "<tool_call>", "<tool_call>\n", "<tool_call>now", "a <tool_call> <b>"]


class TestMiniMaxM2(ToolParserChecks):
    parser = "minimax_m2"
    tools = TOOLS
    answers: ClassVar = {
        'Look.\n<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Oslo</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>': (
            "Look.",
            [("weather", '{"city": "Oslo", "days": 3}'), NOW],
        ),
        '<minimax:tool_call><invoke name="write"><parameter name="text"><b>"x"</b>\n</parameter>'
        '<parameter name="tags">["a", 1]</parameter></invoke></minimax:tool_call>': (
            "",
            [("write", '{"text": "<b>\\"x\\"</b>\\n", "tags": ["a", 1]}')],
        ),
        '<minimax:tool_call><invoke name="write"><parameter name="text">a <parameter name="x">b</parameter> c'
        "</invoke> d</parameter>\n</invoke></minimax:tool_call>": (
            "",
            [("write", '{"text": "a <parameter name=\\"x\\">b</parameter> c</invoke> d"}')],
        ),
        '<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Oslo\n<parameter name="days">3\n'
        "</invoke>\n</minimax:tool_call>": ("", [("weather", '{"city": "Oslo", "days": 3}')]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<minimax:tool_call>",
        '<minimax:tool_call>\n<invoke name="',
        '<minimax:tool_call>\n<invoke name="now',
        '<invoke name="now"></invoke>',
    ]


class TestSeedOss(ToolParserChecks):
    parser = "seed_oss"
    tools = TOOLS
    answers: ClassVar = {
        "Look.\n<seed:tool_call>\n<function=weather>\n<parameter=city>Oslo</parameter>\n<parameter=days>None</parameter>\n"
        "</function>\n</seed:tool_call>\n<seed:tool_call>\n<function=now>\n</function>\n</seed:tool_call>": (
            "Look.",
            [("weather", '{"city": "Oslo", "days": null}'), NOW],
        ),
        "<seed:tool_call><function=f><parameter=a>\nb\n</parameter></function></seed:tool_call>.": (
            ".",
            [("f", '{"a": "\\nb\\n"}')],
        ),
    }
    plain: ClassVar = [*ToolParserChecks.plain, "<seed:tool_call>", "<seed:tool_call>now", "<function=now></function>"]


class TestGemma3(ToolParserChecks):
    parser = "gemma3"
    tools = TOOLS
    answers: ClassVar = {
        "Look. <start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call>"
        "<start_function_call>call:now{}<end_function_call>": ("Look.", [OSLO, NOW]),
        '<start_function_call>call:write{text:<escape>a, {b}: "c"<escape>,options:{n:<escape>2.5<escape>},'
        "tags:[<escape>x<escape>,1,true,null,[]]}<end_function_call>": (
            "",
            [("write", '{"text": "a, {b}: \\"c\\"", "options": {"n": 2.5}, "tags": ["x", 1, true, null, []]}')],
        ),
        "<start_function_call>call:weather{city:<escape>Oslo<escape>days:<escape>3<escape>}<end_function_call>": (
            "",
            [("weather", '{"city": "Oslo", "days": 3}')],
        ),
        "<start_function_call>call:weather{city:12, days: 3}": ("", [("weather", '{"city": "12", "days": 3}')]),
        "```tool_code\nweather(city='Oslo')\nprint(now())\n```": ("", [OSLO, NOW]),
        "```tool_code\n[weather(city='Oslo'), now()]\n```\nDone.": ("\nDone.", [OSLO, NOW]),
        "```tool_code\nnow()": ("", [NOW]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<start_function_call>",
        "<start_function_call>call:",
        "<start_function_call>weather{}",
        "```tool_code\nother()\n```",
        "```tool_code\nimport os\n```",
        "```tool_code\nnow(1)\n```",
        "```tool_code\nnow(",
        "```python\nnow()\n```",
    ]


class TestGemma4(ToolParserChecks):
    parser = "gemma4"
    tools = TOOLS
    answers: ClassVar = {
        '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|><|tool_call>call:now{}<tool_call|>': (
            "",
            [OSLO, NOW],
        ),
        '<|tool_call>call:f{a:{<|"|>k<|"|>:-1.5,"l":[{}]},b:"x, y",c:1e999}<tool_call|>': (
            "",
            [("f", '{"a": {"k": -1.5, "l": [{}]}, "b": "x, y", "c": "1e999"}')],
        ),
    }


def test_arguments_may_be_the_json_text_of_an_object() -> None:
    text = json.dumps('{"city": "Oslo"}')
    for checks, before in (
        (TestKimiK2, "<|tool_call_begin|>weather:0<|tool_call_argument_begin|>"),
        (TestDeepSeekV3, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"),
    ):
        (call,) = OutputParser(None, checks().reader()).read(before + text, last=True).calls
        assert (call.name, call.arguments) == OSLO


def test_ids_of_kimi_are_the_models_own() -> None:
    reader = KimiK2(ToolContext())
    (call,) = reader.feed("<|tool_call_begin|>functions.now:3<|tool_call_argument_begin|>{}").calls
    assert (call.id, call.name) == ("functions.now:3", "now")


def test_arguments_of_whole_calls_are_objects() -> None:
    for checks in (TestGlm45, TestMiniMaxM2, TestGemma3, TestGemma4, TestDeepSeekV32, TestKimiK2):
        for text in checks.answers:
            for _, arguments in checks().read([text])[2]:
                assert isinstance(json.loads(arguments), dict)


def test_values_in_each_other_without_end_are_read() -> None:
    for text in ("[" * 5000, "{a:" * 5000, "[}" * 300, "{]" * 300):
        _, _, calls = TestGemma4().read(["<|tool_call>call:f{a:" + text])
        assert [name for name, _ in calls] == ["f"]


def test_long_blanks_cost_no_more_than_other_text() -> None:
    for checks, before in (
        (TestGemma4, "<|tool_call>call:f{a:"),
        (TestGlm45, "<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value>"),
        (TestKimiK2, "<|tool_call_begin|>"),
    ):
        checks().read([before + " " * 200_000])  # a quadratic reading would take minutes
