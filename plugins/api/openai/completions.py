"""POST /v1/completions: plain continuation of texts or token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import TokenLogprob
from maxserve.interfaces.tokenizer import Tokenizer, Truncation
from maxserve.loading import validate_ids
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.answering import Answering, Generation
from maxserve.plugins.api.common.logprobs import CompletionLogprobs, TokenTexts, prompt_logprobs
from maxserve.plugins.api.common.options import EchoOptions
from maxserve.plugins.api.common.requests import RequestPlan, encoded
from maxserve.plugins.api.openai.chunks import joined, json_of
from maxserve.plugins.api.openai.completion_body import MOST_PROMPTS, CompletionBody
from maxserve.plugins.api.openai.stop_reason import stop_reason

DEFAULT_LIMIT = 16  # tokens; what this route has always had


class Completions:
    """The `ChoiceRoute` of plain completions."""

    path = "/v1/completions"
    body = CompletionBody
    id_prefix = "cmpl-"
    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._tokenizer = answering.context.tokenizer
        self._info = answering.context.model
        self._texts = TokenTexts(self._tokenizer)
        self._enable_echo = answering.context.config(EchoOptions).enable_echo

    async def begin(self, body: CompletionBody, user: str) -> Generation:
        if body.echo and not self._enable_echo:
            message = "this server repeats no prompts (--no-enable-echo)"
            raise RequestError(message, param="echo", code="unsupported_parameter")
        if body.stream and body.prompt_logprobs is not None:
            raise RequestError(
                "prompt_logprobs come with whole answers only; leave stream out", param="prompt_logprobs"
            )
        prompts = await self.prompts(body)
        return await self._answering.complete(body, prompts, user=user, default_limit=DEFAULT_LIMIT)

    async def prompts(self, body: CompletionBody) -> list[list[int]]:
        """The tokens of each prompt."""
        return await self._answering.threads.run(partial(self._prompts, body))

    def encoder(self, body: CompletionBody, plan: RequestPlan) -> CompletionEncoder:
        texts = self._texts.wanted(body.return_tokens_as_token_ids)
        return CompletionEncoder(body, plan, self._tokenizer, texts)

    def _prompts(self, body: CompletionBody) -> list[list[int]]:
        prompts = _several(body.prompt)
        if not 0 < len(prompts) <= MOST_PROMPTS:
            raise RequestError(f"prompt: 1 to {MOST_PROMPTS} prompts are taken, got {len(prompts)}", param="prompt")
        truncation = body.truncation(self._info.max_length, DEFAULT_LIMIT)
        special = body.add_special_tokens is not False
        return [self._tokens(prompt, truncation, add_special_tokens=special) for prompt in prompts]

    def _tokens(self, prompt: str | list[int], truncation: Truncation | None, *, add_special_tokens: bool) -> list[int]:
        if isinstance(prompt, str):
            return encoded(
                prompt,
                self._tokenizer,
                self._info,
                add_special_tokens=add_special_tokens,
                prompt_field="prompt",
                truncation=truncation,
            )
        validate_ids(prompt, self._info, "prompt")
        return prompt if truncation is None else list(truncation.ids(prompt))


def _several(prompt: Any) -> Sequence[str | list[int]]:
    """A single prompt as a list of one."""
    alone = isinstance(prompt, str) or bool(prompt and isinstance(prompt[0], int))
    prompts: Sequence[str | list[int]] = [prompt] if alone else prompt
    return prompts


class CompletionEncoder:
    """The `ChoiceEncoder` of plain completions. With `echo` the text of an answer begins with its prompt's."""

    def __init__(self, body: CompletionBody, plan: RequestPlan, tokenizer: Tokenizer, texts: TokenTexts) -> None:
        self._texts = texts
        self._plan = plan
        self._token_ids = bool(body.return_token_ids)
        self._logprobs = body.logprobs is not None
        self._prompt_logprobs = body.prompt_logprobs is not None
        self._hidden = tokenizer.special_ids if plan.skip_special_tokens else frozenset[int]()
        self._echoes = _echoes(body, plan, tokenizer) if body.echo else []
        self._plain = not (self._token_ids or self._logprobs or self._echoes)
        self._logprob_texts = [CompletionLogprobs(texts) for _ in plan.requests]
        self._begun = [False] * len(plan.requests)

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return {}

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        text, details = self._details(index, answer.content, answer.logprobs, answer.prompt_logprobs)
        # These are there in any case, for clients that read them as attributes.
        details["prompt_token_ids"] = self._plan.requests[index].prompt if self._token_ids else None
        details["token_ids"] = answer.tokens if self._token_ids else None
        scores = prompt_logprobs(self._texts, answer.prompt_logprobs) if self._prompt_logprobs else None
        details["prompt_logprobs"] = scores
        ended = stop_reason(self._plan.requests[index], answer.stop, answer.stop_token)
        return {"index": index, "text": text, "logprobs": None, **details, "finish_reason": answer.finish, **ended}

    def opening(self, index: int) -> None:
        return None

    def delta(self, index: int, delta: TextDelta) -> bytes | None:
        if self._plain:
            return _choice(index, json_of(delta.text)) if delta.text else None
        first = not self._begun[index]
        if not (delta.tokens or delta.text or first):
            return None
        text, details = self._details(index, delta.text, delta.logprobs, delta.prompt_logprobs)
        if self._token_ids:
            details["token_ids"] = delta.tokens
            if first:
                details["prompt_token_ids"] = self._plan.requests[index].prompt
        return json_of({"index": index, "text": text, "logprobs": None, **details, "finish_reason": None})

    def closing(self, index: int, delta: TextDelta) -> bytes:
        ended = stop_reason(self._plan.requests[index], delta.stop, delta.stop_token)
        return joined(_choice(index, b'""', json_of(delta.finish_reason)), json_of(ended))

    def _details(
        self, index: int, text: str, scores: Sequence[TokenLogprob], of_prompt: Sequence[TokenLogprob]
    ) -> tuple[str, dict[str, Any]]:
        """The text with what is echoed before it, once, and its logprobs."""
        logprob_texts = self._logprob_texts[index]
        echo = self._echoes[index // self._plan.n] if self._echoes and not self._begun[index] else None
        self._begun[index] = True
        if echo is not None:
            text = echo.text + text
        if not self._logprobs:
            return text, {}
        if echo is None:
            return text, {"logprobs": logprob_texts.answer(scores, self._hidden)}
        before = logprob_texts.prompt(self._plan.requests[index].prompt, of_prompt, echo.hidden)
        after = logprob_texts.answer(scores, self._hidden)
        return text, {"logprobs": {name: [*before[name], *after[name]] for name in before}}


class Echo(msgspec.Struct, frozen=True):
    """The text of a prompt; `hidden` are tokens that the text does not show, such as one that begins every text."""

    text: str
    hidden: frozenset[int]

    @classmethod
    def of(cls, prompt: str | list[int], tokenizer: Tokenizer) -> Echo:
        if isinstance(prompt, str):
            return cls(prompt, frozenset(id for id in tokenizer.special_ids if tokenizer.token(id) not in prompt))
        return cls(tokenizer.decode(prompt, skip_special_tokens=False), frozenset())


def _echoes(body: CompletionBody, plan: RequestPlan, tokenizer: Tokenizer) -> list[Echo]:
    """The text of each prompt; one that was cut is the text of what is left of it."""
    if body.truncate_prompt_tokens is None:
        return [Echo.of(prompt, tokenizer) for prompt in _several(body.prompt)]
    special = tokenizer.special_ids
    return [Echo(tokenizer.decode(request.prompt), special) for request in plan.requests[:: plan.n]]


def _choice(index: int, text: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":%d,"text":%b,"logprobs":null,"finish_reason":%b}' % (index, text, finish)
