"""Bodies made from /openapi.json, and bodies broken at random, never make a server fail."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode

from maxserve.testing.live import LiveServer

BODIES = 2000
EXAMPLES = 8  # for each operation


@pytest.fixture(scope="module")
def server(model_folder: Callable[..., Path], serving: Any) -> Iterator[LiveServer]:
    options = ("--model", str(model_folder()), "--served-model-name", "tiny", "--max-length", "128")
    with serving(*options) as server:
        yield server


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis_finds_no_failure(server: LiveServer, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: list[str] = []
    quick = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with httpx.Client(base_url=server.url, timeout=30) as http:
        for result in schema.get_all_operations():
            operation: Any = result.ok()

            @quick
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Any) -> None:
                response = case.call(session=None, timeout=30)
                assert response.status_code < 500, (case.as_curl_command(), response.text[:300])

            try:
                check()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:  # an operation without parameters has no wrong ones
                    raise
            asked.append(operation.label)
        assert http.get("/health").status_code == 200
    assert any("/v1/chat/completions" in label for label in asked)
    assert len(asked) > 15


GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "model": "tiny"},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
}
FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "n", "stop", "seed", "stream", "logprobs", "top_logprobs", "tools"),
    *(
        "tool_choice",
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_grammar",
        "prompt",
    ),
    *("messages", "logit_bias", "bad_words", "allowed_token_ids", "min_tokens", "priority", "echo", "max_tokens"),
    *("stop_token_ids", "input", "system", "thinking", "text", "cache_salt", "prompt_logprobs", "chat_template_kwargs"),
    *("frequency_penalty", "repetition_penalty", "return_token_ids", "stream_options", "user", "model", "metadata", ""),
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        0.5,
        -0.0,
        1e308,
        2**63,
        -(2**63),
        10**30,
        "",
        "tiny",
        "\ud800",
        "\x00",
        "🙂",
        "\\",
    ),
    *([], {}, [[]], [{}], {"": {}}, [None], ["", ""], [1, 2], [-1], [2**40], ["a"] * 20, "(" * 50, "a" * 3000),
    *(
        {"type": "json_object"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
    ),
    *(
        {"regex": "\\"},
        {"regex": "(?=a)"},
        {"json": {"type": "string", "minLength": 5, "maxLength": 2}},
        {"choice": []},
    ),
    *(
        {"grammar": "root ::= "},
        {"json": {"$ref": "#/a~1b"}},
        {"type": "function"},
        {"include_usage": True},
        "required",
    ),
    *([{"type": "function", "function": {"name": "f"}}], {"5": 200}, {"x": 1}, {"1": -100}, [{"role": "user"}], "auto"),
    [{"role": "tool", "content": "x"}],
    [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
)


def test_broken_bodies(server: LiveServer) -> None:
    """Up to three fields of a good body are replaced, by values that are wrong in one way or another."""
    random_ = random.Random(11)
    statuses: dict[int, int] = {}
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for _ in range(BODIES):
            path = random_.choice(list(GOOD))
            body = {
                **GOOD[path],
                **{random_.choice(FIELDS): random_.choice(VALUES) for _ in range(random_.randint(1, 3))},
            }
            data = json.dumps(body).encode()
            if random_.random() < 0.05:
                data = data[: random_.randrange(len(data))]
            answer = http.post(path, content=data, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (path, data, answer.text[:300])
            assert b'"code":"internal_error"' not in answer.content, (path, data, answer.text[-300:])
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert http.get("/health").status_code == 200
    assert statuses.keys() <= {200, 400, 404}, statuses
    assert min(statuses.get(200, 0), statuses.get(400, 0)) > BODIES // 20, statuses
