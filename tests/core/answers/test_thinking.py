from __future__ import annotations

import pytest

from maxserve.core.answers.thinking import ThinkingControls
from maxserve.core.model.chat_template import ChatTemplate


@pytest.mark.parametrize(
    ("sources", "switch", "graded"),
    [
        ({"default": "{% if enable_thinking is defined %}{{ thinking }}{% endif %}"}, "enable_thinking", False),
        ({"default": "{% set thinking = false %}{{ thinking }}"}, None, False),
        ({"default": "he was thinking of enable_thinking"}, None, False),
        ({"default": "x", "tool_use": "{{ reasoning_effort }}"}, None, True),
        ({"a": "x", "b": "{{ thinking }}"}, None, False),
        ({}, None, False),
    ],
)
def test_what_the_template_reads(sources: dict[str, str], switch: str | None, graded: bool) -> None:
    controls = ThinkingControls.of(ChatTemplate(sources))
    assert (controls.switch, controls.graded) == (switch, graded)


def test_efforts() -> None:
    both = ThinkingControls(switch="thinking", graded=True)
    assert both.effort("low", param="e") == ({"reasoning_effort": "low"}, [])
    assert both.effort("none", param="e") == ({"thinking": False}, [])
    assert ThinkingControls(graded=True).effort("none", param="e") == ({"reasoning_effort": "none"}, [])
    variables, [warning] = ThinkingControls(switch="thinking").effort("high", param="e")
    assert variables == {"thinking": True}
    assert "no degrees" in warning
    for effort in ("high", "none"):
        variables, [warning] = ThinkingControls().effort(effort, param="e")
        assert variables == {}
        assert "e: " in warning
        assert "no switch" in warning
