"""The comparison with transformers, on templates written here that do what published ones do."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "chat_templates.py"

TOOLS_AS_JSON = "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}\n{% endfor %}</tools>{% endif %}"
# Tags for each role, thoughts cut out of the past, calls as JSON: objects or text, whichever comes.
TAGGED = (
    TOOLS_AS_JSON + "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.content is string and m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% elif m.content is string %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{% set c = c.function or c %}\n<tool_call>\n"
    '{"name": "{{ c.name }}", "arguments": {{ c.arguments if c.arguments is string else c.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Arguments one by one, contents as strings or parts, no role but the known ones.
ELEMENTS = (
    "{% macro text(content) %}{% if content is string %}{{ content | trim }}{% else %}{% for p in content or [] %}"
    "{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endmacro %}"
    + TOOLS_AS_JSON
    + "{% for m in messages %}{% if m.role == 'tool' %}<response>{{ text(m.content) }}</response>"
    "{% elif m.role in ['system', 'user', 'assistant'] %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ text(m.content) }}"
    "{% if m.tool_calls is defined and m.tool_calls is iterable %}{% for c in m.tool_calls %}"
    "<function={{ c.function.name }}>{% for name, value in c.function.arguments | items %}<parameter={{ name }}>"
    "{{ value if value is string else value | tojson }}</parameter>{% endfor %}</function>{% endfor %}{% endif %}"
    "{% else %}{{ raise_exception('unknown role ' ~ m.role) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Roles that alternate, a system message of the first user's, ids of nine letters.
BRACKETS = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% set ns = namespace(user=true) %}{% for m in turns %}"
    "{% if m.role in ('user', 'assistant') and not m.tool_calls %}{% if (m.role == 'user') != ns.user %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% set ns.user = not ns.user %}{% endif %}"
    "{% if m.role == 'user' %}{% if loop.last and tools %}[TOOLS]{{ tools | tojson }}{% endif %}"
    "[INST]{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'tool' %}[RESULT]{{ m.content }}[/RESULT]"
    "{% elif m.tool_calls is defined and m.tool_calls is not none %}[CALLS]{% for c in m.tool_calls %}"
    "{% if c.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}"
    "{{ c.function | tojson }}{% endfor %}{{ eos_token }}"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only users and assistants') }}{% endif %}{% endfor %}"
)
# Neither a system role nor tools.
PLAIN = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
# Arguments as text, calls that are shown only where the content is null, one system message.
TEXTUAL = (
    TOOLS_AS_JSON + "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('the system comes first') }}{% endif %}{% if m.role == 'assistant' and m.content is none %}"
    "<calls>{% for c in m.tool_calls %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}</calls>"
    "{% elif m.role == 'tool' %}<output>{{ m.content }}</output>{% else %}<{{ m.role }}>{{ m.content }}{% endif %}"
    "{% endfor %}"
)
# Goes through a list of tools, whether there are any or not; one call at a time; a developer of its own.
STRICT = (
    "{% for t in tools %}{{ t.function.name }}({{ t.function.parameters.properties | tojson }}){% endfor %}"
    "{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}{{ m.tool_calls[0].function.arguments | tojson }}"
    "{{ m.tool_calls[0].function.name }}{% elif m.role == 'developer' %}DEVELOPER {{ m.content }}"
    "{% elif m.content is mapping or m.content is sequence and m.content is not string %}{{ m.content | tojson }}"
    "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "tagged": TAGGED,
    "elements": ELEMENTS,
    "brackets": BRACKETS,
    "plain": PLAIN,
    "textual": TEXTUAL,
    "strict": STRICT,
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("chat_templates", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chat_templates"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["chat_templates"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_conversation_is_transformers_or_has_a_reason(script: ModuleType, name: str) -> None:
    outcomes = list(script.compare(name, TEMPLATES[name]))
    assert len(outcomes) == 18
    assert [o for o in outcomes if o.verdict in ("different", "refused")] == []
    if name in ("tagged", "elements"):
        assert sum(o.verdict == "equal" for o in outcomes) >= 12


def test_what_differs_is_told_apart(script: ModuleType) -> None:
    outcomes = {o.conversation: o for o in script.compare("plain", PLAIN)}
    assert outcomes["one user"].verdict == "equal"
    assert outcomes["system"].verdict == "mended"
    assert outcomes["tools"].verdict == "in words"
    outcomes = {o.conversation: o for o in script.compare("textual", TEXTUAL)}
    assert outcomes["call and result"].differences
    assert set(outcomes["call and result"].differences) <= set(script.NAMED)


def test_a_difference_without_a_name_fails(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tagged.jinja").write_text(TAGGED)
    monkeypatch.setattr(sys, "argv", ["chat_templates.py", str(tmp_path), "--json", str(tmp_path / "o.json")])
    assert script.main() == 0
    assert "1 templates, 18 conversations" in capsys.readouterr().out
    monkeypatch.setattr(script, "ours", lambda source, body: ("something else", ""))
    assert script.main() == 1
