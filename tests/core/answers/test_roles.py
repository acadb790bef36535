from __future__ import annotations

import pytest

from maxserve.core.answers.roles import knows_developer
from maxserve.core.model.chat_template import ChatTemplate

PRINTS_ANY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
BOTH = "{% for m in messages %}{{ 'S' if m.role in ('system', 'developer') else 'U' }}{{ m.content }}{% endfor %}"
DROPS_OTHERS = "{% for m in messages if m.role in ('system', 'user') %}{{ m.content }}{% endfor %}"
REFUSES = "{% for m in messages %}{{ m.content if m.role in KNOWN else raise_exception('role') }}{% endfor %}"


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
    assert knows_developer(ChatTemplate({"default": source}), {}) is known


def test_without_a_template_nothing_is_known() -> None:
    assert knows_developer(ChatTemplate({}), {}) is False
