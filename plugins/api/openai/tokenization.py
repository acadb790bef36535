"""POST /tokenize and /detokenize: what does the model see of a text, and what do token ids say?"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, model_validator

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.tokenizer import TruncationSide
from maxserve.plugins.api.common.answering import MANY, Answering
from maxserve.plugins.api.common.bodies import ChatBody, TokenIds
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.json_body import later_schema, read_body
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.requests import encoded
from maxserve.plugins.api.common.threads import in_thread_if
from maxserve.plugins.api.common.truncation import truncation_of
from maxserve.plugins.api.common.unsupported import warnings_of

MOST_TOKENS = 1 << 20
PREFIXES = ("", "/v1")  # clients know these paths with and without


class TokenizeBody(Body):
    """A text (`prompt`), or a conversation (`messages`) as /v1/chat/completions takes it."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = Field(
        None, description="put those in that begin a text; default true, false for `messages`"
    )
    truncate_prompt_tokens: int | None = Field(None, description="cut the tokens to so many, -1 to the model's length")
    truncation_side: TruncationSide | None = Field(None, description="where they are cut: left (the default) or right")
    return_token_strs: bool | None = Field(None, description="also what the vocabulary calls each token")

    @model_validator(mode="after")
    def _one_text(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise RequestError("give either prompt or messages", param="prompt", code="invalid_value")
        return self


class DetokenizeBody(Body):
    """Token ids."""

    model: str | None = None
    tokens: Annotated[TokenIds, Field(max_length=MOST_TOKENS)]


class Tokenization:
    """Both directions, with the served model's tokenizer and chat template."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._context = answering.context
        self._chat = answering.body(ChatBody)

    def add_to(self, router: APIRouter) -> None:
        for prefix in PREFIXES:
            for path, answer, body in (
                ("/tokenize", self.tokenize, TokenizeBody),
                ("/detokenize", self.detokenize, DetokenizeBody),
            ):
                router.add_api_route(
                    prefix + path, answer, methods=["POST"], response_model=None, openapi_extra=later_schema(body)
                )

    async def tokenize(self, request: Request) -> dict[str, Any]:
        body = await read_body(request, TokenizeBody)
        await self._context.names.load(body.model)
        self._context.names.get(body.model)
        ids = await self._ids(body)
        answer: dict[str, Any] = {"count": len(ids), "max_model_len": self._context.model.max_length, "tokens": ids}
        names = [self._context.tokenizer.token(id) for id in ids] if body.return_token_strs else None
        return {**answer, "token_strs": names, **self._warned(body if body.messages is None else None)}

    async def detokenize(self, request: Request) -> dict[str, Any]:
        body = await read_body(request, DetokenizeBody)
        await self._context.names.load(body.model)
        self._context.names.get(body.model)
        tokenizer = self._context.tokenizer
        for place, id in enumerate(body.tokens):
            if not tokenizer.token(id):
                raise RequestError(f"tokens: the vocabulary has no token {id}", param=f"tokens[{place}]")
        text = await self._answering.threads.run(partial(tokenizer.decode, body.tokens, skip_special_tokens=False))
        return {"prompt": text, **self._warned(body)}

    async def _ids(self, body: TokenizeBody) -> list[int]:
        context = self._context
        longest = context.model.max_length
        truncation = truncation_of(body.truncate_prompt_tokens, longest, body.truncation_side or "left")
        if body.prompt is not None:
            with_special = body.add_special_tokens is not False
            ids = partial(
                encoded,
                body.prompt,
                context.tokenizer,
                context.model,
                add_special_tokens=with_special,
                prompt_field="prompt",
                truncation=truncation,
            )
            return await self._answering.threads.run(ids)
        named = {
            "add_special_tokens": body.add_special_tokens,
            "truncate_prompt_tokens": body.truncate_prompt_tokens,
            "truncation_side": body.truncation_side,
        }
        fields = {"messages": body.messages, **named, **body.unknown()}
        many = len(body.messages or ()) > MANY
        chat = await in_thread_if(many, lambda: self._chat.model_validate(fields, strict=True))
        self._warned(chat)
        return await self._answering.prompt(chat)

    def _warned(self, body: Body | None) -> dict[str, Any]:
        if body is None:
            return {}
        strict = self._context.config(AnswerOptions).strict_fields
        warnings = warnings_of(body.unknown(), strict=strict)
        return {"warnings": warnings} if warnings else {}
