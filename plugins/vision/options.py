"""Options of images in requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Where images may be from, and how large they may be."""

    allowed_image_domains: Annotated[
        tuple[str, ...],
        Option(metavar="HOST[:PORT]", server=True),
        Field(
            description="Host from which images may be fetched by http or https; *.example.org means all below it, * "
            "any host. Unset, none are fetched."
        ),
    ] = ()
    allow_private_image_addresses: Annotated[
        bool,
        Option(server=True),
        Field(description="Fetch images also from allowed hosts whose addresses are private or of this machine."),
    ] = False
    allowed_image_roots: Annotated[
        tuple[str, ...],
        Option(metavar="FOLDER", server=True),
        Field(description="Folder from which requests may name images by file: URLs. Unset, no files are read."),
    ] = ()
    max_images: Annotated[int, Option(server=True), Field(description="Most images in one request.", ge=1)] = 16
    max_image_bytes: Annotated[
        int,
        Option(env=("MAX_SERVE_MAX_LOCAL_IMAGE_BYTES",), server=True),
        Field(description="Largest file of an image.", ge=1),
    ] = 20 * 1024 * 1024
    max_image_pixels: Annotated[
        int,
        Option(server=True),
        Field(description="Most pixels of an image, known from its header before it is decoded.", ge=1),
    ] = 32 * 1024 * 1024
    image_timeout: Annotated[
        float, Option(server=True), Field(description="Seconds within which an image must have been fetched.", gt=0)
    ] = 10.0
