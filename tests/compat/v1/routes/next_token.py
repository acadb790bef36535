"""Two routes of one's own: how many tokens a text has, and the likeliest one to come next."""

from maxserve import Routes, hookimpl


def router(context):
    from fastapi import APIRouter  # here, since this module is imported at every start of `max`

    routes = APIRouter()

    @routes.get("/count")
    def count(text: str) -> dict[str, int]:
        tokens = len(context.tokenizer.encode(text, add_special_tokens=True))
        return {"tokens": tokens, "most": context.model.max_length}

    @routes.get("/next")
    async def next_token(text: str) -> dict[str, str]:
        return {"next": await context.complete(text, max_tokens=1, temperature=0)}

    return routes


@hookimpl
def maxserve_routes():
    yield Routes(name="next-token", build=router, summary="counts tokens, and gives the likeliest next one")
