"""The engine of encoders, with a model whose vectors tell what it saw."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from maxserve.core.interfaces.engine import ModelInfo, VectorInfo
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import Encoded, EncodeRequest, Request
from maxserve.plugins.embeddings.engine import EncoderEngine, EncoderParts
from maxserve.plugins.embeddings.pooling import Pooling
from maxserve.plugins.embeddings.sentence import Normalize, Recipe
from maxserve.plugins.embeddings.text_attention import WithinTexts
from maxserve.plugins.embeddings.vectors import Collected

VOCAB, LENGTH = 50, 20


class SeenModel:
    """A token's vector: its id, its position, its type. Fails for texts with the token 13."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []

    def prepare(self) -> None: ...

    def forward(self, step: Any) -> torch.Tensor:
        self.steps.append(step.inputs.seq_lens.tolist())
        if (step.inputs.input_ids == 13).any():
            raise ValueError("unlucky")
        return torch.stack((step.inputs.input_ids, step.inputs.positions, step.inputs.token_types), dim=1).float()


Make = Callable[..., tuple[EncoderEngine, SeenModel]]


@pytest.fixture
def make() -> Make:
    def make(
        *, tokens: int = 30, texts: int = 8, pooling: str | None = "mean", failures: float = 0.0, normal: bool = False
    ) -> tuple[EncoderEngine, SeenModel]:
        model = SeenModel()
        info = ModelInfo(
            name="seen",
            path="",
            architecture="Seen",
            max_length=LENGTH,
            vocab_size=VOCAB,
            eos_token_ids=(),
            dtype="float32",
            device="cpu",
            parameters=0,
            max_batch_size=texts,
            created=0,
            task="embeddings_generation",
            vectors=VectorInfo(size=3, pooled=pooling is not None),
        )
        device = torch.device("cpu")
        parts = EncoderParts(
            info=info,
            model=model,
            attention=WithinTexts(()),
            finish=None
            if pooling is None
            else Pooling(Recipe(pooling=(pooling,), steps=(Normalize(),) * normal), 3, device),
            device=device,
            max_tokens=tokens,
            max_texts=texts,
            failure_percent=failures,
            random=random.Random(0),
        )
        return EncoderEngine(parts), model

    return make


def run(engine: EncoderEngine) -> dict[str, list[Encoded]]:
    """Steps until nothing is left; what each request got."""
    got: dict[str, list[Encoded]] = {}
    while engine.busy:
        assert engine.pause == 0.0
        for encoded in engine.step():
            got.setdefault(encoded.id, []).append(encoded)
    assert engine.pause is None
    return got


def vectors(got: list[Encoded], count: int, info: VectorInfo | None) -> list[Any]:
    assert info is not None
    collected = Collected(count, info)
    for encoded in got:
        collected.add(encoded)
    return [vector.tolist() for vector in collected.vectors()]


def test_requests_of_one_step_may_leave_the_last_function_out(make: Make) -> None:
    engine, model = make(normal=True)
    engine.add(EncodeRequest(id="raw", texts=((3, 5), (2,)), activation=False))
    engine.add(EncodeRequest(id="unit", texts=((4,),)))
    got = run(engine)
    assert len(model.steps) == 1
    assert vectors(got["raw"], 2, engine.info.vectors) == [[4, 0.5, 0], [2, 0, 0]]
    assert vectors(got["unit"], 1, engine.info.vectors) == [[1, 0, 0]]


def test_every_text_gets_its_own_vector_in_its_place(make: Make) -> None:
    engine, model = make()
    texts = ((7, 9), (1,), (2, 2, 2, 2), (5,) * 20, (4,))
    engine.add(EncodeRequest(id="a", texts=texts))
    engine.add(EncodeRequest(id="b", texts=((6, 8),)))
    got = run(engine)
    assert vectors(got["a"], 5, engine.info.vectors) == [[8, 0.5, 0], [1, 0, 0], [2, 1.5, 0], [5, 9.5, 0], [4, 0, 0]]
    assert vectors(got["b"], 1, engine.info.vectors) == [[7, 0.5, 0]]
    assert all(lengths == sorted(lengths) for lengths in model.steps)
    assert [each.finish for each in got["a"]][-1] == "stop"
    assert all(each.finish is None for each in got["a"][:-1])


def test_steps_are_bounded(make: Make) -> None:
    engine, model = make(tokens=10, texts=3)
    engine.add(EncodeRequest(id="a", texts=tuple((1,) * length for length in (4, 4, 4, 1, 1, 1, 1, 15))))
    run(engine)
    assert max(map(len, model.steps)) <= 3
    assert all(sum(lengths) <= 10 or len(lengths) == 1 for lengths in model.steps)


def test_the_second_part_of_a_pair_has_another_type(make: Make) -> None:
    engine, _ = make(pooling=None)
    engine.add(EncodeRequest(id="a", texts=((1, 2, 3), (4, 5)), pair_starts=(2, 0)))
    assert vectors(run(engine)["a"], 2, engine.info.vectors) == [
        [[1, 0, 0], [2, 1, 0], [3, 2, 1]],
        [[4, 0, 0], [5, 1, 0]],
    ]


def test_a_prompt_that_is_not_pooled_is_skipped(make: Make) -> None:
    engine, _ = make()
    engine.add(EncodeRequest(id="a", texts=((9, 1, 3), (9, 5, 5, 5)), prompt_prefix=1))
    assert vectors(run(engine)["a"], 2, engine.info.vectors) == [[2, 1.5, 0], [5, 2, 0]]


def test_a_failure_ends_the_requests_of_its_step_and_no_others(make: Make) -> None:
    engine, _ = make(tokens=20)
    engine.add(EncodeRequest(id="bad", texts=((13,) * 20, (1,))))
    engine.add(EncodeRequest(id="good", texts=((1,),)))
    got = run(engine)
    assert got["bad"][-1].finish == "error"
    assert "unlucky" in (got["bad"][-1].error or "")
    assert got["good"][-1].finish == "stop"
    engine.add(EncodeRequest(id="bad", texts=((1,),)))  # the id is free again
    assert run(engine)["bad"][-1].finish == "stop"


def test_simulated_failures_fail(make: Make) -> None:
    engine, _ = make(failures=100)
    engine.add(EncodeRequest(id="a", texts=((1,),)))
    assert "--sim-failure" in (run(engine)["a"][0].error or "")


def test_aborted_requests_are_dropped(make: Make) -> None:
    engine, model = make(tokens=5)
    engine.add(EncodeRequest(id="a", texts=((1,) * 5,) * 100))
    engine.step()
    engine.abort(["a", "unknown"])
    assert not engine.busy
    assert engine.step() == []
    assert len(model.steps) == 1


@pytest.mark.parametrize(
    ("texts", "message", "param"),
    [
        (((1,), ()), "input[1]: the text has no tokens", "input[1]"),
        (((1,) * 21,), "input[0]: the text has 21 tokens, and this model takes 20", "input[0]"),
        (((1, 50),), "input[0]: token id 50 is outside the vocabulary of 50 tokens", "input[0]"),
        (((-1,),), "input[0]: token id -1 is outside", "input[0]"),
        ((), "there is no text to encode", "input"),
    ],
)
def test_what_can_never_be_encoded_is_refused(make: Make, texts: Any, message: str, param: str) -> None:
    engine, _ = make()
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        engine.add(EncodeRequest(id="a", texts=texts))
    assert caught.value.param == param
    assert not engine.busy


def test_ids_are_unique_and_texts_are_not_continued(make: Make) -> None:
    engine, _ = make()
    engine.add(EncodeRequest(id="a", texts=((1,),)))
    with pytest.raises(RequestError, match="in use"):
        engine.add(EncodeRequest(id="a", texts=((1,),)))
    with pytest.raises(RequestError, match="encodes texts and generates none"):
        engine.add(Request(id="b", prompt=(1,)))


def test_stats_tell_of_requests_and_tokens(make: Make) -> None:
    engine, _ = make(tokens=4)
    engine.add(EncodeRequest(id="a", texts=((1,) * 4,) * 2))
    engine.add(EncodeRequest(id="b", texts=((1,) * 4,)))
    assert (engine.stats().running, engine.stats().waiting) == (0, 2)
    engine.step()
    assert (engine.stats().running, engine.stats().waiting) == (1, 1)
    run(engine)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.prompt_tokens, stats.steps) == (0, 0, 12, 3)
    assert stats.generated_tokens == 0


def test_numbers_do_not_depend_on_the_batch(make: Make) -> None:
    alone, _ = make()
    alone.add(EncodeRequest(id="a", texts=((7, 11, 3),)))
    together, _ = make()
    together.add(EncodeRequest(id="a", texts=((7, 11, 3),)))
    together.add(EncodeRequest(id="b", texts=((1,), (2, 3, 4), (5,) * 9)))
    assert run(alone)["a"][0].data == run(together)["a"][0].data
