from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.engine import ModelInfo, VectorInfo
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
        Encode(requests=(EncodeRequest(id="e", texts=((1, 2), (3,)), pair_starts=(1, 0), prompt_prefix=1),)),
        Abort(ids=("a", "b")),
        ResetPrefixCache(),
        Shutdown(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_to_the_worker_arrive_unchanged(message: Message) -> None:
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
            encoded=(Encoded(id="e", indices=(1, 0), rows=(2, 1), data=b"\0\x80?!", finish="stop"),),
        ),
        Failed(message="m", kind="usage"),
        Outputs(outputs=(Output(id="r", tokens=(1,), finish="stop", cached=3),), stats=STATS),
        Outputs(
            outputs=(), stats=STATS, rejected=(RequestRejected(id="r", message="m", param="p", code="c", status=422),)
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_of_the_worker_arrive_unchanged(message: Message) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=FromWorker) == message


def test_a_constraint_travels_with_its_request() -> None:
    params = SamplingParams(constraint=Constraint(kind="choice", text='["é"]', backend="outlines"))
    sent = Submit(requests=(Request(id="a", prompt=(1,), params=params),))
    decoder = msgspec.msgpack.Decoder(ToWorker)
    assert decoder.decode(msgspec.msgpack.encode(sent)) == sent


def test_a_message_for_the_other_direction_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="Shutdown"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Shutdown()), type=FromWorker)


# --- whatever a client asks, and whatever bytes come ----------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
constraints = st.builds(Constraint, kind=st.text(max_size=9), text=st.text(max_size=30), backend=st.text(max_size=9))
sampling = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(1, 2**31),
    stop_token_ids=st.lists(st.integers(0, 2**31), max_size=4).map(tuple),
    ignore_eos=st.booleans(),
    seed=st.none() | st.integers(-(2**63), 2**64 - 1),
    fields=st.dictionaries(
        st.text(max_size=6), st.dictionaries(st.text(max_size=6), json_values, max_size=2), max_size=2
    ),
    constraint=st.none() | constraints,
)
requests = st.builds(
    Request,
    id=st.text(max_size=20),
    prompt=st.lists(st.integers(0, 2**31), min_size=1, max_size=20).map(tuple),
    params=sampling,
    salt=st.text(max_size=9),
    user=st.text(max_size=9),
    priority=st.integers(-(2**31), 2**31),
)
sent = st.lists(requests, max_size=3).map(lambda found: Submit(requests=tuple(found)))
TO_WORKER = msgspec.msgpack.Decoder(ToWorker)


@given(message=sent)
@settings(deadline=None, max_examples=100)
def test_any_request_arrives_as_it_was(message: Submit) -> None:
    assert TO_WORKER.decode(msgspec.msgpack.encode(message)) == message


@given(data=st.data(), message=sent)
@settings(deadline=None, max_examples=200)
def test_a_damaged_frame_is_a_message_or_an_error_of_its_own_kind(data: st.DataObject, message: Submit) -> None:
    """Bytes are changed, left out or put in, one or several: nothing else is raised, and nothing else comes out."""
    frame = bytearray(msgspec.msgpack.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(frame)))
        frame[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    for decoder in (TO_WORKER, msgspec.msgpack.Decoder(FromWorker)):
        try:
            found = decoder.decode(bytes(frame))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        assert isinstance(found, Message)
