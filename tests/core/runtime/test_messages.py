from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.encoder import VectorInfo
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import Constraint, Encoded, EncodeRequest, Output, Request, SamplingParams
from maxserve.core.runtime.messages import (
    Abort,
    Encode,
    Failed,
    FromWorker,
    Hello,
    Message,
    Outputs,
    Phase,
    Ready,
    RequestRejected,
    ResetPrefixCache,
    Shutdown,
    Submit,
    ToWorker,
)

REQUEST = Request(
    id="r",
    prompt=(1, 2, 3),
    params=SamplingParams(max_tokens=4, stop_token_ids=(9,), seed=2**63, fields={"top_p": {"top_p": 0.5}}),
    salt="s",
    user="u",
    priority=-1,
)
INFO = ModelInfo(
    name="n",
    path="p",
    architecture="a",
    max_length=1,
    vocab_size=2,
    eos_token_ids=(1,),
    dtype="float32",
    device="cpu",
    parameters=3,
    max_batch_size=8,
    created=4,
    defaults={"temperature": 0.5, "eos_token_id": [1, 2]},
)
STATS = StepStats(time=1.5, running=1, waiting=2, cache=CacheSizes(total=4, free=2, cached=1, owned=1), steps=9)


@pytest.mark.parametrize(
    "message",
    [
        Submit(requests=(REQUEST, REQUEST)),
        Encode(requests=(EncodeRequest(id="e", texts=((1, 2), (3,)), seconds=(1, 0), skip=1),)),
        Abort(ids=("a", "b")),
        ResetPrefixCache(),
        Shutdown(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_worker_is_told_arrives_as_it_was(message: Message) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToWorker) == message


@pytest.mark.parametrize(
    "message",
    [
        Hello(pid=1, fingerprint="f"),
        Phase(text="loading", fraction=0.25),
        Phase(text="loading"),
        Ready(info=INFO),
        Ready(
            info=replace(INFO, task="embeddings_generation", vectors=VectorInfo(size=3, sizes=(), prompts={"q": "Q"}))
        ),
        Outputs(
            outputs=(),
            stats=STATS,
            encoded=(Encoded(id="e", places=(1, 0), rows=(2, 1), data=b"\0\x80?!", finish="stop"),),
        ),
        Failed(message="m", kind="usage"),
        Outputs(outputs=(Output(id="r", tokens=(1,), finish="stop", cached=3),), stats=STATS),
        Outputs(
            outputs=(), stats=STATS, rejected=(RequestRejected(id="r", message="m", param="p", code="c", status=422),)
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_worker_says_arrives_as_it_was(message: Message) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=FromWorker) == message


def test_a_constraint_travels_with_its_request() -> None:
    params = SamplingParams(constraint=Constraint(kind="choice", text='["é"]', backend="outlines"))
    sent = Submit(requests=(Request(id="a", prompt=(1,), params=params),))
    decoder = msgspec.msgpack.Decoder(ToWorker)
    assert decoder.decode(msgspec.msgpack.encode(sent)) == sent


def test_a_message_for_the_other_direction_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Shutdown"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Shutdown()), type=FromWorker)
