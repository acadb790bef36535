"""Conversations in the caller's own process as prompts, with the images that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.request import Image
from maxserve.plugins.api.common.chat_messages import IMAGE_PART
from maxserve.plugins.api.common.client_text import ClientText, Conversation
from maxserve.plugins.api.common.literal_encoding import PromptEncoder, PromptText
from maxserve.plugins.vision.decoding import decode
from maxserve.plugins.vision.image_prompt import image_prompt
from maxserve.plugins.vision.limits import ImageLimits
from maxserve.plugins.vision.sources import read_source

if TYPE_CHECKING:
    from maxserve.interfaces.images import ReadImage, ReadsImages
    from maxserve.plugins.api.common.chat_renderer import ChatRenderer

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A prompt in tokens, and what it shows."""

    tokens: tuple[int, ...]
    images: tuple[Image, ...] = ()


def render(
    messages: Sequence[Message],
    renderer: ChatRenderer,
    prompts: PromptEncoder,
    reader: ReadsImages | None,
    limits: ImageLimits,
    *,
    client: ClientText | None = None,
) -> Rendered:
    """The prompt of `messages`, whose content may be a list of text and image_url parts, as /v1/chat/completions has.

    The author of the program decides what it reads: images may come from any host, and from any file. RequestError
    for those that cannot be used. With `client`, special tokens that the user or a tool spelled out are text.
    """
    rendered, urls = _with_image_parts(messages)
    if urls and reader is None:
        raise RequestError("the model takes text only, no images")
    image_text = None if reader is None else reader.placeholder

    def written(conversation: Conversation) -> str:
        return renderer.render(conversation.messages, image_text=image_text)

    conversation = Conversation(messages=rendered)
    if client is None:
        prompt = PromptText(written(conversation))
    else:
        prompt = client.render(written, conversation, renderer.template.source(), image_text)
    if reader is None or not urls:
        return Rendered(tokens=tuple(prompts.encode(prompt)))
    read = [_read(reader, url, limits) for url in urls]
    tokens, images = image_prompt(prompt, read, reader.placeholder, prompts.tokenizer, prompts.encode)
    return Rendered(tokens=tuple(tokens), images=images)


def _with_image_parts(messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """The messages as templates take them, and where their images are."""
    urls: list[str] = []

    def part(given: Mapping[str, Any]) -> Mapping[str, Any]:
        if given.get("type") != "image_url":
            return given
        image = given.get("image_url")
        urls.append(str(image.get("url", "")) if isinstance(image, Mapping) else str(image))
        return IMAGE_PART

    rendered = []
    for message in messages:
        content = message.get("content")
        rendered.append({**message, "content": [part(p) for p in content]} if isinstance(content, list) else message)
    return rendered, urls


def _read(reader: ReadsImages, url: str, limits: ImageLimits) -> ReadImage:
    own = replace(limits, hosts=("*", urlsplit(url).netloc.lower()), roots=(Path("/"),), private=True)
    try:
        return reader.read(decode(read_source(url, own), own))
    except (ValueError, ArithmeticError) as error:
        raise RequestError(f"the image {url[:64]} cannot be used: {error}") from error
