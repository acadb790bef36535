"""POST /v1/completions: plain continuation of texts or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ServerContext
from maxserve.plugins.openai.chunks import json_of
from maxserve.plugins.openai.job import encoded
from maxserve.plugins.openai.schema import MOST_PROMPTS, CompletionBody


class Completions:
    """The `Wording` of plain completions."""

    path = "/v1/completions"
    body = CompletionBody
    id_prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"
    prompt_field = "prompt"
    default_limit: int | None = 16  # what this route has always had

    def __init__(self, context: ServerContext) -> None:
        self._tokenizer = context.tokenizer
        self._info = context.model

    def prompts(self, body: CompletionBody) -> list[list[int]]:
        prompts = _several(body.prompt)
        if not 0 < len(prompts) <= MOST_PROMPTS:
            raise RequestError(f"prompt: 1 to {MOST_PROMPTS} prompts are taken, got {len(prompts)}", param="prompt")
        return [self._tokens(prompt) for prompt in prompts]

    def choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}

    def opening(self, index: int) -> None:
        return None

    def text(self, index: int, text: str) -> bytes:
        return _choice(index, json_of(text))

    def closing(self, index: int, finish: str) -> bytes:
        return _choice(index, b'""', json_of(finish))

    def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return encoded(prompt, self._tokenizer, self._info, add_special_tokens=True, prompt_field=self.prompt_field)
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
