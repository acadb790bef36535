"""How vectors are written in an answer: as numbers, in base64, or as bytes of a chosen type and byte order."""

from __future__ import annotations

import base64
import sys
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from pydantic import Field

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.embeddings.vectors import Vector

EmbedDtype = Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"]
Endianness = Literal["native", "big", "little"]
IN_JSON = ("float", "base64")


class FormatFields(Body):
    """In which form an answer has its vectors."""

    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = Field(
        None,
        description="numbers; base64 of their bytes; or the bytes alone, with or without a `metadata` header",
    )
    embed_dtype: EmbedDtype | None = Field(None, description="the type of the numbers, in all forms but float")
    endianness: Endianness | None = Field(None, description="the order of their bytes; default little")

    @property
    def format(self) -> VectorFormat:
        """The form that is asked for; RequestError when fields of it do not go together."""
        kind = self.encoding_format or "float"
        for name, value, neutral in (
            ("embed_dtype", self.embed_dtype, "float32"),
            ("endianness", self.endianness, "native"),
        ):
            if kind == "float" and value not in (None, neutral):
                message = f"{name} is for the encoding_format base64, bytes and bytes_only; numbers are decimal"
                raise RequestError(message, param=name, code="invalid_value")
        return VectorFormat(kind, self.embed_dtype or "float32", self.endianness or "little")


class VectorFormat(msgspec.Struct, frozen=True):
    """Writes vectors."""

    kind: Literal["float", "base64", "bytes", "bytes_only"]
    dtype: EmbedDtype = "float32"
    endianness: Endianness = "little"

    @property
    def in_json(self) -> bool:
        return self.kind in IN_JSON

    def value(self, vector: Vector) -> Any:
        """The vector in JSON; where a text has several, one entry for each in base64."""
        if self.kind == "float":
            return vector.tolist()
        if vector.ndim > 1:
            return [self.value(row) for row in vector]
        return base64.b64encode(self.encoded(vector)).decode("ascii")

    def encoded(self, vector: Vector) -> bytes:
        """The numbers in their type and byte order, rows one after another."""
        from maxserve.plugins.api.openai.vector_casts import CASTS  # numpy, which other models' servers do without

        numbers = CASTS[self.dtype](vector)
        order = sys.byteorder if self.endianness == "native" else self.endianness
        return bytes(numbers.astype(numbers.dtype.newbyteorder(">" if order == "big" else "<")).tobytes())

    def body(self, vectors: Sequence[Vector]) -> tuple[bytes, list[dict[str, Any]]]:
        """The bytes of all vectors, and where each of them is."""
        parts = [self.encoded(vector) for vector in vectors]
        items, start = [], 0
        for index, (vector, part) in enumerate(zip(vectors, parts, strict=True)):
            end = start + len(part)
            item = {"index": index, "embed_dtype": self.dtype, "endianness": self.endianness}
            items.append({**item, "start": start, "end": end, "shape": list(vector.shape)})
            start = end
        return b"".join(parts), items
