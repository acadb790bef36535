"""The names of adapters that are loaded and unloaded at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import AdapterChange
from maxserve.core.interfaces.served_names import ServedName, ServedNames
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.plugins.lora.router import Adapters, LoadBody, UnloadBody


class Worker:
    """An engine client whose changes are made when the test says so."""

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Future[None]] = {}

    async def change_adapter(self, change: AdapterChange) -> None:
        future = self.open[f"{change.action} {change.source}".strip()] = asyncio.get_running_loop().create_future()
        await future

    async def made(self, change: str) -> None:
        self.open.pop(change).set_result(None)
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Server:
    def __init__(self) -> None:
        info: Any = SimpleNamespace(name="tiny", adapters=(), adapter_sources={})
        self.names, self.worker = ServedNames(info), Worker()
        values = {LoRAOptions: LoRAOptions(), AnswerOptions: AnswerOptions()}  # paths as they are, of another plugin
        context: Any = SimpleNamespace(model=info, names=self.names, engine=self.worker, config=values.get)
        self._adapters = Adapters(context)
        self._tasks: list[asyncio.Task[Any]] = []

    async def load(self, path: str, **more: Any) -> None:
        await self._begun(self.loading(path, **more))

    def loading(self, path: str, name: str = "x", **more: Any) -> Any:
        return self._adapters.load(LoadBody(lora_name=name, lora_path=path, **more))

    async def unload(self) -> None:
        await self._begun(self._adapters.unload(UnloadBody(lora_name="x")))

    async def _begun(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))
        await settled()

    def leave(self) -> None:
        """The client of the last change closes its connection."""
        self._tasks[-1].cancel()

    def roots(self) -> dict[str, str]:
        return {served.name: served.root for served in self.names if served.parent}


def test_a_name_that_is_loaded_while_an_unload_waits_stays() -> None:
    async def scenario() -> None:
        server = Server()
        await server.load("/a/old")
        await server.worker.made("load /a/old")
        await server.unload()
        await server.load("/a/new")
        await server.worker.made("load /a/new")
        await server.worker.made("unload")
        assert set(server.roots()) == {"x"}
        await server.unload()
        await server.worker.made("unload")
        assert server.roots() == {}

    asyncio.run(scenario())


def test_an_unload_after_a_load_takes_its_name_whichever_is_heard_of_first() -> None:
    async def scenario() -> None:
        server = Server()
        await server.load("/a/one")
        await server.unload()
        await server.worker.made("load /a/one")
        await server.worker.made("unload")
        assert server.roots() == {}

    asyncio.run(scenario())


def test_a_change_is_made_to_its_end_though_the_client_goes() -> None:
    """The worker makes it in any case, so the names follow."""

    async def scenario() -> None:
        server = Server()
        await server.load("/a/one")
        server.leave()
        await settled()
        await server.worker.made("load /a/one")
        assert server.roots() == {"x": "one"}
        await server.unload()
        server.leave()
        await settled()
        await server.worker.made("unload")
        assert server.roots() == {}

    asyncio.run(scenario())


def test_the_root_is_that_of_the_adapter_in_place() -> None:
    async def scenario() -> None:
        server = Server()
        for path in ("/a/one", "/a/two"):
            await server.load(path, load_inplace=True)
            await server.worker.made(f"load {path}")
        assert server.roots() == {"x": "two"}

    asyncio.run(scenario())


def test_the_name_of_something_else_is_no_name_for_an_adapter() -> None:
    async def scenario() -> None:
        server = Server()
        server.names.add(ServedName(name="alias"))
        for name in ("alias", "tiny"):
            with pytest.raises(RequestError, match=f"'{name}' is the name of a model") as raised:
                await server.loading("/a/one", name)
            assert raised.value.status == 409
        assert server.worker.open == {}

    asyncio.run(scenario())


def test_fields_that_are_not_known_are_told() -> None:
    async def scenario() -> None:
        server = Server()
        answer = asyncio.create_task(server.loading("/a/one", pin=True))
        await settled()
        await server.worker.made("load /a/one")
        told = (await answer).body.decode().splitlines()
        assert told == [
            "Success: LoRA adapter 'x' added successfully.",
            "the field 'pin' is not known and was ignored",
        ]

    asyncio.run(scenario())
