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
        what = change.source if change.action == "load" or change.wait else change.name
        future = self.open[f"{change.action} {what}".strip()] = asyncio.get_running_loop().create_future()
        await future

    async def failed(self, change: str, error: Exception) -> None:
        self.open.pop(change).set_exception(error)
        await settled()

    async def made(self, change: str) -> None:
        self.open.pop(change).set_result(None)
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Server:
    def __init__(self, *finders: Any, most: int | None = None, initial: tuple[str, ...] = ()) -> None:
        info: Any = SimpleNamespace(name="tiny", path="/tiny", adapters=initial, adapter_sources={})
        self.names, self.worker = ServedNames(info), Worker()
        lora = LoRAOptions(max_cpu_loras=most)  # paths as they are, of another plugin
        values = {LoRAOptions: lora, AnswerOptions: AnswerOptions()}
        registered: Any = SimpleNamespace(last_registered_first=lambda: finders[::-1])
        sources: Any = SimpleNamespace(of=lambda kind: registered, build=lambda entry, context: entry)
        context: Any = SimpleNamespace(
            model=info,
            names=self.names,
            engine=self.worker,
            config=values.get,
            sections={},
            components=sources,
            owned=lambda resource: resource,
        )
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
        return {served.name: served.root for served in self.names if served.parent and served.name in self.names}


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


class Shelf:
    """A FindsAdapters that keeps what it was asked for."""

    def __init__(self, adapters: dict[str, str], error: Exception | None = None) -> None:
        self.adapters, self.error, self.asked = adapters, error, list[str]()

    def find(self, name: str) -> str | None:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        return self.adapters.get(name)


async def asked(server: Server, name: str) -> asyncio.Task[None]:
    """A request that names an adapter; returns when the worker has been asked, or nothing is left to do."""
    task = asyncio.create_task(server.names.load(name))
    while not task.done() and not server.worker.open:
        await asyncio.sleep(0.001)
    return task


def test_sources_are_asked_the_last_one_first_until_one_has_the_name() -> None:
    async def scenario() -> None:
        first, last = Shelf({"a": "/first/a", "b": "/first/b"}), Shelf({"a": "/last/a"})
        server = Server(first, last)
        for name, path in (("a", "/last/a"), ("b", "/first/b")):
            waiting = await asked(server, name)
            more = [asyncio.create_task(server.names.load(name)) for _ in range(3)]
            await settled()
            assert len(server.worker.open) == 1, "once for all who ask"
            await server.worker.made(f"load {path}")
            await asyncio.gather(waiting, *more)
        await (await asked(server, "c"))
        assert server.roots() == {"a": "a", "b": "b"}
        assert (first.asked, last.asked) == (["b", "c"], ["a", "b", "c"])

    asyncio.run(scenario())


def test_an_adapter_that_cannot_be_served_is_not_read_at_every_request_and_named_as_the_client_does() -> None:
    async def scenario() -> None:
        server = Server(Shelf({"a": "/srv/secret/a"}))
        waiting = await asked(server, "a")
        await server.worker.failed("load /srv/secret/a", RequestError("the adapter '/srv/secret/a' is broken"))
        for attempt in (waiting, await asked(server, "a")):
            with pytest.raises(RequestError, match=r"^the adapter 'a' is broken") as raised:
                await attempt
            assert (raised.value.status, raised.value.param) == (400, "model")
        assert not server.worker.open, "the second one was told the same"

    asyncio.run(scenario())


def test_a_name_that_is_the_end_of_another_one_is_looked_for_too() -> None:
    async def scenario() -> None:
        server = Server(Shelf({"team/sql": "/team/sql", "sql": "/sql"}))
        for name in ("team/sql", "sql"):
            waiting = await asked(server, name)
            await server.worker.made(f"load /{name}")
            await waiting
        assert list(server.roots()) == ["team/sql", "sql"]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["../a", "a/.", "a/", "a//b", "", "a b", "a\nb", "-a", "a" * 300])
def test_sources_are_asked_for_plain_names_alone(name: str) -> None:
    async def scenario() -> None:
        shelf = Shelf({name: "/etc"})
        await (await asked(Server(shelf), name))
        assert shelf.asked == []

    asyncio.run(scenario())


def test_a_source_that_fails_has_nothing_and_one_that_refuses_says_why() -> None:
    async def scenario() -> None:
        broken, other = Shelf({}, RuntimeError("no network")), Shelf({"a": "/a"})
        server = Server(other, broken)
        waiting = await asked(server, "a")
        await server.worker.made("load /a")
        await waiting
        assert server.roots() == {"a": "a"}
        with pytest.raises(RequestError, match="it is not yours") as raised:
            await (await asked(Server(Shelf({}, RequestError("it is not yours", status=403))), "a"))
        assert (raised.value.status, raised.value.param) == (403, "model")

    asyncio.run(scenario())


def test_what_a_source_lists_has_its_name_before_it_is_loaded_and_after_it_is_unloaded() -> None:
    class Known(Shelf):
        def names(self) -> list[str]:
            return list(self.adapters)

    async def scenario() -> None:
        server = Server(Known({"x": "/a/x"}))
        assert [served.name for served in server.names] == ["tiny", "x"]
        assert server.roots() == {}
        waiting = await asked(server, "x")
        await server.worker.made("load /a/x")
        await waiting
        assert server.names.get("x").adapter == "x"
        await server.unload()
        await server.worker.made("unload")
        assert [served.name for served in server.names] == ["tiny", "x"]
        with pytest.raises(RequestError, match="does not exist"):
            server.names.get("x")

    asyncio.run(scenario())


async def used(server: Server, name: str) -> None:
    """A request that has its adapter loaded, and ends."""
    task = await asked(server, name)
    if server.worker.open:
        await server.worker.made(f"load /{name}")
    await task
    server.names.get(name)
    await settled()


def test_one_that_no_request_uses_makes_room_for_the_next_the_longest_unused_first() -> None:
    async def scenario() -> None:
        server = Server(Shelf({name: f"/{name}" for name in "abcd"}), most=3, initial=("kept",))
        for name in ("a", "b", "a"):
            await asyncio.create_task(used(server, name))
        third = await asked(server, "c")
        await server.worker.made("unload b")
        assert set(server.roots()) == {"kept", "a"}, "before another one is read"
        await server.worker.made("load /c")
        await third
        assert set(server.roots()) == {"kept", "a", "c"}
        await asyncio.create_task(used(server, "a"))
        again = await asked(server, "b")
        await server.worker.made("unload c")
        await server.worker.made("load /b")
        await again
        assert set(server.roots()) == {"kept", "a", "b"}

    asyncio.run(scenario())


def test_one_in_use_stays_and_so_does_one_whose_request_is_still_being_prepared() -> None:
    """The worker says which it has requests for; it has not heard of the others."""

    async def scenario() -> None:
        server = Server(Shelf({name: f"/{name}" for name in "abc"}), most=2)
        goes = asyncio.Event()

        async def slow(name: str) -> None:
            await server.names.load(name)
            server.names.get(name)
            await goes.wait()

        await asyncio.create_task(used(server, "a"))
        preparing = asyncio.create_task(slow("a"))
        await asyncio.create_task(used(server, "b"))
        third = await asked(server, "c")
        await server.worker.failed("unload b", RequestError("it is in use", status=409))
        with pytest.raises(RequestError, match=r"'c': --max-cpu-loras is 2, .* or raise --max-cpu-loras") as raised:
            await third
        assert (raised.value.status, raised.value.param) == (503, "model")
        assert set(server.roots()) == {"a", "b"}
        goes.set()
        await preparing
        fourth = await asked(server, "c")
        await server.worker.made("unload a")
        await server.worker.made("load /c")
        await fourth
        assert set(server.roots()) == {"b", "c"}

    asyncio.run(scenario())


def test_those_that_were_named_stay_and_leave_no_room_to_more() -> None:
    async def scenario() -> None:
        server = Server(Shelf({"a": "/a"}), most=2, initial=("kept",))
        await asyncio.create_task(used(server, "a"))
        loading = asyncio.create_task(server.loading("/x"))
        await settled()
        await server.worker.made("unload a")
        await server.worker.made("load /x")
        await loading
        with pytest.raises(RequestError, match=r"unload one \(/v1/unload_lora_adapter\)") as raised:
            await server.loading("/y", "y")
        assert raised.value.status == 409
        again = asyncio.create_task(server.loading("/z", load_inplace=True))
        await settled()
        await server.worker.made("load /z")
        await again
        assert server.roots() == {"kept": "", "x": "z"}

    asyncio.run(scenario())


def test_many_first_requests_at_once_are_no_more_than_there_may_be() -> None:
    async def scenario() -> None:
        server = Server(Shelf({name: f"/{name}" for name in "abc"}), most=2)
        tasks = [asyncio.create_task(server.names.load(name)) for name in "abc"]
        while len(server.worker.open) < 2 or not any(task.done() for task in tasks):  # sources are asked in threads
            await asyncio.sleep(0.001)
        for change in list(server.worker.open):
            await server.worker.made(change)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, RequestError) and each.status == 503 for each in done) == 1
        assert len(server.roots()) == 2

    asyncio.run(scenario())


def test_a_broken_one_takes_no_memory() -> None:
    async def scenario() -> None:
        server = Server(Shelf({"a": "/a", "b": "/b"}), most=1)
        broken = await asked(server, "a")
        await server.worker.failed("load /a", RequestError("it is broken"))
        with pytest.raises(RequestError, match="it is broken"):
            await broken
        await asyncio.create_task(used(server, "b"))
        assert server.roots() == {"b": "b"}

    asyncio.run(scenario())
