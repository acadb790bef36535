"""What happens between a request for text and the parts of its answers, whatever the wording of the route?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from maxserve.core.answers.bodies import ChatBody, TextBody
from maxserve.core.answers.conversation import Conversations
from maxserve.core.answers.jobs import Job, JobLimits, plan_job
from maxserve.core.answers.models import require_served
from maxserve.core.answers.parts import Part
from maxserve.core.answers.unsupported import warnings_of
from maxserve.core.interfaces import ServerContext
from maxserve.core.nouns import Constraint
from maxserve.core.server.constraint_fields import ConstraintFields, constraint_asked
from maxserve.core.server.constraints import Constraints
from maxserve.core.server.fields import RequestFields
from maxserve.core.server.generation import generate_text, merged

B = TypeVar("B", bound=TextBody)

Parts = AsyncGenerator[tuple[int, Part], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Answers on their way: `parts` gives (index of the answer, part) as they come; closing it aborts them all."""

    job: Job
    parts: Parts
    warnings: Sequence[str] = ()


class Answering:
    """Continues prompts and conversations for the routes of a plugin."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.conversations = Conversations(context)
        self.constraints = Constraints(context)
        self._fields = RequestFields(context.host, context.model)

    def body(self, base: type[B]) -> type[B]:
        """`base` with the fields of every sampler."""
        return self._fields.model(base.__name__, base)

    async def chat(self, body: ChatBody, *, user: str) -> Generation:
        """Goes on with a conversation; RequestError when that cannot be done."""
        warnings = self._checked(body)
        sampling = self._fields.sampling(body)
        constraint = await self._constraint(body)
        prompt = await asyncio.to_thread(self._chat_prompt, body)
        limits = JobLimits(info=self.context.model, capacity=self.context.engine.capacity, prompt_field="messages")
        return self._begin(plan_job(body, [prompt], sampling, limits, user=user, constraint=constraint), warnings)

    async def complete(
        self, body: TextBody, prompts: Sequence[Sequence[int]], *, user: str, default_limit: int | None
    ) -> Generation:
        """Goes on with each of `prompts`; RequestError when that cannot be done."""
        limits = JobLimits(
            info=self.context.model,
            capacity=self.context.engine.capacity,
            prompt_field="prompt",
            default_limit=default_limit,
        )
        warnings = self._checked(body)
        sampling = self._fields.sampling(body)
        constraint = await self._constraint(body)
        return self._begin(plan_job(body, prompts, sampling, limits, user=user, constraint=constraint), warnings)

    async def _constraint(self, body: ConstraintFields) -> Constraint | None:
        asked = constraint_asked(body)
        return None if asked is None else await self.constraints.choose(asked.kind, asked.value, param=asked.param)

    def _checked(self, body: TextBody) -> Sequence[str]:
        require_served(body.model, self.context.model)
        return warnings_of(body.unknown())

    def _chat_prompt(self, body: ChatBody) -> list[int]:
        return self.conversations.tokens(self.conversations.text(body))

    def _begin(self, job: Job, warnings: Sequence[str]) -> Generation:
        parts = merged([self._parts(job, index) for index in range(len(job.requests))])
        return Generation(job=job, parts=parts, warnings=warnings)

    async def _parts(self, job: Job, index: int) -> AsyncGenerator[Part, None]:
        async with aclosing(generate_text(self.context, job.requests[index], stop=job.stops)) as pieces:
            async for piece in pieces:
                yield Part(piece=piece, content=piece.text, finish=piece.finish)


def usage_of(prompt_tokens: int, generated: int, cached: int) -> dict[str, Any]:
    """OpenAI's account of a generation."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
