"""Two routes of one's own: how many tokens a text has, and the likeliest one to come next."""

from __future__ import annotations

from uuid import uuid4

from maxserve import Routes, SamplingParams, hookimpl
from maxserve.interfaces.request import Request

GREEDY = SamplingParams(max_tokens=1, fields={"temperature": {"temperature": 0.0}})


def router(context):
    from fastapi import APIRouter  # here, since this module is imported at every start of `max`

    routes = APIRouter()

    def ids(text: str) -> list[int]:
        return context.tokenizer.encode(text, add_special_tokens=True)

    @routes.get("/count")
    def count(text: str) -> dict[str, int]:
        return {"tokens": len(ids(text)), "most": context.model.max_length}

    @routes.get("/next")
    async def next_token(text: str) -> dict[str, str]:
        request = Request(id=uuid4().hex, prompt=tuple(ids(text)), params=GREEDY)
        tokens = [token async for output in context.engine.generate(request) for token in output.tokens]
        return {"next": context.tokenizer.decode(tokens)}

    return routes


@hookimpl
def maxserve_routes():
    yield Routes(name="next-token", build=router, summary="counts tokens and tells the likeliest next one")
