"""Whether, and how hard, a model thinks before it answers: what clients ask for, as variables of the chat template."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from jinja2 import meta
from pydantic import Field

from maxserve.interfaces.chat_template import ChatTemplate
from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.chat_template import syntax_tree
from maxserve.plugins.api.common.fields import Body

_SWITCHES = ("enable_thinking", "thinking")  # what templates call it
_EFFORTS = ("reasoning_effort", "thinking_effort", "reasoning_strength")
_BUDGET = "thinking_budget"
_UNSAID = ("", "auto", "default")  # efforts that ask for nothing

# What comes nearest to an effort that a template refuses, in this order.
_NEAREST: Mapping[str, tuple[str, ...]] = {
    "none": ("no_think", "off", "low"),
    "minimal": ("low",),
    "low": ("minimal", "medium"),
    "medium": ("high", "low"),
    "high": ("max", "medium"),
    "xhigh": ("max", "high"),
    "max": ("xhigh", "high"),
}


class Asked(msgspec.Struct, frozen=True):
    """Variables for the chat template, and warnings about what it has none for."""

    variables: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


class ReasoningFields(Body):
    """The fields of a chat body that are about reasoning, as OpenAI and its relatives call them."""

    reasoning_effort: str | None = Field(None, description="how hard to think, where the chat template knows degrees")
    reasoning: dict[str, Any] | None = Field(None, description="OpenRouter's object: enabled, effort, exclude")
    thinking: bool | dict[str, Any] | None = Field(None, description="on or off, or an object with the type enabled")
    enable_thinking: bool | None = Field(None, description="think or not, where the chat template has a switch")
    thinking_budget: int | None = Field(None, description="tokens of reasoning, where the chat template tells of them")
    thinking_token_budget: int | None = Field(None, description="as thinking_budget")
    reasoning_budget: int | None = Field(None, description="as thinking_budget")
    include_reasoning: bool | None = Field(None, description="false leaves the reasoning out of the answer")
    separate_reasoning: bool | None = Field(
        None, description="false leaves the reasoning in the content, with its tags"
    )

    @property
    def tells_reasoning(self) -> bool:
        return self.include_reasoning is not False and not (self.reasoning or {}).get("exclude")

    @property
    def budgets(self) -> dict[str, int]:
        """The limits that were asked for, by field; -1 is none."""
        named = {name: getattr(self, name) for name in (_BUDGET, "thinking_token_budget", "reasoning_budget")}
        return {name: value for name, value in named.items() if value is not None and value >= 0}


class ReasoningControls(msgspec.Struct, frozen=True, kw_only=True):
    """What the chat template reads: a variable that turns thinking on and off, one for its degree, one for a budget.

    `efforts` are the degrees that it renders, by what clients call them.
    """

    switch: str | None = None
    degree: str | None = None
    budgeted: bool = False
    efforts: Mapping[str, str] | None = None

    @classmethod
    def of(cls, renderer: ChatRenderer) -> ReasoningControls:
        known = _variables(renderer.template)
        degree = next((name for name in _EFFORTS if name in known), None)
        return cls(
            switch=next((name for name in _SWITCHES if name in known), None),
            degree=degree,
            budgeted=_BUDGET in known,
            efforts=None if degree is None else _efforts(renderer, degree),
        )

    def asked(self, fields: ReasoningFields) -> Asked:
        """What `fields` say; RequestError for a budget that cannot be kept."""
        variables: dict[str, Any] = {}
        warnings: list[str] = []
        for more, lines in (*self._degrees(fields), *self._switches(fields), *self._budgets(fields)):
            variables |= more
            warnings += lines
        return Asked(variables, tuple(dict.fromkeys(warnings)))

    def switched(self, on: bool, *, param: str) -> tuple[dict[str, Any], list[str]]:
        """The template's variables for thinking or not, and warnings where it has no switch.

        Agents ask any model to think. One that cannot answers as it does, which is no wrong answer.
        """
        if self.switch is not None:
            return {self.switch: on}, []
        return {}, [f"{param}: this model's chat template has no switch for thinking, so nothing was switched"]

    def effort(self, effort: str, *, param: str) -> tuple[dict[str, Any], list[str]]:
        """Likewise for an effort, of which "none" means no thinking at all. A request for a degree asks to think."""
        if effort in _UNSAID:
            return {}, []
        on = effort != "none"
        if self.degree is not None and (on or self.switch is None):
            rendered = (self.efforts or {}).get(effort, effort)
            notes = (
                [] if rendered == effort else [f"{param}: this model's chat template knows no {effort!r}: {rendered!r}"]
            )
            return {self.degree: rendered} | ({} if self.switch is None else {self.switch: True}), notes
        variables, warnings = self.switched(on, param=param)
        if on and self.switch is not None:
            warnings.append(f"{param}: this model's chat template knows thinking and no thinking, but no degrees of it")
        return variables, warnings

    def _degrees(self, fields: ReasoningFields) -> Iterable[tuple[dict[str, Any], list[str]]]:
        for param, effort in (
            ("reasoning.effort", (fields.reasoning or {}).get("effort")),
            ("reasoning_effort", fields.reasoning_effort),
        ):
            if effort is not None:
                yield self.effort(_text(effort, param), param=param)

    def _switches(self, fields: ReasoningFields) -> Iterable[tuple[dict[str, Any], list[str]]]:
        reasoning, thinking = fields.reasoning or {}, fields.thinking
        if isinstance(enabled := reasoning.get("enabled"), bool):
            yield self.switched(enabled, param="reasoning.enabled")
        if isinstance(thinking, dict):
            kind = _text(thinking.get("type", "enabled"), "thinking.type")
            yield self.switched(kind not in ("disabled", "none"), param="thinking")
        elif thinking is not None:
            yield self.switched(thinking, param="thinking")
        if fields.enable_thinking is not None:
            yield self.switched(fields.enable_thinking, param="enable_thinking")
        inner = {"reasoning.max_tokens": reasoning.get("max_tokens")}
        inner["thinking.budget_tokens"] = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
        for name, value in inner.items():
            if value is not None:
                yield {}, [f"{name}: not enforced; max_completion_tokens bounds reasoning and answer together"]

    def _budgets(self, fields: ReasoningFields) -> Iterable[tuple[dict[str, Any], list[str]]]:
        for name, budget in fields.budgets.items():
            if self.budgeted:
                yield {_BUDGET: budget}, []
            elif budget == 0:
                yield self.switched(False, param=name)
            else:
                message = (
                    f"{name}: reasoning cannot be bounded apart from the answer; "
                    "max_completion_tokens bounds both together, and 0 switches thinking off"
                )
                raise RequestError(message, param=name, code="unsupported_parameter")


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or len(value) > 32:
        raise RequestError(f"{param} must be a short text", param=param)
    return value


def _variables(template: ChatTemplate) -> set[str]:
    """What the template reads, with tools or without; nothing where there is none."""
    found = set[str]()
    for tools in (False, True):
        with suppress(RequestError):  # several, and none of them the default one
            tree = syntax_tree(template, tools=tools)
            found |= set() if tree is None else meta.find_undeclared_variables(tree)
    return found


def _efforts(renderer: ChatRenderer, degree: str) -> dict[str, str]:
    """What the template renders for each effort: itself, or what comes nearest where it refuses that."""
    renders = {word for words in _NEAREST.items() for word in (words[0], *words[1])}
    renders = {word for word in renders if _renders(renderer, degree, word)}
    return {
        effort: next((word for word in (effort, *nearest) if word in renders), effort)
        for effort, nearest in _NEAREST.items()
    }


def _renders(renderer: ChatRenderer, degree: str, word: str) -> bool:
    variables: dict[str, Any] = {degree: word, **dict.fromkeys(_SWITCHES, True)}
    try:
        renderer.render([{"role": "user", "content": "?"}], **variables)
    except RequestError:
        return False
    return True
