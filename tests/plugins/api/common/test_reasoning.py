from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.reasoning import ReasoningControls, ReasoningFields


@pytest.mark.parametrize(
    ("sources", "switch", "degree"),
    [
        ({"default": "{% if enable_thinking is defined %}{{ thinking }}{% endif %}"}, "enable_thinking", None),
        ({"default": "{% set thinking = false %}{{ thinking }}"}, None, None),
        ({"default": "he was thinking of enable_thinking"}, None, None),
        ({"default": "x", "tool_use": "{{ reasoning_effort }}"}, None, "reasoning_effort"),
        ({"a": "x", "b": "{{ thinking }}"}, None, None),
        ({"default": "{{ thinking_effort }}"}, None, "thinking_effort"),
        ({}, None, None),
    ],
)
def test_what_the_template_reads(sources: dict[str, str], switch: str | None, degree: str | None) -> None:
    controls = ReasoningControls.of(ChatRenderer(JinjaTemplate(sources), {}))
    assert (controls.switch, controls.degree) == (switch, degree)


def test_efforts() -> None:
    both = ReasoningControls(switch="thinking", degree="reasoning_effort")
    assert both.effort("low", param="e") == ({"reasoning_effort": "low", "thinking": True}, [])
    assert both.effort("none", param="e") == ({"thinking": False}, [])
    assert both.effort("auto", param="e") == ({}, [])
    graded = ReasoningControls(degree="thinking_effort")
    assert graded.effort("none", param="e") == ({"thinking_effort": "none"}, [])
    variables, [warning] = ReasoningControls(switch="thinking").effort("high", param="e")
    assert variables == {"thinking": True}
    assert "no degrees" in warning
    for effort in ("high", "none"):
        variables, [warning] = ReasoningControls().effort(effort, param="e")
        assert variables == {}
        assert "no switch" in warning


PICKY = """\
{%- if reasoning_effort not in ['no_think', 'low', 'high'] %}{{ raise_exception('no ' + reasoning_effort) }}{% endif %}
{{- bos_token + reasoning_effort }}"""


def test_an_effort_that_the_template_refuses_becomes_the_nearest_that_it_renders() -> None:
    controls = ReasoningControls.of(ChatRenderer(JinjaTemplate({"default": PICKY}), {"bos_token": "<s>"}))
    rendered = {}
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"):
        rendered[effort], warnings = controls.effort(effort, param="reasoning_effort")
        assert bool(warnings) == (rendered[effort] != {"reasoning_effort": effort})
    assert [variables["reasoning_effort"] for variables in rendered.values()] == [
        *("no_think", "low", "low", "high", "high", "high", "high"),
        "ultra",
    ]


SWITCH = ReasoningControls(switch="enable_thinking")


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "enabled", "budget_tokens": 99}}, {"enable_thinking": True}),
        ({"thinking": True}, {"enable_thinking": True}),
        ({"reasoning_effort": "none"}, {"enable_thinking": False}),
        ({"reasoning": {"effort": "high"}}, {"enable_thinking": True}),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False}),
        ({"reasoning": {"max_tokens": 9}}, {}),
        ({"reasoning_effort": "high", "enable_thinking": False}, {"enable_thinking": False}),
        ({"thinking_budget": 0}, {"enable_thinking": False}),
        ({"thinking_budget": -1, "thinking_token_budget": -1, "reasoning_budget": -1}, {}),
    ],
)
def test_spellings(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    assert SWITCH.asked(ReasoningFields.model_validate(fields)).variables == variables


def test_budgets() -> None:
    seed = ReasoningControls(budgeted=True)
    assert seed.asked(ReasoningFields(thinking_token_budget=512)).variables == {"thinking_budget": 512}
    for name in ("thinking_budget", "thinking_token_budget", "reasoning_budget"):
        with pytest.raises(RequestError) as refused:
            SWITCH.asked(ReasoningFields.model_validate({name: 512}))
        assert refused.value.param == name
    (warning,) = SWITCH.asked(ReasoningFields(thinking={"type": "enabled", "budget_tokens": 9})).warnings
    assert "thinking.budget_tokens: not enforced" in warning


def test_what_is_left_out() -> None:
    assert ReasoningFields().tells_reasoning
    assert not ReasoningFields(include_reasoning=False).tells_reasoning
    assert not ReasoningFields(reasoning={"exclude": True}).tells_reasoning
