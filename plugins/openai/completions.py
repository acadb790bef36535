"""POST /v1/completions: plain continuation of texts or token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from maxserve.core.answers.answering import Answering, Generation
from maxserve.core.answers.jobs import encoded
from maxserve.core.answers.parts import Answer, Part
from maxserve.core.errors import RequestError
from maxserve.plugins.openai.chunks import json_of
from maxserve.plugins.openai.completion_body import MOST_PROMPTS, CompletionBody

DEFAULT_LIMIT = 16  # tokens; what this route has always had


class Completions:
    """The `Wording` of plain completions."""

    path = "/v1/completions"
    body = CompletionBody
    id_prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._tokenizer = answering.context.tokenizer
        self._info = answering.context.model

    async def begin(self, body: CompletionBody, user: str) -> Generation:
        prompts = await asyncio.to_thread(self._prompts, body)
        return await self._answering.complete(body, prompts, user=user, default_limit=DEFAULT_LIMIT)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        return {"index": index, "text": answer.content, "logprobs": None, "finish_reason": answer.finish}

    def opening(self, index: int) -> None:
        return None

    def part(self, index: int, part: Part) -> bytes | None:
        return _choice(index, json_of(part.content)) if part.content else None

    def closing(self, index: int, part: Part) -> bytes:
        return _choice(index, b'""', json_of(part.finish))

    def _prompts(self, body: CompletionBody) -> list[list[int]]:
        prompts = _several(body.prompt)
        if not 0 < len(prompts) <= MOST_PROMPTS:
            raise RequestError(f"prompt: 1 to {MOST_PROMPTS} prompts are taken, got {len(prompts)}", param="prompt")
        return [self._tokens(prompt) for prompt in prompts]

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return encoded(prompt, self._tokenizer, self._info, add_special_tokens=True, prompt_field="prompt")
        vocab_size = self._info.vocab_size
        bad = next((token for token in prompt if token >= vocab_size), None)
        if bad is not None:
            message = f"prompt: token id {bad} is outside the vocabulary of {vocab_size} tokens"
            raise RequestError(message, param="prompt")
        return prompt


def _several(prompt: Any) -> Sequence[str | list[int]]:
    """A single prompt as a list of one."""
    alone = isinstance(prompt, str) or bool(prompt and isinstance(prompt[0], int))
    prompts: Sequence[str | list[int]] = [prompt] if alone else prompt
    return prompts


def _choice(index: int, text: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b}' % (index, text, finish)
