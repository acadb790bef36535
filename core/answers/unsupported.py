"""Which fields of OpenAI's API and its relatives are known, but not served yet?

Each is accepted with the values that ask for nothing. A sampler that brings such a field takes it out of here by
declaring it. What is in none of the lists is unknown: accepted, and told to the client in `warnings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maxserve.core.errors import RequestError

MOST_WARNINGS = 20

Neutral = Callable[[Any], bool]


def _one_of(*values: Any) -> Neutral:
    return lambda value: any(type(value) is type(v) and value == v for v in values)


def _number(neutral: float) -> Neutral:
    return lambda value: type(value) in (int, float) and value == neutral


def _never(value: Any) -> bool:
    return False


OFF, EMPTY = _one_of(False), _one_of([], {}, "")

UNSUPPORTED: Mapping[str, Neutral] = {
    "logprobs": OFF,
    "top_logprobs": _number(0),
    "prompt_logprobs": OFF,
    "logprob_token_ids": EMPTY,
    "return_token_ids": OFF,
    "logit_bias": EMPTY,
    "presence_penalty": _number(0),
    "frequency_penalty": _number(0),
    "repetition_penalty": _number(1),
    "length_penalty": _number(1),
    "use_beam_search": OFF,
    "min_tokens": _number(0),
    "bad_words": EMPTY,
    "allowed_token_ids": _never,
    "include_stop_str_in_output": OFF,
    "skip_special_tokens": _one_of(True),
    "spaces_between_special_tokens": _one_of(True),
    "structural_tag": _never,
    "json_schema": _never,
    "regex": _never,
    "ebnf": _never,
    "grammar": _never,
    "tools": EMPTY,
    "tool_choice": _one_of("none", "auto"),
    "parallel_tool_calls": _one_of(True, False),  # there are no calls to be made side by side
    "functions": EMPTY,
    "function_call": _one_of("none", "auto"),
    "echo": OFF,
    "suffix": EMPTY,
    "best_of": _number(1),
    "prompt_embeds": EMPTY,
    "truncate_prompt_tokens": _never,
    "audio": _never,
    "modalities": _one_of(["text"]),
    "prediction": _never,
    "web_search_options": _never,
    "documents": EMPTY,
    "chat_template": _never,
    "priority": _number(0),
    "logits_processors": EMPTY,
    "custom_logit_processor": EMPTY,
    "vllm_xargs": EMPTY,
    "stop_regex": EMPTY,
    "no_stop_trim": OFF,
    "typical_p": _number(1),
    "input_ids": EMPTY,
    "prompt_tokens": EMPTY,
    "n_cmpl": _number(1),
    "max_new_tokens": _never,
    "lora": EMPTY,
    "lora_path": EMPTY,
    "adapter_id": EMPTY,
    "thinking_token_budget": _never,
    "repetition_detection": EMPTY,
}


def warnings_of(unknown: Mapping[str, Any]) -> list[str]:
    """A line for each field that was ignored; RequestError for one that asks for what is not served yet."""
    ignored = []
    for name, value in unknown.items():
        if name not in UNSUPPORTED:
            ignored.append(name)
        elif not UNSUPPORTED[name](value):
            raise RequestError(f"{name} is not supported yet", param=name, code="unsupported_parameter")
    lines = [f"the field {name[:64]!r} is not known and was ignored" for name in ignored[:MOST_WARNINGS]]
    if len(ignored) > MOST_WARNINGS:
        lines.append(f"{len(ignored) - MOST_WARNINGS} more fields are not known and were ignored")
    return lines
