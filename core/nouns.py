"""The things maxserve speaks of. Every other module uses these words and no others for them.

No torch at import: the CLI, the API process and plugin declarations read this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import msgspec

from maxserve.core.cache_groups import pages_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from maxserve.core.computing import Attention, Index

P = TypeVar("P")

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtTokens:
    """What an answer may write before its constraint holds.

    Thoughts begin with `opening`; where it is empty, the prompt has begun them. With `needed` they must begin, else the
    text of the constraint may come at once. They go on until `closing`, and never to one of `barred`, nor to an end of
    the answer. Behind them `lead` is written; what follows is the text of the constraint.
    """

    closing: int
    opening: tuple[int, ...] = ()
    lead: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()
    needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the text of an answer must be, checked already.

    `kind` is one that a grammar back end accepts: json_schema, json_object, regex, choice, grammar. `text` says it in
    the kind's canonical form: the JSON of a schema, "{}" for any object, an expression that the whole text matches,
    the JSON of a list of strings, a grammar in Lark's notation. It may also be a kind of the back end's own, with what
    its `check` made of one of those. `backend` is the registered name that was chosen; `slow`: compiling takes long.
    `thoughts`, where there are some, are not held to it.
    """

    kind: str
    text: str
    backend: str
    slow: bool = False
    thoughts: ThoughtTokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request wants its tokens chosen and when it ends.

    `fields` holds, by sampler name, the JSON fields the request gave that sampler; what is absent has the
    sampler's defaults. `max_tokens` None means: as many as the model's length allows. `logprobs` asks for those of the
    generated tokens and of so many likeliest ones beside each, `prompt_logprobs` for those of the prompt.
    """

    max_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """An array as it travels: the name of its type as numpy has it, its shape, and its bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, values: NDArray[Any]) -> Numbers:
        return cls(dtype=values.dtype.str, shape=values.shape, data=values.tobytes())

    def array(self) -> NDArray[Any]:
        """The array, as a read-only view of the bytes."""
        import numpy as np

        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a prompt: `length` tokens from `start` on stand for it.

    Those of them that are `token` get the image's features, in order; others, such as ends of lines, are text.
    `tensors` is what the model's tower takes, `digest` a cryptographic hash of it: equal ones are the same image.
    `places` [axes, length] are where the tokens lie for models whose positions have several axes, counted from the
    first of them, and `advance` is how far the positions move over the image (None: its length). `together`: its tokens
    see each other, later ones too, in every run of neighbours that are `token`.
    """

    digest: bytes
    start: int
    length: int
    token: int
    tensors: Mapping[str, Numbers]
    places: Numbers | None = None
    advance: int | None = None
    together: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to be continued once. `salt` keeps its prefix from being shared with other salts.

    `images` are those in the prompt, in order. `user` is whose it is, for schedulers that care. Of those who wait, a
    lower `priority` comes first, where the scheduler lets it; nobody who runs makes room for it.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    salt: str = ""
    user: str = ""
    priority: int = 0
    images: tuple[Image, ...] = ()


MOST_LOGPROBS = 20  # likeliest tokens a request may ask for beside each of its own


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """How likely the model found a token: log-softmax, in float32, of its logits as they are, before any sampler.

    `rank` is 1 for the likeliest; `ids` and `logprobs` are the likeliest tokens, best first, the token itself among
    them only if it is one.
    """

    token: int
    logprob: float
    rank: int
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


class Output(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What one step gave one request: new tokens, and at the end why it ended.

    `cached` counts the prompt tokens found in the prefix cache (known from the first output on).
    A stop or eos token is part of `tokens`; who makes text of them leaves it out. For a request that wants them,
    `logprobs` has an entry for each of `tokens`, and the first output with tokens has the `prompt_logprobs`: of every
    prompt token but the first, which nothing comes before. The first output with tokens also says for how many seconds
    the request was `queued`, and when its first step was `scheduled` (time.monotonic, the same in all processes).
    """

    id: str
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    error: str | None = None
    cached: int = 0
    queued: float = 0.0
    scheduled: float = 0.0
    preemptions: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """Texts whose vectors, or scores, are wanted, as token ids.

    `seconds` says of each text where its second part begins, for models that tell the parts of a pair apart (their
    token types are 0 before and 1 from there on); 0 where there is none. The first `skip` tokens of every text are
    those of a prompt that is not pooled. Without `activation`, the last function of the model (that divides a vector by
    its length, or makes a score of a logit) is left out.
    """

    id: str
    texts: tuple[tuple[int, ...], ...]
    seconds: tuple[int, ...] = ()
    skip: int = 0
    activation: bool = True


class Encoded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step gave one EncodeRequest: vectors of some of its texts, and at the end why it ended.

    `places` are numbers of texts. `data` holds, for each in this order, one vector, or `rows` of them, of float32 in
    the order of this machine's bytes.
    """

    id: str
    places: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    data: bytes = b""
    finish: FinishReason | None = None
    error: str | None = None


class CallDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a piece of an answer adds to its tool call number `index`.

    `id` and `name` come once, with the first delta of a call; `arguments` are fragments that join to the JSON text of
    an object. What a parser tells may be less than that, as the model wrote it; what leaves the server is not.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a piece of text adds to an answer, once parsers for reasoning and tools have read it."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayer:
    """What one attention layer keeps of a token, and how it looks back.

    `window`: at most that many tokens, its own included; `chunk`: no further than the start of the token's own chunk of
    that many positions. Scores are multiplied by `scale` (None: head_dim ** -0.5); with a `softcap` they become
    softcap * tanh(score / softcap). `value_dim` is the size of a value's head where it is not `head_dim`;
    `values_in_keys`: a value is the first `value_dim` numbers of its key, and is not kept a second time. `sinks`: the
    layer brings some when it attends. `together`: tokens of a span that `Batch.together` names see all of it.
    `index_top`: a token sees so many of what it may, by its Index and the last `index_dim` numbers of their first keys.
    """

    kv_heads: int
    head_dim: int
    window: int | None = None
    chunk: int | None = None
    scale: float | None = None
    softcap: float | None = None
    sinks: bool = False
    value_dim: int | None = None
    values_in_keys: bool = False
    together: bool = False
    index_dim: int = 0
    index_top: int = 0

    @property
    def value_size(self) -> int:
        """Numbers of a value's head."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def score_scale(self) -> float:
        """What scores are multiplied by."""
        return float(self.head_dim**-0.5) if self.scale is None else self.scale

    @property
    def token_size(self) -> int:
        """Numbers that are kept of a token."""
        return self.kv_heads * (self.head_dim + (0 if self.values_in_keys else self.value_size))


@dataclass(frozen=True, slots=True)
class KVLayer:
    """Storage of one layer: keys and values, [pages, page_size, kv_heads] of head_dim and of value_size numbers.

    Both are contiguous, but for values that are part of their keys: those are a view of them. Flattened over the first
    two axes, row `page * page_size + offset` is a slot: one token's entry.
    """

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSizes:
    """Pages by state. free + cached + owned = total, always; shared pages in use count once, as owned.

    The host tier, where there is one: its pages, those that hold prefixes, and how many were read back so far.
    """

    total: int
    free: int
    cached: int
    owned: int
    host_total: int = 0
    host_cached: int = 0
    host_hits: int = 0

    @property
    def available(self) -> int:
        """Pages that can be had without preempting anyone."""
        return self.free + self.cached


@dataclass(slots=True)
class Node:
    """A page of a cached prefix, as an eviction policy sees it.

    `tokens` is how many tokens of prefix end with this page, `hits` how often it was matched; `last_used` and
    `created` are readings of one counter.
    """

    page: int
    tokens: int
    last_used: int
    hits: int = 0
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a step may hold, decided at start from the settings, the model and the memory plan.

    `max_started` sequences may hold pages at once when a scheduler wants more of them than fit into one batch.
    `page_bounds`: the most pages that a sequence holds at once, by group of layers; None where it has no bound.
    `shares_prefixes`: pages of equal prefixes are computed once.
    """

    max_batch_size: int
    max_batch_input_tokens: int
    max_batch_total_tokens: int | None
    max_length: int
    page_size: int
    pages: int
    chunked_prefill: bool = True
    in_flight_batching: bool = False
    watermark: float = 0.95
    prompt_regimes: tuple[int, ...] = ()  # see ModelSpec
    max_started: int | None = None
    page_bounds: tuple[int | None, ...] = (None,)
    shares_prefixes: bool = True

    def pages_of(self, tokens: int) -> int:
        """Pages that a sequence of so many tokens holds at most."""
        return pages_of(tokens, self.page_size, self.page_bounds)

    @property
    def rows(self) -> int:
        """Rows of the cache: one for each sequence that holds pages."""
        return max(self.max_batch_size, self.max_started or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How prompts and answers take turns, for schedulers that honour these options.

    `queue_size` sequences decode or are about to (unset, as many as a batch holds); prompts go first until
    `batch_size` decode (unset, until `queue_size` do); `delay` is in seconds.
    """

    queue_size: int | None = None
    batch_size: int | None = None
    delay: float = 0.0
    first_decode: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a step computes of an image: features `first` … `first` + len(rows) - 1 go to these rows of the step."""

    image: Image
    rows: Tensor  # [n] int64, indices into T
    first: int


Span: TypeAlias = tuple[int, int]  # first position and the one after the last


@dataclass(slots=True, kw_only=True)
class Batch:
    """One ragged step: B sequences with T new tokens in all, R rows whose logits are wanted.

    `places` are the positions to turn by, where they have several axes or are not those in the sequence. `together`
    has, per sequence, the spans of positions whose tokens see each other; empty where nobody has any.

    Device tensors feed the model; the numpy arrays beside them are the same numbers on the host, so that a
    back end may plan without waiting for the device. Where layers have tables of their own, `groups` are the batch as
    each group of layers sees it, `slots` and `tables` those of the first.
    """

    input_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    slots: Tensor  # [T] int64, where each new token's keys and values go
    query_start: NDArray[np.int64]  # [B+1] offsets into T
    seq_lens: NDArray[np.int64]  # [B] tokens of each sequence after this step
    prompt_lens: NDArray[np.int64]  # [B] tokens of each sequence's prompt, the same in all its steps
    tables: NDArray[np.int32]  # [B, pages] page ids; undefined beyond a sequence's pages, and before all windows
    logit_rows: Tensor  # [R] int64, indices into T
    attention: Attention
    images: tuple[Seen, ...] = ()
    places: Tensor | None = None  # [axes, T] int64
    together: tuple[tuple[Span, ...], ...] = ()  # [B]
    groups: tuple[Batch, ...] = ()

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None, index: Index | None = None
    ) -> Tensor:
        """Stores k, v of the new tokens and returns what q sees of each whole sequence.

        q [T, heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, value_size]; returns [T, heads, value_size].
        `sinks` [heads]: scores that take part in each softmax and bring no value. `index`: for an `index_top`.
        """
        if not len(self.seq_lens):
            return q[..., : v.shape[-1]]  # a step of nobody stores and sees nothing
        return self.attention.attend(layer, q, k, v, self, sinks, index)
