"""What is found out about templates, on templates written for these tests."""

from __future__ import annotations

import pytest

from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.past_calls import CallForm
from maxserve.plugins.api.common.template_probe import TemplateProbe

PRINTS_ANY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
BOTH = "{% for m in messages %}{{ 'S' if m.role in ('system', 'developer') else 'U' }}{{ m.content }}{% endfor %}"
DROPS_OTHERS = "{% for m in messages if m.role in ('system', 'user') %}{{ m.content }}{% endfor %}"
REFUSES = "{% for m in messages %}{{ m.content if m.role in KNOWN else raise_exception('role') }}{% endfor %}"
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}[{{ m.content }}]{% endfor %}"
)
CALLS = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.name }}CALL{% endfor %}CONTENT{% endfor %}"
)


def probe(source: str) -> TemplateProbe:
    found = ChatRenderer(JinjaTemplate({"default": source}), {}).probe(tools=False)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("source", "known"),
    [
        (PRINTS_ANY, False),
        (BOTH, True),
        (DROPS_OTHERS, False),
        (REFUSES.replace("KNOWN", "('system', 'user')"), False),
        (REFUSES.replace("KNOWN", "('system', 'user', 'developer')"), True),
    ],
)
def test_a_template_knows_developers_or_not(source: str, known: bool) -> None:
    assert probe(source).developer is known


def test_without_a_template_nothing_is_known() -> None:
    assert ChatRenderer(None, {}).probe(tools=False) is None


@pytest.mark.parametrize(
    ("call", "content", "form"),
    [
        ("{{ c.function.arguments | tojson }}", "{{ m.content }}", CallForm(empties=("absent", "text"))),
        ("{{ '' + c.function.arguments }}", "{{ m.content }}", CallForm(text=True, empties=("absent", "text", "null"))),
        ("{{ c.function.arguments }}", "{{ m.content }}", CallForm(text=True, empties=("absent", "text", "null"))),
        (
            "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}",
            "{{ m.content }}",
            CallForm(empties=("absent", "text", "null"), broken_text=False),
        ),
        ("{{ c.function.arguments | tojson }}", "{{ m.content + '' }}", CallForm(empties=("text",))),
        (
            "{{ c.function.arguments | tojson if c.id | length == 9 else raise_exception('id') }}",
            "{{ m.content }}",
            CallForm(short_ids=True, empties=("absent", "text", "null")),
        ),
        (
            "{{ c.function.arguments | tojson }}",
            "{{ m.name + m.content if m.role == 'tool' else m.content }}",
            CallForm(named=True, empties=("absent", "text", "null")),
        ),
    ],
)
def test_the_form_of_past_calls(call: str, content: str, form: CallForm) -> None:
    found = probe(CALLS.replace("CALL", call).replace("CONTENT", content)).calls
    assert found is not None
    assert (found.text, found.short_ids, found.named) == (form.text, form.short_ids, form.named)
    assert found.broken_text is form.broken_text
    assert set(form.empties) <= set(found.empties)


def test_calls_that_are_shown_only_without_content() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls and m.content is none %}{% for c in m.tool_calls %}"
        "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    found = probe(source).calls
    assert found is not None
    assert found.empties == ("null",)


def test_templates_without_calls_have_no_form_of_them() -> None:
    assert probe(PRINTS_ANY).calls is None
    assert probe(REFUSES.replace("KNOWN", "('user',)")).calls is None


def test_orders_that_are_refused() -> None:
    strict, free = probe(ALTERNATES), probe(PRINTS_ANY)
    assert not (strict.first_system)
    assert not (strict.repeated_roles)
    assert not (strict.assistant_first)
    assert free.first_system
    assert free.several_systems
    assert free.later_system
    assert free.repeated_roles
    assert free.assistant_first
    assert free.takes_role("critic")
    assert not probe(REFUSES.replace("KNOWN", "('user',)")).takes_role("critic")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (PRINTS_ANY, "strings"),
        ("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}", "parts"),
        (
            "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
            "{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
            "any",
        ),
        ("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", "strings"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "unknown"),
    ],
)
def test_what_contents_are_shown(source: str, kind: str) -> None:
    assert probe(source).contents("user") == kind
