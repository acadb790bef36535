"""Vectors from the outputs of an encoder, cut to size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from maxserve.interfaces.engine import VectorInfo
from maxserve.interfaces.errors import EngineError, RequestError
from maxserve.interfaces.request import Encoded

if TYPE_CHECKING:
    import numpy as np  # in functions, as servers of other models import this, too
    from numpy.typing import NDArray

Vector: TypeAlias = "NDArray[np.float32]"  # [size], or [tokens, size] where nothing is pooled


class Collected:
    """The vectors of a request's texts, as they come in."""

    def __init__(self, count: int, info: VectorInfo) -> None:
        self._vectors: list[Vector | None] = [None] * count
        self._info = info

    def add(self, encoded: Encoded) -> None:
        """EngineError when the engine gave up."""
        if encoded.error is not None:
            raise EngineError(encoded.error)
        import numpy as np

        numbers = np.frombuffer(encoded.data, dtype=np.float32).reshape(-1, self._info.size)
        start = 0
        for number, index in enumerate(encoded.indices):
            rows = encoded.rows[number] if encoded.rows else 1
            part = numbers[start : start + rows]
            self._vectors[index] = part if encoded.rows else part[0]
            start += rows

    def vectors(self, size: int | None = None, *, normalized: bool | None = None) -> list[Vector]:
        """All of them in order, cut to `size` numbers if that is given.

        `normalized`: whether they have the length 1, where that is not as in other answers of the model.
        """
        found = [vector for vector in self._vectors if vector is not None]
        if len(found) < len(self._vectors):
            raise EngineError("the engine ended before every text was encoded")
        normal = self._info.normalized if normalized is None else normalized
        if size is None and normal == self._info.normalized:
            return found
        cut = found if size is None else [vector[..., :size] for vector in found]
        return list(map(unit, cut)) if normal else cut


def settle_size(wanted: int | None, info: VectorInfo) -> int | None:
    """The size to cut vectors to, None for their own; RequestError for one that the model was not trained for."""
    if wanted is None or wanted == info.size:
        return None
    if info.sizes is None:
        message = f"dimensions: the model gives vectors of {info.size} numbers and was not trained for others"
        raise RequestError(f"{message}; leave it out", param="dimensions", code="invalid_value")
    if info.sizes and wanted not in info.sizes:
        there = ", ".join(map(str, sorted({*info.sizes, info.size})))
        raise RequestError(f"dimensions: the model was trained for {there}", param="dimensions", code="invalid_value")
    if not 1 <= wanted < info.size:
        message = f"dimensions: 1 to {info.size} is expected, not {wanted}"
        raise RequestError(message, param="dimensions", code="invalid_value")
    return wanted


def unit(vector: Vector) -> Vector:
    """The vector, or each row of several, at length 1; one of length 0 stays."""
    import numpy as np

    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    return (vector / np.where(length == 0, np.float32(1), length)).astype(np.float32)


def cosines(first: Vector, others: Sequence[Vector]) -> list[float]:
    """How alike the directions of vectors are, -1 to 1."""
    one = unit(first)
    return [float(one @ unit(other)) for other in others]
