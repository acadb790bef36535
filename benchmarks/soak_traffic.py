"""The clients of a soak: what they send and what must come back."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

LIMIT = 120.0  # seconds; an answer that takes longer counts as an error
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request. `known`: all of that name get the same text. `leaves`: events after which the client hangs up.

    `patience`: seconds after which it hangs up before an answer. `refused`: the right answer is a status of 4xx.
    """

    kind: str
    path: str = COMPLETIONS
    body: dict[str, Any]
    known: str = ""
    leaves: int | None = None
    patience: float | None = None
    refused: bool = False

    @property
    def tokens(self) -> int:
        """Of the whole answer: nothing but the limit ends one."""
        return int(self.body["max_tokens"]) * int(self.body.get("n", 1))


class Traffic:
    """Draws requests; the same seed draws the same ones."""

    def __init__(self, seed: int, vocabulary: int, length: int) -> None:
        self._rng = random.Random(seed)
        self._length = length
        self._vocabulary = vocabulary
        self._shared = [self._ids(200) for _ in range(4)]
        fixed = random.Random(0)
        self._fixed = [[fixed.randrange(16, vocabulary) for _ in range(fixed.choice((5, 40, 150)))] for _ in range(10)]
        self._kinds: dict[Callable[[], Call], int] = {
            self.known: 6, self.short: 3, self.long: 3, self.shared: 4, self.several: 2, self.chat: 2, self.leaver: 3,
            self.impatient: 1, self.wrong: 2,
        }  # fmt: skip

    def __call__(self) -> Call:
        make = self._rng.choices(list(self._kinds), weights=list(self._kinds.values()))[0]
        return make()

    def fixed(self) -> list[Call]:
        """Every request of the fixed set, the same whatever the seed: half are greedy, half have a seed."""
        calls = []
        for number, prompt in enumerate(self._fixed):
            chosen = {"temperature": 0} if number % 2 else {"temperature": 1.0, "top_p": 0.9, "seed": number}
            body = {"prompt": prompt, "max_tokens": 30 + 10 * number, "ignore_eos": True, **chosen}
            calls.append(Call(kind="greedy" if number % 2 else "seeded", body=body, known=f"request {number}"))
        return calls

    def known(self) -> Call:
        call = self._rng.choice(self.fixed())
        streamed = {"stream": True, "stream_options": {"include_usage": True}} if self._rng.random() < 0.6 else {}
        return replace(call, body={**call.body, **streamed})

    def short(self) -> Call:
        return Call(kind="short", body=self._body(self._ids(self._rng.randrange(1, 30)), self._rng.randrange(1, 200)))

    def long(self) -> Call:
        return Call(kind="long", body=self._body(self._ids(self._rng.randrange(300, 440)), self._rng.randrange(1, 70)))

    def shared(self) -> Call:
        own = self._ids(self._rng.randrange(1, 60))
        return Call(kind="shared", body=self._body(self._rng.choice(self._shared) + own, self._rng.randrange(1, 60)))

    def several(self) -> Call:
        body = self._body(self._ids(self._rng.randrange(10, 100)), self._rng.randrange(10, 100))
        return Call(kind="several", body={**body, "n": self._rng.randrange(2, 5)})

    def chat(self) -> Call:
        body = self._body([], self._rng.randrange(1, 80))
        del body["prompt"]
        words = " ".join(str(self._rng.randrange(1000)) for _ in range(self._rng.randrange(1, 40)))
        return Call(kind="chat", path=CHAT, body={**body, "messages": [{"role": "user", "content": words}]})

    def leaver(self) -> Call:
        body = self._body(self._ids(self._rng.randrange(1, 300)), 200)
        return Call(kind="leaver", body={**body, "stream": True}, leaves=self._rng.randrange(1, 40))

    def impatient(self) -> Call:
        body = {"prompt": self._ids(self._rng.randrange(1, 300)), "max_tokens": 200, "ignore_eos": True, "n": 4}
        return Call(kind="impatient", body=body, patience=self._rng.uniform(0.01, 0.3))

    def wrong(self) -> Call:
        good = self._body([17, 18], 4)
        changes: Sequence[dict[str, Any]] = (
            {"prompt": self._ids(self._length + 1)}, {"prompt": [self._vocabulary + 7]}, {"prompt": {}}, {"n": 1000},
            {"temperature": -1}, {"max_tokens": 0}, {"model": "another"}, {"seed": "x"},
            {"allowed_token_ids": [self._vocabulary]}, {"guided_regex": "("}, {"response_format": {"type": "xml"}},
        )  # fmt: skip
        return Call(kind="wrong", body={**good, **self._rng.choice(changes)}, refused=True)

    def _ids(self, count: int) -> list[int]:
        return [self._rng.randrange(16, self._vocabulary) for _ in range(count)]

    def _body(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        drawn: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        if self._rng.random() < 0.6:
            return {**drawn, "stream": True, "stream_options": {"include_usage": True}}
        return drawn


@dataclass(slots=True)
class Answer:
    """`first`: seconds to the first event of a stream. `left`: the client hung up. `error`: empty when all is well."""

    status: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    tokens: int | None = None
    seconds: float = 0.0
    first: float | None = None
    left: bool = False
    error: str = ""

    def add(self, event: dict[str, Any]) -> None:
        """Takes a whole answer, or an event of a stream, in."""
        if "error" in event:
            self.error = str(event["error"])
        for choice in event.get("choices", ()):
            part = choice.get("message") or choice.get("delta") or choice
            text = part.get("text") or part.get("content") or ""
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + text
        if usage := event.get("usage"):
            self.tokens = usage["completion_tokens"]


def complaint(call: Call, answer: Answer) -> str:
    """What is wrong with an answer; nothing when it is as it should be."""
    if call.refused:
        return "" if 400 <= answer.status < 500 else f"status {answer.status} instead of 4xx for {call.body}"
    if answer.error or answer.left:
        return answer.error
    if answer.status != 200:
        return f"status {answer.status}"
    return "" if answer.tokens == call.tokens else f"{answer.tokens} tokens instead of {call.tokens}"


async def ask(client: httpx.AsyncClient, call: Call) -> Answer:
    answer, begun = Answer(), time.perf_counter()
    try:
        async with client.stream("POST", call.path, json=call.body, timeout=call.patience or LIMIT) as reply:
            answer.status = reply.status_code
            if reply.status_code == 200 and call.body.get("stream"):
                await _listen(reply, call, answer, begun)
            else:
                answer.add(json.loads(await reply.aread()))
    except httpx.TimeoutException as error:
        answer.left = call.patience is not None
        answer.error = "" if answer.left else f"no answer within {LIMIT:.0f} s ({type(error).__name__})"
    except (httpx.HTTPError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.seconds = time.perf_counter() - begun
    return answer


async def _listen(reply: httpx.Response, call: Call, answer: Answer, begun: float) -> None:
    events = 0
    async for event in _events(reply):
        if event == b"[DONE]":
            return
        answer.first = answer.first or time.perf_counter() - begun
        answer.add(json.loads(event))
        events += 1
        if events == call.leaves:
            answer.left = True
            return
    answer.error = answer.error or "the stream ended without [DONE]"


async def _events(reply: httpx.Response) -> AsyncIterator[bytes]:
    """The data of each event. Lines end with line feeds only; `aiter_lines` would cut at others, within a text."""
    rest = b""
    async for piece in reply.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                yield line[6:].rstrip(b"\r")
