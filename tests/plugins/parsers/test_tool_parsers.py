"""What the built-in tool parsers make of answers as models write them."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from maxserve.core.interfaces.parsers import Tool, ToolContext
from maxserve.plugins.api.common.call_arguments import CallArguments
from maxserve.plugins.parsers import maxserve_tool_parsers
from maxserve.plugins.parsers.mistral import Mistral
from maxserve.testing.parsers import ToolParserChecks, gathered

TOOLS = (
    Tool(name="get_weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}}),
    Tool(name="add", parameters={"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}}),
    Tool(name="now"),
)
HARD = r'{"city": "a \"quoted\" {brace} [ \\ é 日 🚀", "deep": {"x": [{}, [], {"y": null}]}, "n": -1.5e+3}'


class TestHermes(ToolParserChecks):
    parser = "hermes"
    tools = TOOLS
    answers: ClassVar = {
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>': (
            "",
            [("get_weather", '{"city": "Oslo"}')],
        ),
        'Let me see.\n<tool_call>{"name":"f","arguments":{ "a" :1 }}</tool_call>\n'
        '<tool_call>\n{"arguments": {"b": 2}, "name": "g"}\n</tool_call>\n': (
            "Let me see.",
            [("f", '{ "a" :1 }'), ("g", '{"b": 2}')],
        ),
        f'<tool_call>{{"name": "get_weather", "arguments": {HARD}}}</tool_call>': ("", [("get_weather", HARD)]),
        '<tool_call>{"name": "now"}</tool_call>': ("", [("now", "{}")]),
        '<tool_call>{"name": "now", "arguments": null}</tool_call>': ("", [("now", "{}")]),
        '<tool_call>{"name": "now", "arguments": {}}<tool_call>{"name": "now", "arguments": {}}</tool_call>.': (
            ".",
            [("now", "{}"), ("now", "{}")],
        ),
        '<tool_call>{"name": "f", "arguments": {"a": 1, "b": "two': ("", [("f", '{"a": 1, "b": "two')]),
        '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>no': (
            "<tool_call>no",
            [("f", '{"a": 1}')],
        ),
        # The JSON text of an object, or of nothing.
        '<tool_call>\n{"name": "f", "arguments": "{\\"a\\": 1}"}\n</tool_call>': ("", [("f", '"{\\"a\\": 1}"')]),
        '<tool_call>{"arguments": "", "name": "f"}</tool_call>': ("", [("f", "{}")]),
        # Python's spelling.
        "<tool_call>{'name': 'f', 'arguments': {'a': True,}}</tool_call>": ("", [("f", "{'a': True,}")]),
        # Several in one pair of markers.
        '<tool_call>\n{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}\n</tool_call>': (
            "",
            [("f", "{}"), ("g", "{}")],
        ),
        '<tool_call>[{"name": "f", "arguments": {}}, {"name": "g"}]</tool_call> ok': (
            " ok",
            [("f", "{}"), ("g", "{}")],
        ),
        # Braces and tags that were forgotten, or are too many.
        '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>': ("", [("f", '{"a": 1}')]),
        '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>': ("", [("f", '{"a": 1')]),
        '<tool_call>{"name": "f", "arguments": {"a": 1}}}\n</tool_call>': ("", [("f", '{"a": 1}')]),
        '{"name": "add", "arguments": {"a": 1}}\n</tool_call>': ("\n</tool_call>", [("add", '{"a": 1}')]),
        '[{"name": "now"}, {"name": "add", "arguments": {"a": 1}}]': ("", [("now", "{}"), ("add", '{"a": 1}')]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "a < b <tool_call",
        "<<tool_call>> is a tag",
        '<tool_call>{"name": 1}</tool_call>',
        '<tool_call>{"name": "f", "arguments": 12}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "in words"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "nullable"}</tool_call>',
        "<tool_call>{'name': 'f', arguments: {}}</tool_call>",
        '{"name": "get_weather"',
        '{"name": "unknown", "arguments": {}}',
        '<tool_call>{"arguments": {"a": 1}}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "na',
        "<tool_call>{}</tool_call>",
        "<tool_call>\n",
    ]


class TestLlama3(ToolParserChecks):
    parser = "llama3_json"
    tools = TOOLS
    answers: ClassVar = {
        '{"name": "get_weather", "parameters": {"city": "Oslo"}}': ("", [("get_weather", '{"city": "Oslo"}')]),
        '{"type": "function", "name": "now", "parameters": {}} ; {"name": "add", "parameters": {"a": 1}}': (
            "",
            [("now", "{}"), ("add", '{"a": 1}')],
        ),
        '<|python_tag|>{"name": "other", "parameters": {"x": "y"}}': ("", [("other", '{"x": "y"}')]),
        'Well: <|python_tag|>{"name": "now", "arguments": {}}': ("Well:", [("now", "{}")]),
        '{"name": "now", "parameters": {}} and so on': (" and so on", [("now", "{}")]),
        'I will.\n{"name": "now", "parameters": {}}\n{"name": "add", "parameters": "{\\"a\\": 1}"}': (
            "I will.",
            [("now", "{}"), ("add", '"{\\"a\\": 1}"')],
        ),
        '<|python_tag|>{"name": "now", "parameters": {}}, {"name": "f", "parameters": {}}': (
            "",
            [("now", "{}"), ("f", "{}")],
        ),
        'So: <function=add>{"a": 1}</function>': ("So:", [("add", '{"a": 1}')]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        '{"name": "Bob", "age": 7}',
        '{"name": "unknown", "parameters": {}}',
        '{"name": "now", "parameters": {}, "colour": 1'[:20],
        "<|python_tag|>print(1)",
        "<function=unknown>{}</function>",
        "<function=add>",
        'if (x) { y(); } else {"name": z}',
        '<|python_tag|>{"a": 1}',
    ]


class TestMistral(ToolParserChecks):
    parser = "mistral"
    tools = TOOLS
    answers: ClassVar = {
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"arguments": {}, "name": "now"}]': (
            "",
            [("add", '{"a": 1}'), ("now", "{}")],
        ),
        "Hm.[TOOL_CALLS]add[ARGS]" + HARD + "[TOOL_CALLS]now[ARGS]{}": ("Hm.", [("add", HARD), ("now", "{}")]),
        '[TOOL_CALLS]add{"a": 1}': ("", [("add", '{"a": 1}')]),
        '[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 1}': ("", [("add", '{"a": 1}')]),
        '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}, 7]': ("7]", [("add", '{"a": 1}')]),
        '[TOOL_CALLS]add[ARGS]"{\\"a\\": 1}"': ("", [("add", '"{\\"a\\": 1}"')]),
        '[TOOL_CALLS]{"name": "add", "arguments": {"a": 1}}\n{"name": "f"}': ("", [("add", '{"a": 1}'), ("f", "{}")]),
        ' [ {"name": "add", "arguments": {"a": 1}}]': ("", [("add", '{"a": 1}')]),
        '[TOOL_CALLS] [{"name": "now", "arguments": {}}] [/TOOL_CALLS]': ("", [("now", "{}")]),
        'So:[TOOL_CALLS]add[ARGS]{"a": 1}\n\nLet me see.': ("So:\n\nLet me see.", [("add", '{"a": 1}')]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "[TOOL_CALLS]",
        "[TOOL_CALLS][1, 2]",
        "[TOOL_CALLS] [",
        "[TOOL_CALLS]add[ARGS]12",
        "[TOOL_CALLS]add[ARGS]",
        "[TOOL_CALLS]add",
        "[TOOL_CALLS] ??",
        '[{"name": "other", "arguments": {}}]',
        "[1, 2]",
    ]


class TestPythonic(ToolParserChecks):
    parser = "pythonic"
    tools = TOOLS
    answers: ClassVar = {
        "[get_weather(city='a \"b\" ] \\' ü'), now()]": (
            "",
            [("get_weather", '{"city": "a \\"b\\" ] \' ü"}'), ("now", "{}")],
        ),
        "[add(a=-1, b={'x': [1.5, True, None, (1, 2)], 'y': true})] ok": (
            " ok",
            [("add", '{"a": -1, "b": {"x": [1.5, true, null, [1, 2]], "y": true}}')],
        ),
        "Sure. <|python_start|>[now()]<|python_end|>": ("Sure.", [("now", "{}")]),
        # What Python's grammar refuses: raw line breaks in strings, reserved names.
        "[add(a='grep \"]\" x\\\\', b='''1\n2''')]": ("", [("add", '{"a": "grep \\"]\\" x\\\\", "b": "1\\n2"}')]),
        "[get_weather(city='one\ntwo, three'), add(from=1, class='x', b=True)]": (
            "",
            [("get_weather", '{"city": "one\\ntwo, three"}'), ("add", '{"from": 1, "class": "x", "b": true}')],
        ),
        # By position, as Python has it.
        "[get_weather('Oslo'), add(1, b=2)]": ("", [("get_weather", '{"city": "Oslo"}'), ("add", '{"a": 1, "b": 2}')]),
        # Other markers, and calls without a list between them.
        "<|tool_call_start|>[add(a=1, b='x=1, if=2')]<|tool_call_end|>Ok": (
            "Ok",
            [("add", '{"a": 1, "b": "x=1, if=2"}')],
        ),
        "<function_calls>\nnow()\nadd(a=1)\n</function_calls>": ("", [("now", "{}"), ("add", '{"a": 1}')]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "[1, 2]",
        "[]",
        "[other(a=1)]",
        "[now(1)]",
        "[now(a=open('x'))]",
        "[now(**{})]",
        "[add(a=1e999)]",
        "[add(a=1" + "0" * 400 + ")]"[:-2],
        "[add(a={1: 2})]",
        "[add(a='\\ud800')]",
        "[add(a=__import__('os').getcwd())]",
        "[" * 300,
        "[now(), now(",
        "I think [now()] would do",
        "now()",
        "<|python_start|>print(1)<|python_end|>",
        "<|python_start|>x = now()",
        "[add(1, 2, 3)]",
    ]


class TestPlainJson(ToolParserChecks):
    parser = "json"
    tools = TOOLS
    answers: ClassVar = {
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}': ("", [("get_weather", '{"city": "Oslo"}')]),
        'Here:\n```json\n[{"name": "add", "parameters": {"a": 1}},\n {"name": "now"}]\n```\nDone.': (
            "Here:\nDone.",
            [("add", '{"a": 1}'), ("now", "{}")],
        ),
        f'{{"arguments": {HARD}, "name": "add"}}': ("", [("add", HARD)]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        '{"name": "Bob", "arguments": {}}',
        '{"name": "now", "age": 1}',
        "```json\n{}\n```",
        "```python\nprint([1, 2])\n```",
        "[[1]] {} [] ```",
    ]


class TestQwen3Coder(ToolParserChecks):
    parser = "qwen3_coder"
    tools = TOOLS
    answers: ClassVar = {
        "<tool_call>\n<function=add>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\nx\n y\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>": (
            "",
            [("add", '{"a": 12, "b": "x\\n y"}'), ("now", "{}")],
        ),
        "Ok <function=add><parameter=a>many</parameter></function>": ("Ok", [("add", '{"a": "many"}')]),
        # Forgotten tags: the next one that can only be the function's ends a value.
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nBonn\n</function>\n</tool_call>": (
            "",
            [("get_weather", '{"city": "Bonn"}')],
        ),
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>": (
            "",
            [("add", '{"a": 1, "b": "2"}')],
        ),
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</tool_call>\n<function=now>\n</tool_call>": (
            "",
            [("add", '{"a": 1}'), ("now", "{}")],
        ),
        "<function=add>\n<parameter=b>\n1\n</function>\n<function=now>\n</function>": (
            "",
            [("add", '{"b": "1"}'), ("now", "{}")],
        ),
        "<tool_call>\n<function=add>\n<parameter=b>\n<x></function> <parameter=c>\n</parameter>\n</function>": (
            "",
            [("add", '{"b": "<x></function> <parameter=c>"}')],
        ),
        # The older form.
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>': ("", [("add", '{"a": 1}')]),
        # Broken off: as far as it came, and never closed.
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</func": ("", [("add", '{"a": 1')]),
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo": ("", [("get_weather", '{"city": "Oslo"')]),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<tool_call>",
        "<tool_call>{}",
        "<function=",
        "<function=>",
        "<function=a<b",
    ]


PLACE = {"type": "object", "properties": {"x": {"type": "integer"}}}
FIND = Tool(
    name="find",
    parameters={
        "type": "object",
        "properties": {
            "most": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 5},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "word": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "at": {"$ref": "#/$defs/Place"},
            "to": {"allOf": [{"$ref": "#/$defs/Place"}], "description": "target"},
            "on": {"type": "boolean"},
            "room": {"type": ["integer", "null"]},
        },
        "$defs": {"Place": PLACE},
    },
)


class TestTypesOfQwen3Coder(ToolParserChecks):
    """What pydantic writes for Optional, for models within models, and Python's spellings."""

    parser = "qwen3_coder"
    tools = (FIND,)
    answers: ClassVar = {
        f"<tool_call>\n<function=find>\n<parameter={name}>\n{text}\n</parameter>\n</function>\n</tool_call>": (
            "",
            [("find", f'{{"{name}": {value}}}')],
        )
        for name, text, value in (
            ("most", "7", "7"),
            ("most", "null", "null"),
            ("tags", '["a", "b"]', '["a", "b"]'),
            ("word", "42", '"42"'),
            ("word", "null", "null"),
            ("at", '{"x": 3}', '{"x": 3}'),
            ("to", '{"x": 4}', '{"x": 4}'),
            ("on", "True", "true"),
            ("room", "None", "null"),
        )
    }


def test_ids_of_mistral_are_its_own_or_nine_letters_and_digits() -> None:
    reader = Mistral(ToolContext())
    given = reader.feed("[TOOL_CALLS]a[CALL_ID]abc123xyz[ARGS]{}[TOOL_CALLS]b[ARGS]{}")
    ids = [call.id for call in given.calls]
    assert ids[0] == "abc123xyz"
    assert len(ids[1]) == 9
    assert ids[1].isalnum()


def test_arguments_come_while_they_are_written() -> None:
    from maxserve.plugins.parsers.hermes import Hermes

    reader = Hermes(ToolContext())
    assert reader.feed('<tool_call>{"name": "f", "arguments": ').calls == ()
    (begun,) = reader.feed('{"a": "lo').calls
    assert (begun.index, begun.name, begun.arguments) == (0, "f", '{"a": "lo')
    (more,) = reader.feed('ng"').calls
    assert (more.name, more.arguments) == ("", 'ng"')


TEMPLATES = {
    "hermes": '{%- if tools %}<tools>…</tools> return <tool_call>\n{"name": <function-name>}</tool_call>{%- endif %}',
    "qwen3_coder": "{% if tools %}<tool_call>\n<function=example>\n<parameter=a>{% endif %}",
    "mistral": "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]",
    "llama3_json": '<|start_header_id|>{% if tools %}{"name": function name, "parameters": …}<|python_tag|>{% endif %}',
    "pythonic": "<|start_header_id|>{% if tools %}[func_name1(params_name1=params_value1)]{% endif %}",
    "json": "{% for m in messages %}{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize(("name", "template"), TEMPLATES.items())
def test_a_template_tells_how_its_model_writes_calls(name: str, template: str) -> None:
    from maxserve.core.registry.entries import load_ref

    scores: dict[str, Any] = {p.name: load_ref(p.recognises)(template) for p in maxserve_tool_parsers() if p.recognises}
    assert max(scores, key=scores.__getitem__) == name
    assert sorted(scores.values())[-2] < scores[name]


WHOLE = ("}", "]", ")", ">", "`", ".", "\n", "ok", "on", "no", "7]")


def test_calls_that_are_whole_have_arguments_that_are_objects() -> None:
    for checks in (TestHermes, TestLlama3, TestMistral, TestPythonic, TestPlainJson, TestQwen3Coder):
        for text in filter(lambda text: text.endswith(WHOLE), checks.answers):
            reader = checks().reader()
            for _, arguments in gathered([reader.feed(text), reader.finish()])[2]:
                assert isinstance(json.loads(written(arguments)), dict)


def written(arguments: str) -> str:
    """What leaves of the arguments of a call."""
    text = CallArguments()
    return text.feed(arguments) + text.close()
