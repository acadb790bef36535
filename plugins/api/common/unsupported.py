"""Which fields of OpenAI's API and its relatives are known, but not served yet?

Each is accepted with the values that ask for nothing. A sampler that brings such a field takes it out of here by
declaring it. What is in none of the lists is unknown: accepted, and listed for the client in `warnings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from maxserve.interfaces.errors import RequestError

MOST_WARNINGS = 20


class Neutral(msgspec.Struct, frozen=True):
    """The values of a field that ask for nothing; none means that every value asks for something."""

    values: tuple[Any, ...] = ()

    def __call__(self, value: Any) -> bool:
        return any(_same(value, each) for each in self.values)


def _same(value: Any, other: Any) -> bool:
    """Equal and of one type, where a whole number and a fraction are one: 0 is 0.0, but not false."""
    numbers = (int, float)
    return value == other and (type(value) is type(other) or (type(value) in numbers and type(other) in numbers))


def one_of(*values: Any) -> Neutral:
    return Neutral(values)


_never = Neutral()

OFF, EMPTY = one_of(False), one_of([], {}, "")

UNSUPPORTED: Mapping[str, Neutral] = {
    "top_logprobs": one_of(0),
    "logprob_token_ids": EMPTY,
    "length_penalty": one_of(1),
    "use_beam_search": OFF,
    "spaces_between_special_tokens": one_of(True),
    "structural_tag": _never,
    "tools": EMPTY,
    "tool_choice": one_of("none", "auto"),
    "parallel_tool_calls": one_of(True, False),  # a plain completion makes no calls
    "functions": EMPTY,
    "function_call": one_of("none", "auto"),
    "echo": OFF,
    "suffix": EMPTY,
    "best_of": one_of(1),
    "prompt_embeds": EMPTY,
    "audio": _never,
    "modalities": one_of(["text"]),
    "prediction": _never,
    "web_search_options": _never,
    "documents": EMPTY,
    "chat_template": _never,
    "logits_processors": EMPTY,
    "custom_logit_processor": EMPTY,
    "vllm_xargs": EMPTY,
    "stop_regex": EMPTY,
    "no_stop_trim": OFF,
    "typical_p": one_of(1),
    "input_ids": EMPTY,
    "prompt_tokens": EMPTY,
    "n_cmpl": one_of(1),
    "max_new_tokens": _never,
    "lora": EMPTY,
    "lora_path": EMPTY,
    "adapter_id": EMPTY,
    "thinking_token_budget": one_of(-1),
    "repetition_detection": EMPTY,
    "mm_processor_kwargs": EMPTY,
    "media_io_kwargs": EMPTY,
    "ec_transfer_params": EMPTY,
    "return_hidden_states": OFF,
    "return_routed_experts": OFF,
}


def warnings_of(
    unknown: Mapping[str, Any], *, strict: bool = False, unsupported: Mapping[str, Neutral] = UNSUPPORTED
) -> list[str]:
    """A line for each field that was ignored; RequestError for one of `unsupported` that asks for something.

    `strict` (`--strict-fields`): RequestError also for an unknown field.
    """
    ignored = []
    for name, value in unknown.items():
        if name not in unsupported:
            ignored.append(name)
        elif not unsupported[name](value):
            raise RequestError(f"{name} is not supported yet", param=name, code="unsupported_parameter")
    if strict and ignored:
        message = f"the field {ignored[0][:64]!r} is not known, and this server takes known ones only (--strict-fields)"
        raise RequestError(message, param=ignored[0][:64], code="unknown_field")
    lines = [f"the field {name[:64]!r} is not known and was ignored" for name in ignored[:MOST_WARNINGS]]
    if len(ignored) > MOST_WARNINGS:
        lines.append(f"{len(ignored) - MOST_WARNINGS} more fields are not known and were ignored")
    return lines
