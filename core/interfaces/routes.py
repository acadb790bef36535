"""HTTP routes and what they may use."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar
from uuid import uuid4

from maxserve.core.interfaces.component import Component, Context
from maxserve.core.interfaces.errors import EngineError, RequestError
from maxserve.core.interfaces.grammar import GrammarChoice
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.served_names import ServedNames

if TYPE_CHECKING:
    from maxserve.core.interfaces.chat_template import ChatTemplate
    from maxserve.core.interfaces.component import Components, Ref
    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.interfaces.images import ReadsImages
    from maxserve.core.interfaces.observer import StatsObserver
    from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output
    from maxserve.core.interfaces.sampler import RequestParams, S
    from maxserve.core.interfaces.tokenizer import Tokenizer


__all__ = ["Closeable", "EngineClient", "Probe", "Routes", "ServerContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A path that tells whether the server takes requests: 200 with the object `answer`, or 503.

    A `live` one answers 200 while the model loads, too, and as long as the server may yet come up.
    """

    live: bool = False
    answer: Mapping[str, Any] = field(default_factory=lambda: {"status": "ok"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes(Component):
    """HTTP routes. `build(ServerContext)` gives a fastapi.APIRouter, mounted at `prefix`.

    An empty `prefix` stands for /plugins/<plugin name>; "/" is the root. They are served when the operator names the
    plugin in --enable-routes, and without that where they are `default`. `failures`: what makes the answer of a Failure
    and the request's id, by the path below which it words failures that no route hears of, such as a missing key.
    `probes` are paths that the server answers itself, without a key and before the model is there.
    """

    kind: ClassVar[str] = "routes"

    prefix: str = ""
    default: bool = False
    failures: Mapping[str, Ref] = field(default_factory=dict)
    probes: Mapping[str, Probe] = field(default_factory=dict)


K = TypeVar("K", bound="Closeable")


class EngineClient(Protocol):
    """The way from the API process to the engine."""

    @property
    def ready(self) -> bool: ...
    @property
    def capacity(self) -> int | None: ...  # requests that may be open at once; None: any number
    @property
    def open(self) -> int: ...  # requests that have not come to their end, every text to be encoded as one

    def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        """Outputs of a request as they come; closing the iterator early aborts it. WorkerDied when the worker goes."""
        ...

    def encode(self, request: EncodeRequest) -> AsyncGenerator[Encoded, None]: ...  # likewise; each text counts as one
    async def change_adapter(self, change: AdapterChange) -> None: ...  # RequestError if it cannot be made
    async def reset_prefix_cache(self) -> None: ...


class Closeable(Protocol):
    """What must be closed when it is no longer needed."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext(Context):
    """What routes may use: submit requests, and read the model's facts. Not the engine itself.

    `components` are those of all plugins: parsers and grammar back ends, say. `params` is what requests may say to
    samplers and the scheduler. `plugins` are the plugins and their settings, from which `maxserve.registry.restored`
    makes the same in a process of the routes' own.

    `template` writes the prompts of conversations, where the model has one; `images` reads the images of prompts, where
    it takes images. `names` are those under which requests are answered; routes that load adapters add to them.

    `once(make)` is `make(context)`, made at the first call: what is costly is there once for all routes. What is
    `owned`, such as threads, is closed with the application, which a new worker may need another one of.
    """

    components: Components
    model: ModelInfo
    engine: EngineClient
    tokenizer: Tokenizer
    template: ChatTemplate | None = None
    images: ReadsImages | None = None
    params: Sequence[RequestParams] = ()
    grammars: GrammarChoice = field(default_factory=GrammarChoice)
    plugins: bytes = b""
    observers: Iterable[StatsObserver] = ()
    names: ServedNames = field(init=False, repr=False, compare=False)
    made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _owned: list[Closeable] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", ServedNames(self.model))

    async def complete(self, prompt: str, *, max_tokens: int, **fields: Any) -> str:
        """The text that continues a prompt. `fields` are request fields of samplers, with the samplers' own defaults.

        RequestError for a field that no sampler has; EngineError where the request fails.
        """
        ids = self.tokenizer.encode(prompt, add_special_tokens=True)
        params = SamplingParams(max_tokens=max_tokens, fields=self._by_sampler(fields))
        tokens: list[int] = []
        async for output in self.engine.generate(Request(id=uuid4().hex, prompt=tuple(ids), params=params)):
            if output.error:
                raise EngineError(output.error)
            tokens += output.tokens
        if tokens and tokens[-1] in self.model.eos_token_ids:
            tokens.pop()
        return self.tokenizer.decode(tokens)

    def _by_sampler(self, fields: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        owners = {each.name: params.component for params in self.params for each in dataclass_fields(params.schema)}
        grouped: dict[str, dict[str, Any]] = {}
        for name, value in fields.items():
            if name not in owners:
                raise RequestError(f"no sampler has the field {name!r}", param=name)
            grouped.setdefault(owners[name], {})[name] = value
        return grouped

    def owned(self, resource: K) -> K:
        """`resource`, which is closed with the application."""
        self._owned.append(resource)
        return resource

    def close(self) -> None:
        """Closes what is owned, the last one first; called by the server when the application was replaced."""
        while self._owned:
            self._owned.pop().close()

    def once(self, make: Callable[[ServerContext], S]) -> S:
        if make not in self.made:
            self.made[make] = make(self)
        found: S = self.made[make]
        return found
