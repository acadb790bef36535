"""Images of conversations: from a part of a message to what the model takes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import PrivateAttr, ValidationError

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.images import ReadImage, ReadsImages
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.threads import Threads
from maxserve.plugins.vision.fetching import Deadline
from maxserve.plugins.vision.limits import PORTS, ImageLimits
from maxserve.plugins.vision.options import ImageOptions
from maxserve.plugins.vision.sources import read_source, scheme_of

AT_ONCE = 4  # images of one request that are fetched and decoded at the same time
FETCHING = 32  # threads that wait for other hosts
DECODING = 2  # threads that decode: more would only take turns with those that answer


class ImageURL(Body):
    """Where an image is. `_place` is where that is in a body of another dialect."""

    url: str
    detail: str | None = None
    _place: str | None = PrivateAttr(None)

    @classmethod
    def at(cls, place: str, url: str) -> ImageURL:
        """One that another dialect has at `place`."""
        made = cls(url=url)
        made._place = place
        return made

    def place(self, own: str) -> str:
        return self._place or own


Placed = tuple[str, ImageURL]


def placed_image(value: Any, where: str) -> Placed:
    """What a part says of its image, and where; RequestError naming what is wrong with it."""
    if isinstance(value, ImageURL):
        return value.place(where), value
    if value is None:
        raise _refused(where, "needed, as the part is an image")
    try:
        return where, ImageURL(url=value) if isinstance(value, str) else ImageURL.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join((where, *map(str, first["loc"])))
        raise _refused(place, first["msg"]) from error


class RequestImages:
    """Reads the images of requests for the served model."""

    def __init__(self, context: ServerContext) -> None:
        self._reader = context.images
        self._model = context.model.name
        self._limits = ImageLimits.of(context.config(ImageOptions))
        self._fetching = context.owned(Threads(FETCHING, "fetching"))
        self._decoding = context.owned(Threads(DECODING, "images"))

    async def read(self, placed: Sequence[Placed]) -> list[ReadImage]:
        """What the model takes of each, in order; RequestError naming the part that cannot be shown to it."""
        if not placed:
            return []
        if self._reader is None:
            raise _refused(placed[0][0], f"the model {self._model} takes text only, no images", "unsupported_parameter")
        if len(placed) > self._limits.count:
            message = f"{len(placed)} images are more than the {self._limits.count} of one request (--max-images)"
            raise _refused(placed[self._limits.count][0], message)
        gate = asyncio.Semaphore(AT_ONCE)
        return list(await asyncio.gather(*(self._read(gate, self._reader, *each) for each in placed)))

    async def _read(self, gate: asyncio.Semaphore, reader: ReadsImages, place: str, image: ImageURL) -> ReadImage:
        """Fetched and decoded in threads of their own: a slow host holds up no image that is there already."""
        async with gate:
            deadline = Deadline(self._limits.seconds)  # waiting for a thread counts too
            threads = self._fetching if scheme_of(image.url) in PORTS else self._decoding
            try:
                data = await threads.run(lambda: read_source(image.url, self._limits, deadline))
                return await self._decoding.run(lambda: _decoded(reader, data, self._limits))
            except (ValueError, ArithmeticError) as error:  # a reader's processor says so of sizes it cannot take
                raise _refused(place, f"the image cannot be used: {error}") from error


def _decoded(reader: ReadsImages, data: bytes, limits: ImageLimits) -> ReadImage:
    from maxserve.plugins.vision.decoding import decode  # Pillow and numpy, which most servers never need

    return reader.read(decode(data, limits))


def details(placed: Sequence[Placed]) -> Iterator[str]:
    """A warning for each detail that was asked for."""
    for place, image in placed:
        if image.detail not in (None, "auto"):
            yield f"{place}: detail {image.detail}: images are looked at in the one way the model has"


def _refused(place: str, message: str, code: str | None = None) -> RequestError:
    return RequestError(f"{place}: {message}", param=place, code=code)
