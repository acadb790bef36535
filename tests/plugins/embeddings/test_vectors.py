"""Vectors out of an encoder's answers, and the sizes they may have."""

from __future__ import annotations

import numpy as np
import pytest

from maxserve.core.interfaces.engine import VectorInfo
from maxserve.core.interfaces.errors import EngineError, ModelError, RequestError
from maxserve.core.interfaces.request import Encoded
from maxserve.plugins.embeddings.sentence import Normalize, Recipe
from maxserve.plugins.embeddings.vector_info import sizes, vector_info
from maxserve.plugins.embeddings.vectors import Collected, cosines, settle_size, unit

PLAIN = VectorInfo(size=2)


def bytes_of(*numbers: float) -> bytes:
    return np.array(numbers, dtype=np.float32).tobytes()


def test_parts_come_in_any_order() -> None:
    collected = Collected(3, PLAIN)
    collected.add(Encoded(id="a", indices=(2,), data=bytes_of(5, 6)))
    collected.add(Encoded(id="a", indices=(1, 0), data=bytes_of(3, 4, 1, 2), finish="stop"))
    assert [vector.tolist() for vector in collected.vectors()] == [[1, 2], [3, 4], [5, 6]]


def test_a_text_may_have_many_vectors() -> None:
    collected = Collected(2, PLAIN)
    collected.add(Encoded(id="a", indices=(1, 0), rows=(2, 1), data=bytes_of(1, 2, 3, 4, 5, 6)))
    assert [vector.tolist() for vector in collected.vectors()] == [[[5, 6]], [[1, 2], [3, 4]]]


def test_errors_and_missing_texts_are_told() -> None:
    with pytest.raises(EngineError, match="broke"):
        Collected(1, PLAIN).add(Encoded(id="a", finish="error", error="it broke"))
    with pytest.raises(EngineError, match="before every text"):
        Collected(1, PLAIN).vectors()


def test_cut_vectors_have_length_one_where_the_whole_ones_have() -> None:
    whole = bytes_of(0.6, 0.8)
    for info, expected in ((VectorInfo(size=2, sizes=(), normalized=True), 1.0), (VectorInfo(size=2, sizes=()), 0.6)):
        collected = Collected(1, info)
        collected.add(Encoded(id="a", indices=(0,), data=whole))
        assert collected.vectors(1)[0].tolist() == pytest.approx([expected])


@pytest.mark.parametrize(
    ("info", "wanted", "settled"),
    [
        (VectorInfo(size=8), None, None),
        (VectorInfo(size=8), 8, None),
        (VectorInfo(size=8, sizes=()), 3, 3),
        (VectorInfo(size=8, sizes=(2, 4)), 4, 4),
        (VectorInfo(size=8, sizes=(2, 4)), 8, None),
    ],
)
def test_sizes_that_are_taken(info: VectorInfo, wanted: int | None, settled: int | None) -> None:
    assert settle_size(wanted, info) == settled


@pytest.mark.parametrize(
    ("info", "wanted", "message"),
    [
        (VectorInfo(size=8), 4, "gives vectors of 8 numbers and was not trained for others; leave it out"),
        (VectorInfo(size=8, sizes=()), 9, "1 to 8 is expected, not 9"),
        (VectorInfo(size=8, sizes=(2, 4)), 3, "was trained for 2, 4, 8"),
    ],
)
def test_sizes_that_are_refused(info: VectorInfo, wanted: int, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        settle_size(wanted, info)
    assert caught.value.param == "dimensions"


def test_which_sizes_a_folder_allows() -> None:
    assert sizes({}, False) is None
    assert sizes({}, True) == ()
    assert sizes({"is_matryoshka": True}, False) == ()
    assert sizes({"is_matryoshka": False}, True) is None
    assert sizes({"matryoshka_dimensions": [64, 32]}, False) == (32, 64)
    assert sizes({"matryoshka_dimensions": []}, True) is None
    with pytest.raises(ModelError, match="must be a list of sizes"):
        sizes({"matryoshka_dimensions": "64"}, False)


def test_what_the_api_process_hears() -> None:
    recipe = Recipe(pooling=("cls", "mean"), steps=(Normalize(),), prompts={"q": "Q: "}, default_prompt="q")
    info = vector_info(recipe, {}, task="embeddings_generation", dim=4, pooled=True, matryoshka=False)
    assert info == VectorInfo(size=8, normalized=True, prompts={"q": "Q: "}, default_prompt="q")
    apart = vector_info(recipe, {}, task="embeddings_generation", dim=4, pooled=False, matryoshka=True)
    assert (apart.size, apart.sizes, apart.pooled) == (4, None, False)
    assert vector_info(recipe, {}, task="scoring", dim=4, pooled=True, matryoshka=False) == VectorInfo()


def test_cosines() -> None:
    one = np.array([3.0, 4.0], np.float32)
    others = [one * 2, np.array([-4.0, 3.0], np.float32), -one, np.zeros(2, np.float32)]
    assert cosines(one, others) == pytest.approx([1, 0, -1, 0], abs=1e-6)
    assert unit(np.zeros(2, np.float32)).tolist() == [0, 0]
