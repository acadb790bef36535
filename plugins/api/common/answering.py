"""The way from a request for text to the deltas of its answers, whatever the dialect of the route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import msgspec

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.images import ReadImage
from maxserve.interfaces.request import Constraint, Image
from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.served_names import ServedName
from maxserve.plugins.api.common.answer_text import AnswerText
from maxserve.plugins.api.common.bodies import ChatBody, TextBody
from maxserve.plugins.api.common.constraint_fields import Asked, ConstraintFields, constraint_asked
from maxserve.plugins.api.common.conversation import Conversations
from maxserve.plugins.api.common.fields import Body, RequestFields
from maxserve.plugins.api.common.generation import Deltas, generate_text
from maxserve.plugins.api.common.images import RequestImages, details
from maxserve.plugins.api.common.models import require_text
from maxserve.plugins.api.common.options import AnswerOptions, EchoOptions
from maxserve.plugins.api.common.output_parsing import OutputParser, OutputParsers
from maxserve.plugins.api.common.prompt_threads import prompt_threads
from maxserve.plugins.api.common.requests import RequestLimits, RequestPlan, plan_requests
from maxserve.plugins.api.common.threads import in_thread_if
from maxserve.plugins.api.common.tools import ToolChoice, read_tools
from maxserve.plugins.api.common.truncation import FIELD
from maxserve.plugins.api.common.unsupported import warnings_of
from maxserve.plugins.api.constraints.constraints import Constraints

B = TypeVar("B", bound=Body)

MANY = 64  # requests of one post that are made in the event loop


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """Answers on their way: `deltas` gives (index of the answer, delta) as they come; closing it aborts them all."""

    plan: RequestPlan
    deltas: Deltas
    warnings: Sequence[str] = ()


class Answering:
    """Continues prompts and conversations for the routes of a plugin."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.conversations = Conversations(context)
        self.threads = context.once(prompt_threads)
        self._bodies: dict[type[Any], type[Any]] = {}
        self._fields = RequestFields(context.params, context.model, context.tokenizer)
        self.constraints = context.owned(Constraints(context))
        self._images = RequestImages(context)
        self._parsers = OutputParsers(context)

    def body(self, base: type[B]) -> type[B]:
        """`base` with the fields of every sampler."""
        if base not in self._bodies:
            self._bodies[base] = self._fields.model(base.__name__, base)
        made: type[B] = self._bodies[base]
        return made

    @property
    def sampler_fields(self) -> frozenset[str]:
        """The request fields that belong to samplers."""
        return self._fields.names

    async def prompt(self, body: ChatBody) -> list[int]:
        """The tokens of a conversation, as `chat` would go on with them."""
        await self.admit(body)
        return (await self.rendered(body))[0]

    async def admit(self, body: TextBody) -> Sequence[str]:
        """What the client is to be warned of; RequestError when this server does not answer such requests."""
        await self._served(body)
        return self._checked(body)

    async def rendered(self, body: ChatBody) -> tuple[list[int], tuple[Image, ...]]:
        """The tokens of a conversation that was admitted, and the images that stand in them."""
        images = await self._images.read(body.images)
        _, prompt, placed = await self.threads.run(partial(self._chat_prompt, body, read_tools(body), images))
        return prompt, placed

    def capabilities(self, body: type[TextBody]) -> dict[str, Any]:
        """What a client may ask of this model on this server: fields that are honoured, forms that can be kept."""
        grammars = self.context.grammars.enabled
        off = self._fields.names - self._fields.allowed
        if not grammars:
            off |= ConstraintFields.model_fields.keys()
        if "prompt_logprobs" in self.context.model.unsupported:
            off |= {"prompt_logprobs"}
        if not self.context.config(EchoOptions).enable_echo:
            off |= {"echo"}
        return {
            "fields": sorted(body.model_fields.keys() - off),
            "constraints": sorted(self.constraints.kinds) if grammars else [],
            **self._parsers.names,
        }

    async def chat(self, body: ChatBody, *, user: str) -> Generation:
        """Goes on with a conversation; RequestError when that cannot be done."""
        served = await self._served(body)
        warnings = [*self._checked(body), *details(body.images), *self.conversations.thinking(body).warnings]
        sampling, choice = self._fields.sampling(body), read_tools(body)
        constraint = await self._constraint(body, warnings, choice)
        read_images = await self._images.read(body.images)
        text, prompt, images = await self.threads.run(partial(self._chat_prompt, body, choice, read_images))
        if constraint is not None:
            constraint = replace(constraint, thoughts=self._parsers.thoughts(body, choice, text))
        limits = RequestLimits(
            info=self.context.model, served=served, capacity=self.context.engine.capacity, prompt_field="messages"
        )
        plan = plan_requests(body, [prompt], sampling, limits, user=user, constraint=constraint, images=images)
        parsers = [self._parsers.of(body, choice, text, constraint) for _ in plan.requests]
        return self._begin(plan, warnings, parsers)

    async def complete(
        self, body: TextBody, prompts: Sequence[Sequence[int]], *, user: str, default_limit: int | None
    ) -> Generation:
        """Goes on with each of `prompts`; RequestError when that cannot be done."""
        limits = RequestLimits(
            info=self.context.model,
            served=await self._served(body),
            capacity=self.context.engine.capacity,
            prompt_field="prompt",
            default_limit=default_limit,
        )
        warnings = [*self._checked(body)]
        sampling, constraint = self._fields.sampling(body), await self._constraint(body, warnings)
        work = partial(plan_requests, body, prompts, sampling, limits, user=user, constraint=constraint)
        plan = await in_thread_if(len(prompts) * (body.n or 1) > MANY, work)
        return self._begin(plan, warnings, [None] * len(plan.requests))

    async def _served(self, body: TextBody) -> ServedName:
        """Who is asked, loaded first where it is an adapter that was not used yet."""
        await self.context.names.load(body.model)
        return self.context.names.get(body.model)

    def _checked(self, body: TextBody) -> Sequence[str]:
        require_text(self.context.model)
        return warnings_of(body.unknown(), strict=self.context.config(AnswerOptions).strict_fields)

    async def _constraint(
        self, body: TextBody, warnings: list[str], choice: ToolChoice | None = None
    ) -> Constraint | None:
        """What the answer must keep; what was left out of it is added to `warnings`.

        Where calls must be made there is no other text: a form for it (`response_format`) has nothing to hold.
        """
        asked = constraint_asked(body)
        if choice is not None and (schema := choice.schema) is not None:
            if asked is not None and not asked.param.startswith("response_format"):
                message = f"{asked.param} and a tool_choice that must call exclude each other; leave one out"
                raise RequestError(message, param=asked.param, code="invalid_value")
            asked = Asked("json_schema", schema, "tools")
        if asked is None:
            return None
        chosen = await self.constraints.choose(asked.kind, asked.value, param=asked.param)
        lines = [f"{asked.param}: {line}" for line in chosen.warnings]
        if lines and self.context.config(AnswerOptions).strict_fields:
            message = f"{lines[0]}, and this server takes what is known only (--strict-fields)"
            raise RequestError(message, param=asked.param, code="unknown_field")
        warnings += lines
        return chosen.constraint

    def _chat_prompt(
        self, body: ChatBody, choice: ToolChoice, read_images: Sequence[ReadImage]
    ) -> tuple[str, list[int], tuple[Image, ...]]:
        written = self.conversations.prompt(body, choice)
        prompt, images = self.conversations.tokens(written, read_images)
        if body.add_special_tokens:
            before, after = self.context.tokenizer.affixes
            prompt = [*before, *prompt, *after]
            images = tuple(replace(image, start=image.start + len(before)) for image in images)
        truncation = body.truncation(self.context.model.max_length)
        if truncation is not None and len(prompt) > truncation.most:
            if images:
                raise RequestError("a prompt with images cannot be cut; leave it out", param=FIELD)
            prompt = list(truncation.ids(prompt))
        return written.text, prompt, images

    def _begin(self, plan: RequestPlan, warnings: Sequence[str], parsers: Sequence[OutputParser | None]) -> Generation:
        # One post may ask for thousands of answers. Where the queue has no limit, a batch of them and a quarter are
        # there at once: enough to fill the places of those that end, and others get their turn soon. Where it has one,
        # all of them stand in it, because a place may be gone later; as may the adapter that they are asked of.
        info, unlimited = self.context.model, self.context.engine.capacity is None
        unlimited = unlimited and not any(request.adapter for request in plan.requests)
        at_once = info.max_batch_size + max(1, info.max_batch_size // 4) if unlimited else None
        deltas = generate_text(
            self.context.engine, plan.requests, lambda index: self._text(plan, index, parsers[index]), at_once
        )
        return Generation(plan=plan, deltas=deltas, warnings=warnings)

    def _text(self, plan: RequestPlan, index: int, parser: OutputParser | None) -> AnswerText:
        return AnswerText(
            self.context.tokenizer,
            plan.requests[index],
            self.context.model.eos_token_ids,
            plan.stops,
            parser=parser,
            include_stop=plan.include_stop,
            skip_special_tokens=plan.skip_special_tokens,
            prompt_only=plan.prompt_only,
        )


def usage_of(prompt_tokens: int, generated: int, cached: int, drafts: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """OpenAI's account of a generation; of the `drafts` so many were accepted and rejected."""
    accepted, rejected = drafts
    details = {"accepted_prediction_tokens": accepted, "rejected_prediction_tokens": rejected}
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        **({"completion_tokens_details": details} if any(drafts) else {}),
    }
