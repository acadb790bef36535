"""Fixtures for tests of routes: a served model without a model. A conftest imports them and adds its own `app`."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tokenizers
import uvicorn
from tokenizers import decoders, models, pre_tokenizers

from maxserve.core.assembly.params import request_params
from maxserve.core.config import Settings
from maxserve.core.http.health_gate import HealthGate
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.observer import RequestStats, ResponseStats
from maxserve.core.interfaces.request import (
    AdapterChange,
    Encoded,
    EncodeRequest,
    FinishReason,
    Output,
    Request,
    TokenLogprob,
)
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.options import PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.core.runtime.restored import packed
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.tokenizers.folder import load_tokenizer

SPECIAL = ("<s>", "</s>", "<|turn|>")
MAX_LENGTH = 256


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def byte_tokenizer(folder: Path) -> Tokenizer:
    """One token per byte, and three special ones; its files are written into `folder`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(str(folder))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


TEMPLATE = """\
{%- if refuse %}{{ raise_exception(refuse) }}{% endif %}{{ preface }}
{%- for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}{{ "\\n" }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ "\\nassistant:" }}{% endif %}"""


def scored(tokens: Sequence[int], count: int | None) -> tuple[TokenLogprob, ...]:
    """Made-up logprobs: every token is the second likeliest, after token 0."""
    if count is None:
        return ()
    best: dict[str, Any] = {"ids": (0, 1, 2)[:count], "logprobs": (-0.5, -1.5, -2.5)[:count]}
    return tuple(TokenLogprob(token=token, logprob=-1.5, rank=2, **best) for token in tokens)


@dataclass
class ScriptedEngine:
    """Says `reply` to every request, `step` tokens every `delay` seconds, as an EngineClient.

    With `rejected`, so many drafts are rejected in each step, and all tokens but its last one were drafts.
    """

    tokenizer: Tokenizer
    reply: Callable[[Request], Sequence[int]]
    delay: float = 0.0
    step: int = 1
    cached: int = 0
    rejected: int | None = None
    refusal: Exception | None = None
    failure: Exception | None = None
    fail_after: int = 3
    ready: bool = True
    capacity: int | None = None
    size: int = 4
    max_length: int = MAX_LENGTH
    requests: list[Request] = field(default_factory=list)
    encoded: list[EncodeRequest] = field(default_factory=list)
    active: set[str] = field(default_factory=set)

    @property
    def open(self) -> int:
        return len(self.active)

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        self.active.add(request.id)
        try:
            async for output in self._outputs(request):
                yield output
        finally:
            self.active.remove(request.id)

    async def _outputs(self, request: Request) -> AsyncIterator[Output]:
        limit = request.params.max_tokens or self.max_length - len(request.prompt)
        tokens = list(self.reply(request))[:limit]
        ends = {*request.params.stop_token_ids, *(() if request.params.ignore_eos else (self.eos,))}
        sent = 0
        while True:
            await asyncio.sleep(self.delay)
            if self.failure is not None and sent >= self.fail_after:
                raise self.failure
            new = tokens[sent : sent + self.step]
            wanted = request.params.prompt_logprobs is not None and not sent
            scores: dict[str, Any] = {
                "logprobs": scored(new, request.params.logprobs),
                "prompt_logprobs": scored(request.prompt[1:], request.params.prompt_logprobs) if wanted else (),
            }
            if self.rejected is not None:
                scores |= {"accepted": max(0, len(new) - 1), "rejected": self.rejected}
            stopped = next((i for i, token in enumerate(new) if token in ends), None)
            if stopped is not None:
                ended, scores["logprobs"] = tuple(new[: stopped + 1]), scores["logprobs"][: stopped + 1]
                yield Output(id=request.id, tokens=ended, finish="stop", cached=self.cached, **scores)
                return
            sent += len(new)
            finish: FinishReason | None = "length" if sent >= len(tokens) else None
            yield Output(id=request.id, tokens=tuple(new), finish=finish, cached=self.cached, **scores)
            if finish:
                return

    async def encode(self, request: EncodeRequest) -> AsyncGenerator[Encoded, None]:
        """The vector of a text is `size` numbers: how many tokens it has, then its first ones, as far as they go."""
        if self.refusal is not None:
            raise self.refusal
        self.encoded.append(request)
        self.active.add(request.id)
        try:
            await asyncio.sleep(self.delay)
            for index in reversed(range(len(request.texts))):
                if self.failure is not None:
                    raise self.failure
                yield self._encoded(request, index)
        finally:
            self.active.remove(request.id)

    def _encoded(self, request: EncodeRequest, index: int) -> Encoded:
        text = request.texts[index]
        vector = np.array([len(text), *text, *[0] * self.size][: self.size], dtype=np.float32)
        return Encoded(id=request.id, indices=(index,), data=vector.tobytes(), finish=None if index else "stop")

    async def change_adapter(self, change: AdapterChange) -> None: ...
    async def reset_prefix_cache(self) -> None: ...

    @property
    def eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        assert eos is not None
        return eos


@dataclass
class Recorder:
    """An observer that keeps what it hears."""

    stats: list[RequestStats] = field(default_factory=list)
    responses: list[ResponseStats] = field(default_factory=list)

    def on_step(self, stats: Any) -> None: ...

    def on_request(self, stats: RequestStats) -> None:
        self.stats.append(stats)

    def on_response(self, stats: ResponseStats) -> None:
        self.responses.append(stats)


def speaking(tokenizer: Tokenizer, text: str = "Hello there, friend.") -> ScriptedEngine:
    """An engine that answers everything with `text`."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    return ScriptedEngine(tokenizer, reply=lambda request: [*tokens, tokenizer.eos_token_id or 0])


@pytest.fixture
def engine(tokenizer: Tokenizer) -> ScriptedEngine:
    return speaking(tokenizer)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def host() -> Host:
    """The plugins that come with maxserve, whatever is installed beside it."""
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def server_context(
    host: Host, engine: ScriptedEngine, recorder: Recorder, sections: Mapping[type[Any], Any] | None = None
) -> ServerContext:
    """What routes are built with, over a scripted engine."""
    tokenizer = engine.tokenizer
    info = ModelInfo(
        name="acme/tiny",
        path="/nowhere",
        ref="maxserve/demo",
        architecture="TinyForCausalLM",
        max_length=MAX_LENGTH,
        vocab_size=tokenizer.vocab_size,
        eos_token_ids=(engine.eos,),
        dtype="float32",
        device="cpu",
        parameters=1,
        max_batch_size=8,
        created=1_700_000_000,
        defaults={"temperature": 0.7, "top_k": 40},
    )
    return ServerContext(
        sections=sections or {},
        components=host,
        model=info,
        engine=engine,
        tokenizer=tokenizer,
        template=JinjaTemplate({"default": TEMPLATE}),
        params=request_params(host, Settings()),
        plugins=packed(host, Settings()),
        observers=(recorder,),
    )


@pytest.fixture
def context(host: Host, engine: ScriptedEngine, recorder: Recorder) -> ServerContext:
    return server_context(host, engine, recorder)


@pytest.fixture
async def client(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
def server(app: Any) -> Iterator[str]:
    """The address of a real server with the application behind an open gate."""
    gate = HealthGate()
    gate.open(app)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(gate, log_level="warning", ws="none", timeout_graceful_shutdown=2)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(timeout=10)
    listener.close()
    assert not thread.is_alive()
