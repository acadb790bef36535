"""Can a client say whether, and how hard, the model thinks before it answers?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jinja2 import meta

from maxserve.core.errors import RequestError
from maxserve.core.model.chat_template import ChatTemplate
from maxserve.core.model.template_environment import template_environment

_SWITCHES = ("enable_thinking", "thinking")  # what templates call it
_EFFORT = "reasoning_effort"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingControls:
    """What the chat template reads: a variable that turns thinking on and off, and whether there is one for effort."""

    switch: str | None = None
    graded: bool = False

    @classmethod
    def of(cls, template: ChatTemplate) -> ThinkingControls:
        known = _variables(source for tools in (False, True) if (source := _source(template, tools)) is not None)
        return cls(switch=next((name for name in _SWITCHES if name in known), None), graded=_EFFORT in known)

    def switched(self, on: bool, *, param: str) -> tuple[dict[str, Any], list[str]]:
        """The template's variables for thinking or not, and warnings where it has no switch.

        Agents ask any model to think. One that cannot answers as it does, which is no wrong answer.
        """
        if self.switch is not None:
            return {self.switch: on}, []
        return {}, [f"{param}: this model's chat template has no switch for thinking, so nothing was switched"]

    def effort(self, effort: str, *, param: str) -> tuple[dict[str, Any], list[str]]:
        """Likewise for an effort, of which "none" means no thinking at all."""
        if self.graded and (effort != "none" or self.switch is None):
            return {_EFFORT: effort}, []
        variables, warnings = self.switched(effort != "none", param=param)
        if effort != "none" and self.switch is not None:
            warnings.append(f"{param}: this model's chat template knows thinking and no thinking, but no degrees of it")
        return variables, warnings


def _source(template: ChatTemplate, tools: bool) -> str | None:
    try:
        return template.source(tools=tools)
    except RequestError:
        return None


def _variables(sources: Iterable[str]) -> set[str]:
    environment = template_environment()
    return {name for source in sources for name in meta.find_undeclared_variables(environment.parse(source))}
