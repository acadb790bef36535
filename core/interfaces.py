"""What the builds of plugins return, and what they are given.

Protocols of a few methods each; contexts are small and frozen, and none carries the engine. Optional methods are
looked for once, when the engine is put together, never in the step loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from maxserve.core.encoders import VectorInfo
from maxserve.core.nouns import Batch, CacheLayer, CacheSizes, KVLayer, Node, Output, Request
from maxserve.core.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

    from maxserve.core.cache_groups import CacheGroup
    from maxserve.core.config import Settings
    from maxserve.core.loading.progress import Progress
    from maxserve.core.loading.resolve import ModelFiles
    from maxserve.core.nouns import Encoded, EncodeRequest
    from maxserve.core.registry.host import Host
    from maxserve.core.text.chat_template import ChatTemplate
    from maxserve.core.text.tokenizer import Tokenizer

S = TypeVar("S")
C = TypeVar("C")
K = TypeVar("K", bound="Closeable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every build gets at least: the settings sections of plugins, by schema."""

    sections: Mapping[type[Any], Any] = field(default_factory=dict)

    def config(self, schema: type[C]) -> C:
        """The plugin's own validated settings; the schema's defaults when nothing was set."""
        found = self.sections.get(schema)
        return schema() if found is None else found


# --- models ---------------------------------------------------------------------------------------------------


class ModelSpec(Protocol):
    """What the engine must know of a model's config, whatever else its architecture keeps there."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_length(self) -> int:
        """Positions the model was made for."""
        ...

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]: ...
    @property
    def prompt_regimes(self) -> tuple[int, ...]:
        """Prompt lengths, rising, above which every token's keys change: prefixes are shared within a regime only.

        Empty for models whose keys depend on nothing but the tokens up to theirs.
        """
        return ()


@runtime_checkable
class Model(Protocol):
    """An nn.Module. Parameter names follow the checkpoint, but for what the WeightMap fuses and renames."""

    def prepare(self) -> None:
        """Computes what no checkpoint holds (rope tables); called once, when the weights are on their device."""
        ...

    def forward(self, batch: Batch) -> torch.Tensor:
        """Hidden states after the last norm, [T, dim]."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] to [rows, vocab_size]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesContext(Context):
    """`path` is the model's folder, `model` the content of its config.json, with the overrides of its vision part.

    `overrides` are those (`--vision-config-overrides`): SettingsError names the ones that mean nothing.
    """

    path: str
    model: Mapping[str, Any]
    tokenizer: Tokenizer
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """A picture as its model takes it: `text` stands for it in the prompt, and each `token` in that for one feature.

    `tensors` are numpy's arrays for the tower; the other fields are those of Image.
    """

    text: str
    token: str
    tensors: Mapping[str, NDArray[Any]]
    places: NDArray[np.int64] | None = None
    advance: int | None = None
    together: bool = False


class ReadsImages(Protocol):
    """Makes of a picture what one model takes. Used from several threads at once, in the API process.

    `placeholder` is what the chat template writes where an image stands.
    """

    placeholder: str

    def read(self, picture: Picture) -> ReadImage:
        """`picture` is decoded and in RGB; RequestError when this model cannot take it."""
        ...


# --- cache ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheContext(Context):
    """Rows are numbered 0 … rows-1 and handed out by the engine. `dtype` and `device` are torch's.

    `layers`, `pages` and `page_size` give the storage to allocate; `max_length` bounds a row's tokens.
    `host_pages` are those of the second tier, for strategies that declare one. Memory is touched when a page is first
    handed out: prefixes nobody uses shall not make the cache touch more than `soft_pages`; open rows may have all, and
    some room beside them. `groups`, only for strategies that declare `windows`: groups of equal layers, a table each. A
    page is of one group at a time, and the n-th layers of all groups keep their parts of it in the same storage.
    """

    layers: tuple[CacheLayer, ...]
    pages: int
    page_size: int
    rows: int
    max_length: int
    dtype: torch.dtype
    device: torch.device
    share_prefixes: bool = True
    host_pages: int = 0
    soft_pages: int | None = None
    groups: tuple[CacheGroup, ...] = ()


class Cache(Protocol):
    """Keeps keys and values in pages, and shares the pages of equal prefixes.

    The engine calls: open, then reserve → (model writes) → commit each step, then close. Tokens are int64 arrays.
    """

    tables: NDArray[np.int32]  # [rows, pages per row]; entries beyond what is reserved are undefined
    layers: Sequence[KVLayer]

    def peek(self, tokens: NDArray[np.int64], salt: str) -> int:
        """How many leading tokens `open` would find; claims nothing."""
        ...

    def open(self, row: int, tokens: NDArray[np.int64], salt: str) -> int:
        """Takes `row` into use and claims the longest cached prefix; always fewer than len(tokens)."""
        ...

    def reserve(self, row: int, length: int) -> bool:
        """Gives `row` pages for its first `length` tokens, evicting unused prefixes; False changes nothing."""
        ...

    def commit(self, row: int, tokens: NDArray[np.int64]) -> None:
        """Says that keys and values of `tokens`, all from the start, are written: full pages may be shared."""
        ...

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""
        ...

    def sizes(self) -> CacheSizes: ...

    def reset(self) -> int:
        """Forgets every prefix nobody uses; returns the pages freed."""
        ...

    def check(self) -> None:
        """Recounts everything; raises AssertionError naming what is wrong."""
        ...


class EvictionPolicy(Protocol):
    """Orders the pages nobody uses. The smallest key is freed first."""

    def key(self, node: Node) -> tuple[float, ...]: ...


# --- sampling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerContext(Context):
    vocab_size: int
    device: torch.device


class LogitTransform(Protocol[S]):
    """Changes logits before the draw. Two optional methods and an attribute are found once, at build:

    `greedy(rows) -> Sequence[bool]` says which rows want the likeliest token and no draw;
    `observe(rows, tokens)` hears of the token each row got;
    `steady = True` says that `prepare` and `greedy` look at nothing but the rows' params, so that what they gave is
    kept while the same requests draw together.
    """

    def prepare(self, rows: Rows) -> S | None:
        """What `apply` needs, or None when no row asked for this transform (it is then skipped)."""
        ...

    def apply(self, logits: torch.Tensor, state: S) -> torch.Tensor:
        """New logits, same shape [rows, vocab], float32; may work in place."""
        ...


# --- serving --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the API process knows of the served model once it is ready."""

    name: str
    path: str
    architecture: str
    max_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str  # in which the weights of projections are held
    device: str
    parameters: int
    max_batch_size: int
    created: int
    defaults: Mapping[str, Any] = field(default_factory=dict)  # generation_config.json, by request field
    task: str = "text_generation"
    vectors: VectorInfo | None = None  # of models that encode texts


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext(Context):
    """The model's files, the settings, the plugins, and where to report how far the start is."""

    settings: Settings
    host: Host
    files: ModelFiles
    progress: Progress


class ServedEngine(Protocol):
    """What a worker runs: takes requests, gives outputs step by step. One thread uses it."""

    info: ModelInfo
    empty_steps: bool  # whether steps are to be made while there is nothing to do

    @property
    def busy(self) -> bool: ...
    @property
    def pause(self) -> float | None:
        """Seconds to wait for messages before the next step; None: until one comes."""
        ...

    def add(self, request: Request | EncodeRequest) -> None:
        """RequestError for what this engine does not do, and for what can never be served."""
        ...

    def abort(self, ids: Iterable[str]) -> None: ...
    def serve_grammars(self, wake: Callable[[], None]) -> None:
        """Gets ready for constrained requests, beside the loop. `wake` ends a pause; it is called from any thread."""
        ...

    def step(self) -> Sequence[Output | Encoded]: ...
    def stats(self) -> StepStats: ...
    def reset_prefix_cache(self) -> int: ...
    def close(self) -> None: ...


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
    async def reset_prefix_cache(self) -> None: ...


# Upper edges of the buckets in which a worker counts its steps; a last bucket holds what is beyond them.
ITERATION_TOKENS_EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
BATCH_SIZE_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values were in each bucket, and their sum."""

    counts: tuple[int, ...] = ()
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What the worker says of its state, at most once per step; counters are totals since it started.

    `waiting` wait for their first step, and `deferred` for their grammar before that. `iteration_tokens` are the tokens
    of prompts that steps computed and the tokens they generated, `batch_sizes` the sequences in them.
    """

    time: float
    running: int
    waiting: int
    cache: CacheSizes
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    deferred: int = 0
    page_size: int = 0
    iteration_tokens: Distribution = Distribution()
    batch_sizes: Distribution = Distribution()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStats:
    """One finished request, as the API process measured it; times in seconds.

    `queue` is how long it waited in the worker, `prefill` the time from there to its first token, `decode` from that to
    the last one; None where nothing was generated. `preemptions` is how often it lost its pages.
    """

    route: str
    status: int
    prompt_tokens: int
    generated_tokens: int
    cached_tokens: int
    finish: str
    queue_to_first_token: float | None
    total: float
    inter_token: tuple[float, ...] = ()
    n: int = 1
    max_tokens: int | None = None
    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    preemptions: int = 0


class StatsObserver(Protocol):
    """Hears of steps and requests, in the API process. Must return at once."""

    def on_step(self, stats: StepStats) -> None: ...
    def on_request(self, stats: RequestStats) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserverContext(Context):
    """`model` is its name, `max_length` the tokens of its longest sequence."""

    model: str
    max_length: int | None = None


class Closeable(Protocol):
    """What must be closed when nobody needs it any more."""

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext(Context):
    """What routes may use: submit requests, read the model's facts and the settings. Not the engine itself.

    `images` reads the pictures of prompts, where the model sees.

    `once(make)` is `make(context)`, made at the first call: what is costly is there once for all routes. What is
    `owned`, such as threads, is closed with the application, which a new worker may need another one of.
    """

    settings: Settings
    host: Host
    model: ModelInfo
    engine: EngineClient
    tokenizer: Tokenizer
    template: ChatTemplate
    images: ReadsImages | None = None
    observers: Iterable[StatsObserver] = ()
    made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _owned: list[Closeable] = field(default_factory=list, init=False, repr=False, compare=False)

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
