"""Prompts are made in threads of their own."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.prompt_threads import prompt_threads
from maxserve.plugins.api.openai.router import router
from maxserve.testing.scripted import (  # noqa: F401 (fixtures)
    anyio_backend,
    context,
    engine,
    host,
    recorder,
    tokenizer,
)

pytestmark = pytest.mark.anyio


class Named(JinjaTemplate):
    """Renders the name of the thread it runs in."""

    def render(self, *_: Any, **__: Any) -> str:
        return threading.current_thread().name


async def test_prompts_do_not_wait_for_threads_of_others(context: ServerContext) -> None:  # noqa: F811
    template = Named({"default": ""})
    served = dataclasses.replace(context, template=template)
    app = create_app(served, [("/", router(served), "builtin.openai")])
    loop, over = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, over.wait, 30)  # all threads that asyncio has by default
    try:
        began = time.monotonic()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            chat = {"messages": [{"role": "user", "content": "x"}], "return_token_ids": True, "max_tokens": 2}
            answer = (await client.post("/v1/chat/completions", json=chat)).json()
            assert (await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2})).status_code == 200
            assert (await client.post("/tokenize", json={"prompt": "x"})).status_code == 200
        assert time.monotonic() - began < 25
        assert context.tokenizer.decode(answer["prompt_token_ids"]).startswith("maxserve-prompts")
    finally:
        over.set()
        await busy


async def test_one_set_of_threads_for_all_routes(context: ServerContext) -> None:  # noqa: F811
    threads = context.once(prompt_threads)
    assert context.once(prompt_threads) is threads
    assert await threads.run(lambda: 1) == 1
    context.close()
    with pytest.raises(Exception, match="replaced"):
        await threads.run(lambda: 1)
