"""Requests to an engine and what comes back, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["AdapterChange", "Constraint", "Encoded", "EncodeRequest", "FinishReason", "Image", "MOST_LOGPROBS"]
__all__ += ["Numbers", "Output", "Request", "SamplingParams", "ThoughtTokens", "TokenLogprob"]

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtTokens:
    """What an answer may write before its constraint holds.

    Thoughts begin with `opening`; where it is empty, the prompt has begun them. With `needed` they must begin, else the
    text of the constraint may come at once. They go on until `closing`, never to one of `forbidden` nor to an end of
    the answer. Behind them `lead` is written; what follows is the text of the constraint.
    """

    closing: int
    opening: tuple[int, ...] = ()
    lead: tuple[int, ...] = ()
    forbidden: tuple[int, ...] = ()
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
    generated tokens and of so many likeliest ones beside each, `prompt_logprobs` for those of the prompt. No text of
    the first `min_stop_tokens` is taken for a stop string.
    """

    max_tokens: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    constraint: Constraint | None = None
    min_stop_tokens: int = 0


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
    `mrope_positions` [axes, length] are where the tokens lie for models whose positions have several axes, counted
    from the first of them, and `advance` is how far the positions move over the image (None: its length).
    `bidirectional`: its tokens see each other, later ones too, in every run of neighbours that are `token`.
    """

    digest: bytes
    start: int
    length: int
    token: int
    tensors: Mapping[str, Numbers]
    mrope_positions: Numbers | None = None
    advance: int | None = None
    bidirectional: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to be continued once. `salt` keeps its prefix from being shared with other salts.

    `images` are those in the prompt, in order. `user` is whose it is, for schedulers that care. Of those who wait, a
    lower `priority` comes first, where the scheduler lets it; no running one makes room for it. `pinned` asks eviction
    policies that look at it to keep the cached prefix. `adapter` is the name of the adapter to compute it with; its
    prefix is shared with those of the same adapter alone. `transfer`: where keys and values of its prompt come from, or
    that they are for another server; plain values, whose names are those of request fields.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    salt: str = ""
    user: str = ""
    priority: int = 0
    pinned: bool = False
    adapter: str = ""
    images: tuple[Image, ...] = ()
    transfer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChange:
    """An adapter that is to be served under `name` from now on, or no longer.

    `load` takes it from `source`; where another one has the name, that is an error, unless it is to `replace` it: then
    requests that have begun end with the old one. `unload` waits for the requests that use it, or is refused
    while there are some. A `pinned` one keeps its slot; None: a request has it loaded, which leaves that to what was
    asked before, and a new worker does not load it before another request does.
    """

    id: str
    action: Literal["load", "unload"]
    name: str
    source: str = ""
    replace: bool = False
    wait: bool = True
    pinned: bool | None = False


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
    `accepted` of its tokens were drafts, which are its first ones; `rejected` drafts were not what the model drew.
    At the end, `transfer` says where another server finds the keys and values of the prompt, if it asked for that.
    """

    id: str
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    error: str | None = None
    cached: int = 0
    queued: float = 0.0
    scheduled: float = 0.0
    preemptions: int = 0
    accepted: int = 0
    rejected: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    transfer: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRequest:
    """Texts whose vectors, or scores, are wanted, as token ids.

    `pair_starts` says of each text where its second part begins, for models that distinguish the parts of a pair (their
    token types are 0 before and 1 from there on); 0 where there is none. The first `prompt_prefix` tokens of every text
    are those of a prompt that is not pooled. Without `activation`, the last function of the model is left out: the one
    that divides a vector by its length, or makes a score of a logit. `adapter` names the one that the texts are encoded
    with, "" for none.
    """

    id: str
    texts: tuple[tuple[int, ...], ...]
    pair_starts: tuple[int, ...] = ()
    prompt_prefix: int = 0
    activation: bool = True
    adapter: str = ""


class Encoded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step gave one EncodeRequest: vectors of some of its texts, and at the end why it ended.

    `indices` are numbers of texts. `data` holds, for each in this order, one vector, or `rows` of them, of float32 in
    the order of this machine's bytes.
    """

    id: str
    indices: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    data: bytes = b""
    finish: FinishReason | None = None
    error: str | None = None
