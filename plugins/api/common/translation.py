"""How does a body in another dialect become one that `Answering` takes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.bodies import TextBody
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.renaming import NOT_HERE
from maxserve.plugins.api.common.unsupported import Neutral, warnings_of

C = TypeVar("C", bound=TextBody)

# Fields of OpenAI's bodies that mean the same in every dialect, and change nothing about the form of an answer.
_SAME_EVERYWHERE = frozenset(
    {
        "add_special_tokens",
        "cache_salt",
        "enable_thinking",
        "guided_choice",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        "ignore_eos",
        "include_stop_str_in_output",
        "include_reasoning",
        "priority",
        "reasoning",
        "reasoning_budget",
        "reasoning_effort",
        "seed",
        "separate_reasoning",
        "skip_special_tokens",
        "stop_token_ids",
        "structured_outputs",
        "thinking",
        "thinking_budget",
        "thinking_token_budget",
        "truncate_prompt_tokens",
        "truncation_side",
    }
)


# Values of OpenAI's other fields that ask for nothing: clients of many servers send them everywhere.
_HARMLESS: Mapping[str, Neutral] = {
    "add_generation_prompt": Neutral((True,)),
    "continue_final_message": Neutral((False,)),
    "logprobs": Neutral((False,)),
    "n": Neutral((1,)),
    "parallel_tool_calls": Neutral((True,)),
    "response_format": Neutral(({"type": "text"},)),
    "return_token_ids": Neutral((False,)),
    "return_tokens_as_token_ids": Neutral((False,)),
    "stop": Neutral(([],)),
    "stream_options": Neutral(({}, {"include_usage": True}, {"include_usage": False})),  # usage comes anyway
    "tools": Neutral(([],)),
    "top_logprobs": Neutral((0,)),
}


class Translator(Generic[C]):
    """Makes bodies, `base` with the samplers' fields, out of bodies of other dialects.

    `taken` are fields of `base` that the dialect has by the same names, without declaring them itself.
    """

    def __init__(self, answering: Answering, base: type[C], *, taken: frozenset[str] = frozenset()) -> None:
        self._samplers = answering.sampler_fields
        self._taken = _SAME_EVERYWHERE | self._samplers | taken
        self._model = answering.body(base)
        self._strict = answering.context.config(AnswerOptions).strict_fields

    def body(self, values: Mapping[str, Any], source: Body | None) -> C:
        """The body with `values`, and what `source` has beyond its own dialect; null stands for left out.

        Of that, samplers' fields and those that mean the same everywhere are handed on, and so are unknown ones, for
        `Answering` to warn of. RequestError for a field of `base` that this dialect does not have.
        """
        fields = {} if source is None else self._handed_on(source) | self._sampling(source)
        fields |= {name: value for name, value in values.items() if value is not None}
        return self._model.model_validate(fields)

    def _sampling(self, source: Body) -> dict[str, Any]:
        return {name: value for name in self._samplers if (value := getattr(source, name, None)) is not None}

    def warnings(self, body: Body) -> list[str]:
        """A line for each field of the objects within `body` that is not known; RequestError with --strict-fields."""
        return warnings_of(dict.fromkeys(unknown_inside(body)), strict=self._strict)

    def _handed_on(self, source: Body) -> dict[str, Any]:
        given = {name: value for name, value in (source.model_extra or {}).items() if value is not None}
        foreign = [name for name in given if name in self._model.model_fields and name not in self._taken]
        for name in foreign:
            if name in _HARMLESS and _HARMLESS[name](given[name]):
                del given[name]
            else:
                message = f"{name}: a field of OpenAI's routes that this one does not have"
                raise RequestError(message, param=name, code=NOT_HERE)
        return given


def unknown_inside(body: BaseModel) -> list[str]:
    """What the objects within `body` have beyond their fields, as paths. Its own unknown fields are not among them."""
    return [path for path, depth in _unknown(body, "", 0) if depth]


def _unknown(value: Any, path: str, depth: int) -> Iterator[tuple[str, int]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, f"{path}[{index}]", depth)
    elif isinstance(value, BaseModel):
        within = f"{path}." if path else ""
        yield from ((within + name, depth) for name, extra in (value.model_extra or {}).items() if extra is not None)
        for name in value.model_fields_set & type(value).model_fields.keys():
            yield from _unknown(getattr(value, name), within + name, depth + 1)
