"""Templates that never end, or grow without end, are stopped."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.plugins.api.common import template_sandbox
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.template_sandbox import OutOfTime, within

USER = [{"role": "user", "content": "x"}]
LOOPS = "".join(f"{{% for {name} in range(99999) %}}" for name in "abcd") + "{% endfor %}" * 4
ENDLESS = [
    LOOPS,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{{ messages[0].content * 10 ** 12 }}",
    "{{ 7 ** (10 ** 12) }}",
    "{{ messages[0].content.ljust(10 ** 11) }}",
    "{{ messages[0].content | center(100000000000) }}",
    "{{ '%99999999999d' % 1 }}",
    "{{ '%99999999999d' | format(1) }}",
    "{{ '{:99999999999}'.format(1) }}",
    "{% set n = namespace(x='x' * 9999) %}{{ n.x.replace('x', n.x) }}",
    "{% set n = namespace(x='x' * 9999) %}{{ n.x | replace('x', n.x) }}",
    "{% set n = namespace(x='x' * 9999) %}{{ ([n.x] * 9999) | join(n.x) }}",
    "{% set n = namespace(x='x' * 9999) %}{{ n.x.join([n.x] * 9999) }}",
    "{% set n = namespace(x='\\n' * 9999) %}{{ n.x | indent(99999) }}",
    "{{ [1] | batch(99999999999, 0) | list }}",
    "{{ [1] | slice(99999999999) | list }}",
    "{{ 1.5 | round(99999999999, 'ceil') }}",
    "{{ [1] | tojson(indent=99999999999) }}",
    "{% set x = [1] %}{% for i in x %}{% set _ = x.append(1) %}{% endfor %}",
]


@pytest.fixture(autouse=True)
def short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that are reached soon."""
    monkeypatch.setattr(template_sandbox, "LONGEST_TEXT", 1 << 20)
    monkeypatch.setattr(template_sandbox, "MOST_STEPS", 200_000)


@pytest.mark.parametrize("source", ENDLESS)
def test_at_the_start(source: str, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(source)
    with pytest.raises(ModelError, match=r"cannot be used: it .*; give another one with --chat-template") as caught:
        JinjaTemplate.load(str(tmp_path), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ENDLESS)
def test_in_a_request(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "PROBE_STEPS", 20_000)
    guarded = "{% if messages | length == 1 %}" + source + "{% endif %}"
    with pytest.raises(RequestError, match="refused the conversation: it "):
        JinjaTemplate({"default": guarded}).render({"messages": USER})


def test_long_conversations_are_within_the_bounds() -> None:
    source = (
        "{% for m in messages %}{% for n in messages[-9:] %}{{ n.role[0] }}{% endfor %}"
        "{{ ('<' ~ m.role ~ '>') + m.content + '\\n' }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "x" * 100}] * 5000
    assert len(JinjaTemplate({"default": source}).render({"messages": messages})) == 5000 * 116


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in b %}" * 40 + "{% endfor %}" * 40,  # more blocks than Python nests
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    ],
)
def test_what_the_compiler_cannot_take_is_one_line(source: str) -> None:
    with pytest.raises(ModelError, match="give another one with --chat-template") as caught:
        JinjaTemplate({"default": source})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 9007199254740991 | tojson }}",
        "{{ 9007199254740991 | round }}",
        "{{ '%d of 12345678901' | format(9007199254740991) }}",
        "{{ '%s' % 9007199254740991 }}",
        "{{ '{} 12345678901'.format(9007199254740991) }}",
    ],
)
def test_numbers_that_are_shown_are_no_widths(text: str) -> None:
    template = JinjaTemplate({"default": text})
    shown = template.render({"messages": USER})
    assert "9007199254740991" in shown


def test_gives_what_the_call_gives() -> None:
    assert within(60, lambda: 7) == 7
    with pytest.raises(KeyError, match="a"):
        within(60, lambda: {}["a"])


def test_a_call_without_end_is_ended() -> None:
    def forever() -> None:
        while True:
            pass

    begun = time.monotonic()
    with pytest.raises(OutOfTime, match=r"it took more than 0\.2 s"):
        within(0.2, forever)
    while any(thread.name == "limited" for thread in threading.enumerate()):
        assert time.monotonic() - begun < 60, "the thread goes on"
        time.sleep(0.05)
