"""The two sides of transfers, with messages that a test delivers: every failure at every message."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from maxserve.interfaces.cache import CacheContext, CacheLayer, PrefixHold
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import Output, Request
from maxserve.plugins.cache.paged import PagedCache
from maxserve.plugins.transfers import fetching, messages
from maxserve.plugins.transfers.addresses import Source
from maxserve.plugins.transfers.counts import Counts
from maxserve.plugins.transfers.fetching import Fetches
from maxserve.plugins.transfers.leases import Leases
from maxserve.plugins.transfers.messages import Identity

LAYERS = (CacheLayer(kv_heads=1, head_dim=2), CacheLayer(kv_heads=2, head_dim=1))
IDENTITY = Identity(protocol=1, model="m", layout="l", transport="memory")
FIRST, SECOND = "tcp://10.0.0.1:5555", "tcp://10.0.0.2:5555"
LEASE, PATIENCE = 30.0, 10.0
PROMPT = tuple(range(3, 44))  # 41 tokens: 10 pages of 4 before the last one


class Memory:
    """A MovesPieces of one process: all ends share what is offered."""

    wakes = True
    peer = b"memory"

    def __init__(self, offered: dict[bytes, bytes]) -> None:
        self.offered = offered
        self._done: list[tuple[int, bytes | None]] = []
        self._number = 0

    def offer(self, data: bytes) -> bytes:
        where = str(random.random()).encode()
        self.offered[where] = data
        return where

    def withdraw(self, where: bytes) -> None:
        self.offered.pop(where, None)

    def pull(self, host: str, peer: bytes, where: bytes) -> int:
        self._number += 1
        self._done.append((self._number, self.offered.get(where)))
        return self._number

    def poll(self) -> list[tuple[int, bytes | None]]:
        found, self._done = self._done, []
        return found

    def close(self) -> None:
        pass


def cache_of(page_size: int, pages: int) -> PagedCache:
    return PagedCache(
        CacheContext(
            layers=LAYERS,
            pages=pages,
            page_size=page_size,
            rows=4,
            max_length=256,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
    )


def values(tokens: np.ndarray[Any, Any]) -> Iterable[float]:
    """What is stored of each token: it depends on all up to it."""
    return np.cumsum(tokens * np.arange(1, len(tokens) + 1)).tolist()


class Prefiller:
    """A server that prefills, whose engine computes some tokens of each prompt at each `step`."""

    def __init__(
        self, net: Net, address: str, *, page_size: int = 4, pages: int = 64, identity: Identity = IDENTITY
    ) -> None:
        self.net, self.address = net, address
        self.cache = cache_of(page_size, pages)
        self.computing: dict[str, tuple[int, Request]] = {}
        self.computed: dict[str, int] = {}
        self.rejects: RequestError | None = None
        self.counts = Counts()
        self.leases = Leases(
            identity=identity,
            cache=self.cache,
            salt=lambda request: request.salt,
            add=self.add,
            abort=self.abort,
            adapters=lambda: {"sql": "/adapters/sql"},
            send=lambda peer, message: net.to_decode(self, peer, message),
            transport=Memory(net.offered),
            lease=LEASE,
            counts=self.counts,
        )

    def add(self, request: Request) -> None:
        if self.rejects is not None:
            raise self.rejects
        row = min(set(range(4)) - {used for used, _ in self.computing.values()})
        self.computed[request.id] = self.cache.open(row, np.array(request.prompt), request.salt)
        self.computing[request.id] = row, request

    def abort(self, ids: Iterable[str]) -> None:
        for id in ids:
            if id in self.computing:
                self.cache.close(self.computing.pop(id)[0])

    def step(self, tokens: int = 9) -> None:
        """Computes so many tokens more of each prompt; one that is whole ends."""
        outputs = []
        for id, (row, request) in list(self.computing.items()):
            prompt = np.array(request.prompt)
            stop = self.computed[id] = min(len(prompt), self.computed[id] + tokens)
            assert self.cache.reserve(row, stop)
            for at, value in list(enumerate(values(prompt)))[:stop]:
                page = int(self.cache.block_tables[row, at // self.cache.page_size])
                for layer in self.cache.layers:
                    for part in layer.parts:
                        part[page, at % self.cache.page_size] = value
            self.cache.commit(row, prompt[:stop])
            if stop == len(prompt):
                self.abort((id,))
                outputs.append(Output(id=id, tokens=(1,), finish="length"))
        self.leases.advance(outputs, self.net.now)
        self.leases.fill(self.net.now)


class Net:
    """One server that decodes, those that prefill, and messages between them, which are delivered one by one."""

    def __init__(self, *, page_size: int = 4, pages: int = 64, recompute: bool = False, batch: int = 8) -> None:
        self.now = 100.0
        self.offered: dict[bytes, bytes] = {}
        self.wire: deque[tuple[Prefiller | None, str, bytes]] = deque()  # for whom, the address, the message
        self.servers: dict[str, Prefiller] = {}
        self.cache = cache_of(page_size, pages)
        self.admitted: dict[str, tuple[Request, PrefixHold]] = {}
        self.rejected: dict[str, RequestError] = {}
        self.counts = Counts()
        self.batch = batch
        self.sent: list[str] = []
        self.fetches = Fetches(
            identity=IDENTITY,
            cache=self.cache,
            salt=lambda request: request.salt,
            admit=self._admit,
            reject=lambda id, error: self.rejected.update({id: error}),
            adapters=lambda: {"sql": "/adapters/sql", "own": "/adapters/own"},
            send=self.to_prefill,
            drop=lambda address: None,
            transport=Memory(self.offered),
            room=lambda: len(self.fetches) < self.batch,
            patience=PATIENCE,
            recompute=recompute,
            counts=self.counts,
        )

    def serve(self, address: str = FIRST, **options: Any) -> Prefiller:
        self.servers[address] = made = Prefiller(self, address, **options)
        return made

    def _admit(self, request: Request, hold: PrefixHold) -> None:
        self.admitted[request.id] = request, hold

    def to_prefill(self, address: str, message: Any) -> None:
        self.sent.append(type(message).__name__)
        if address in self.servers:
            self.wire.append((self.servers[address], address, messages.encode(message)))
        else:
            self.wire.append((None, address, b""))

    def to_decode(self, server: Prefiller, peer: Any, message: Any) -> None:
        self.sent.append(type(message).__name__)
        self.wire.append((None, server.address, messages.encode(message)))

    def begin(self, id: str = "a", prompt: tuple[int, ...] = PROMPT, source: Any = None, **fields: Any) -> None:
        request = Request(id=id, prompt=prompt, **fields)
        self.fetches.begin(request, source or Source(addresses=(FIRST,)), self.now)

    def deliver(self) -> None:
        """The next message; one for an address where no server is comes back as that."""
        server, address, raw = self.wire.popleft()
        if server is not None:
            if self.servers.get(address) is server:
                server.leases.receive(b"decode", messages.decode_asked(raw), self.now)
        else:
            self.fetches.receive(address, messages.decode_told(raw) if raw else None, self.now)
        self.fetches.poll(self.now)

    def run(self, most: int = 1000) -> int:
        """Delivers and computes until nothing is left to do; returns how many messages came."""
        count = 0
        while count < most:
            if self.wire:
                self.deliver()
                count += 1
            elif any(server.computing or server.leases._waiting for server in self.servers.values()):
                for server in self.servers.values():
                    server.step()
            else:
                break
            self.check()
        return count

    def kill(self, address: str = FIRST) -> None:
        """A server that prefills is gone with its memory; who decodes sees the connection cut."""
        del self.servers[address]
        self.wire = deque(each for each in self.wire if each[1] != address)
        self.fetches.receive(address, None, self.now)

    def pass_time(self, seconds: float) -> None:
        """So long nothing but beats."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.fetches.tick(self.now)
            for server in self.servers.values():
                server.leases.expire(self.now)
            self.run()

    def check(self) -> None:
        self.cache.check()
        for server in self.servers.values():
            server.cache.check()

    def end(self) -> None:
        """All that was held is given back."""
        for _, hold in self.admitted.values():
            hold.release()
        self.check()
        assert self.cache.sizes().owned == 0
        assert not len(self.fetches)
        for server in self.servers.values():
            assert not len(server.leases)
            assert server.cache.sizes().owned == 0
        assert not self.offered


def stored(cache: PagedCache, tokens: tuple[int, ...], salt: str = "") -> list[float]:
    """The numbers that a row finds of a prompt in a cache."""
    found = cache.open(3, np.array(tokens), salt)
    pages = cache.block_tables[3, : found // cache.page_size].tolist()
    numbers = [{float(x) for layer in cache.layers for part in layer.parts for x in part[page][at].flatten()}
               for page in pages for at in range(cache.page_size)]  # fmt: skip
    cache.close(3)
    assert all(len(each) == 1 for each in numbers), "keys and values of a token are of different ones"
    return [each.pop() for each in numbers]


def whole(length: int, page: int) -> int:
    return (length - 1) // page * page


@pytest.mark.parametrize(("there", "here"), [(4, 4), (2, 8), (8, 2), (16, 4), (4, 16)])
def test_a_prompt_comes_whatever_the_sizes_of_pages(there: int, here: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PIECE", 100)  # bytes: a piece for each page or two
    net = Net(page_size=here)
    net.serve(page_size=there)
    net.begin()
    net.run()
    assert list(net.admitted) == ["a"]
    found = stored(net.cache, PROMPT)
    assert len(found) == whole(whole(len(PROMPT), there) + 1, here)
    assert found == list(values(np.array(PROMPT)))[: len(found)]
    assert net.counts.transfers == 1
    assert net.counts.bytes == len(found) * net.cache.token_bytes
    net.end()


def test_pieces_come_while_the_prompt_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PIECE", 1)
    net = Net()
    server = net.serve()
    net.begin()
    while not net.sent.count("Piece"):
        if net.wire:
            net.deliver()
        else:
            server.step()
    assert server.computing
    net.run()
    net.end()


def test_only_what_is_lacking_is_pulled() -> None:
    net = Net()
    net.serve()
    net.begin("a", PROMPT[:21])
    net.run()
    before = net.counts.bytes
    net.begin("b")
    net.run()
    assert net.counts.bytes - before == 20 * net.cache.token_bytes
    net.begin("c")
    assert "c" in net.admitted, "all of it is here"
    net.end()


def test_salts_and_adapters_are_kept_apart() -> None:
    net = Net()
    net.serve()
    net.begin("a", salt="x")
    net.run()
    assert (len(stored(net.cache, PROMPT, "x")), len(stored(net.cache, PROMPT))) == (40, 0)
    net.begin("b", adapter="sql", salt="y")
    net.run()
    assert set(net.admitted) == {"a", "b"}
    net.begin("c", adapter="own", salt="z")
    net.run()
    assert "the adapter 'own' is not loaded there" in net.rejected["c"].message
    net.end()


Failing = Callable[[Net], None]


def messages_of_a_transfer() -> int:
    net = Net()
    net.serve()
    net.begin()
    return net.run()


TOTAL = messages_of_a_transfer()


@pytest.mark.parametrize("number", range(TOTAL))
@pytest.mark.parametrize("policy", ["fail", "recompute", "next"])
def test_who_prefills_is_killed_at_each_message(number: int, policy: str) -> None:
    net = Net(recompute=policy == "recompute")
    net.serve()
    addresses = (FIRST, SECOND) if policy == "next" else (FIRST,)
    net.serve(SECOND)
    net.begin(source=Source(addresses=addresses))
    net.run(number)
    over = "a" in net.admitted
    net.kill()
    net.run()
    if policy == "fail" and not over:
        error = net.rejected["a"]
        assert (error.status, error.code) == (503, "prefill_failed")
        assert FIRST in error.message
    else:
        assert list(net.admitted) == ["a"]
    if policy == "next":
        assert len(stored(net.cache, PROMPT)) == 40
    assert net.counts.failures == (not over)
    net.offered.clear()  # what the killed one has offered
    net.end()


@pytest.mark.parametrize("number", range(TOTAL))
def test_who_decodes_is_killed_at_each_message(number: int) -> None:
    """It sends nothing more: leases end."""
    net = Net()
    server = net.serve()
    net.begin()
    net.run(number)
    net.wire.clear()
    for _ in range(10):
        server.step()
    net.wire.clear()
    net.now += LEASE + 1
    held = len(server.leases)
    server.leases.expire(net.now)
    assert server.counts.leases_expired == held
    assert not server.computing
    assert server.cache.sizes().owned == 0
    server.cache.check()


@pytest.mark.parametrize("number", range(TOTAL))
def test_a_client_that_goes_cancels_at_each_message(number: int) -> None:
    net = Net()
    net.serve()
    net.begin()
    net.run(number)
    assert net.fetches.cancel("a") == ("a" not in net.admitted)
    net.run()
    net.end()


@pytest.mark.parametrize("number", range(TOTAL))
def test_a_restart_of_who_prefills_is_noticed(number: int) -> None:
    """The connection seems to be the same: it answers a beat, or a pull, that it does not know the request."""
    net = Net()
    net.serve()
    net.begin()
    net.run(number)
    over = "a" in net.admitted
    net.serve()
    net.wire = deque(each for each in net.wire if each[0] is None)
    net.offered.clear()
    net.run()
    net.pass_time(PATIENCE + 2)
    assert over or "a" in net.admitted or net.rejected["a"].status == 503
    net.end()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "other"}, "another model"),
        ({"layout": "other"}, "stores other things"),
        ({"transport": "nixl"}, "--transfers.transport nixl"),
        ({"protocol": 2}, "protocol 2"),
    ],
)
def test_what_does_not_match_is_refused_in_words(change: dict[str, Any], words: str) -> None:
    net = Net()
    net.serve(identity=msgspec.structs.replace(IDENTITY, **change))
    net.begin()
    net.run()
    assert words in net.rejected["a"].message
    assert net.rejected["a"].status == 503
    net.end()


def test_a_lease_is_kept_by_beats_as_long_as_it_is_wanted() -> None:
    net = Net()
    server = net.serve()
    net.begin()
    net.run(3)
    server.computing, waiting = {}, server.computing  # a long queue there
    net.pass_time(5 * LEASE)
    assert (server.counts.leases_expired, len(server.leases), len(net.rejected)) == (0, 1, 0)
    server.computing = waiting
    net.run()
    assert "a" in net.admitted
    net.end()


def test_who_is_silent_counts_as_gone() -> None:
    net = Net()
    net.serve()
    net.begin()
    net.wire.clear()  # lost on the way
    net.pass_time(PATIENCE + 1)
    assert "has not answered" in net.rejected["a"].message
    net.end()


def test_a_request_that_is_refused_there_says_why() -> None:
    net = Net()
    net.serve().rejects = RequestError("all places are taken")
    net.begin()
    net.run()
    assert "all places are taken" in net.rejected["a"].message
    net.end()


def test_a_prompt_that_fails_there() -> None:
    net = Net()
    server = net.serve()
    net.begin()
    net.run(3)
    server.abort(("a",))
    server.leases.advance([Output(id="a", finish="error", error="out of luck")], net.now)
    net.run()
    assert "out of luck" in net.rejected["a"].message
    net.end()


@pytest.mark.parametrize("change", [-1, 1, -16, 16, None])
def test_a_piece_of_another_size_is_refused_and_harms_nothing(
    change: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever another server sends, the worker lives; None: nothing is there."""
    net = Net()
    net.serve()
    given = Memory.poll

    def damaged(self: Memory) -> list[tuple[int, bytes | None]]:
        cut = {None: 0, -1: -1, -16: -16}.get(change)
        return [(number, data and (data[:cut] + bytes(max(0, change or 0)))) for number, data in given(self)]

    monkeypatch.setattr(Memory, "poll", damaged)
    net.begin()
    net.run()
    assert "bytes where" in net.rejected["a"].message
    monkeypatch.undo()
    net.begin("b")
    net.run()
    assert set(net.rejected) == {"a"}
    net.end()


def test_a_cache_that_is_full_has_the_request_wait_as_others_do() -> None:
    net = Net(pages=12)
    net.serve()
    blocker = np.arange(100, 132)
    net.cache.open(0, blocker, "")
    assert net.cache.reserve(0, 32)
    net.begin()
    net.run()
    assert "a" in net.admitted
    assert net.counts.failures == 1
    net.cache.close(0)
    net.end()


def test_prompts_wait_where_all_pages_are_kept() -> None:
    """Else what is kept for one would keep the others from being computed."""
    net = Net(batch=20)
    net.serve(pages=24)
    for number in range(5):
        net.begin(str(number), (number, *PROMPT))
    net.run()
    for server in net.servers.values():
        assert server.leases.ending is False
    net.pass_time(2)
    assert set(net.admitted) == set("01234")
    net.end()


def test_prompts_that_wait_for_pages_are_cancelled_and_forgotten() -> None:
    net = Net(batch=20)
    server = net.serve(pages=24)
    for number in range(4):
        net.begin(str(number), (number, *PROMPT))
    while "3" not in server.leases._waiting:
        net.deliver()
    assert net.fetches.cancel("3")
    while len(net.sent) and net.wire and "3" in server.leases._waiting:
        net.deliver()
    net.wire.clear()
    server.abort(list(server.computing))
    net.now += LEASE + 1
    server.leases.expire(net.now)
    server.leases.fill(net.now)
    assert not len(server.leases)
    assert server.cache.sizes().owned == 0


def test_what_comes_over_http_is_503_where_all_pages_are_kept() -> None:
    net = Net()
    server = net.serve(pages=24)
    for id in "ab":
        server.leases.keep(Request(id=id, prompt=(ord(id), *PROMPT[:-2])))
    with pytest.raises(RequestError, match="try again later") as caught:
        server.leases.keep(Request(id="c", prompt=PROMPT))
    assert caught.value.status == 503
    server.leases.close()
    net.end()


def test_requests_wait_for_room_in_order() -> None:
    net = Net(batch=3)
    net.serve()
    for number in range(5):
        net.begin(str(number), (number, *PROMPT))
    assert net.fetches.cancel("4")
    for _ in range(10):
        net.run()
        net.fetches.fill(net.now)
    assert list(net.admitted) == ["0", "1", "2", "3"]
    net.end()


def claimed(net: Net, server: Prefiller, prompt: tuple[int, ...] = PROMPT) -> Source:
    """What a prompt that came over HTTP is claimed by."""
    request = Request(id="http", prompt=prompt)
    server.leases.keep(request)
    server.add(request)
    while server.computing:
        server.step()
    return Source(addresses=(FIRST,), id="http")


def test_a_prompt_that_came_over_http_is_claimed() -> None:
    net = Net()
    server = net.serve()
    net.begin(source=claimed(net, server))
    net.run()
    assert stored(net.cache, PROMPT) == list(values(np.array(PROMPT)))[:40]
    net.end()


def test_several_answers_of_one_claim() -> None:
    net = Net()
    source = claimed(net, net.serve())
    for id in "abc":
        net.begin(id, source=source)
    net.run()
    assert set(net.admitted) == set("abc")
    net.end()


def test_a_claim_of_what_is_here_already_lets_it_go_there() -> None:
    net = Net()
    server = net.serve()
    net.begin("a")
    net.run()
    net.begin("b", source=claimed(net, server))
    net.run()
    assert "b" in net.admitted
    net.end()


def test_a_claim_of_another_prompt_is_refused() -> None:
    net = Net()
    net.begin(prompt=(*PROMPT, 1), source=claimed(net, net.serve()))
    net.run()
    assert "the prompt is another one" in net.rejected["a"].message
    net.pass_time(LEASE + 1)
    net.end()


def test_a_claim_after_a_restart_or_an_expiry() -> None:
    net = Net()
    server = net.serve()
    source = claimed(net, server)
    net.pass_time(LEASE + 1)
    assert server.counts.leases_expired == 1
    net.begin(source=source)
    net.run()
    assert "not kept there" in net.rejected["a"].message
    net.end()


def test_who_stops_refuses_new_prompts_and_gives_those_it_has() -> None:
    net = Net()
    server = net.serve()
    net.begin("a")
    net.run(3)
    server.leases.ending = True
    net.begin("b", (1, *PROMPT))
    net.run()
    assert "a" in net.admitted
    assert "is stopping" in net.rejected["b"].message
    net.end()


@pytest.mark.parametrize("seed", range(12))
def test_random_losses(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers die and come back, clients go, and time passes: every request has an end, and nothing is lost."""
    monkeypatch.setattr(fetching, "PIECE", 64)
    choose = random.Random(seed)
    net = Net(pages=choose.choice([20, 64]), recompute=seed % 2 == 1, batch=4)
    net.serve(FIRST)
    net.serve(SECOND, page_size=choose.choice([2, 8]))
    gone, begun = set(), 0
    for _ in range(400):
        match choose.randrange(12):
            case 0 | 1 if begun < 40 and len(net.fetches) < 6:
                prompt = tuple(choose.randrange(2) for _ in range(choose.randrange(1, 60)))
                net.begin(str(begun), prompt, Source(addresses=choose.choice([(FIRST,), (SECOND,), (FIRST, SECOND)])))
                begun += 1
            case 2 if begun and choose.random() < 0.3:
                id = str(choose.randrange(begun))
                if net.fetches.cancel(id):
                    gone.add(id)
            case 3 if choose.random() < 0.2:
                address = choose.choice([FIRST, SECOND])
                if address in net.servers:
                    net.kill(address)
                net.serve(address)
            case 4 if net.admitted and choose.random() < 0.5:
                net.admitted[choose.choice(list(net.admitted))][1].release()
            case 5:
                for server in net.servers.values():
                    if len(server.computing) < 3:
                        server.step(choose.randrange(1, 20))
            case _ if net.wire:
                net.deliver()
            case _:
                pass
        net.fetches.fill(net.now)
        net.check()
    net.pass_time(LEASE + PATIENCE)
    for _ in range(40):
        net.fetches.fill(net.now)
        net.run()
    assert {*net.admitted, *net.rejected, *gone} == set(map(str, range(begun)))
    net.offered.clear()
    net.end()
