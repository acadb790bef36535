"""Embeddings and scores: the engine of models that encode texts, its routes and its command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.engine import EMBEDDINGS, SCORING, Engine

if TYPE_CHECKING:
    import click

    from maxserve.registry import Invocation

SENTENCE_FILES = (
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "*/config.json",
    "*_Dense/model.safetensors",
)


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    yield ConfigSection(
        name="embeddings", schema="maxserve.plugins.embeddings.options:EmbeddingsOptions", within="model"
    )


@hookimpl
def maxserve_engines() -> Iterable[Engine]:
    yield Engine(
        name="embeddings",
        build="maxserve.plugins.embeddings.assemble:build",
        tasks=(EMBEDDINGS, SCORING),
        tags={"feature-extraction": EMBEDDINGS, "sentence-similarity": EMBEDDINGS},
        files=SENTENCE_FILES,
        adapters=True,
        recognises="maxserve.plugins.embeddings.sentence:task_of_folder",
        summary="Vectors of texts, and scores of pairs of texts.",
    )


@hookimpl
def maxserve_commands(cli: click.Group, invocation: Invocation) -> None:
    from maxserve.interfaces.commands import LazyCommand  # click, which workers do without

    def encode() -> click.Command:
        from maxserve.plugins.embeddings.command import encode_command

        return encode_command(invocation)

    summary = "Encode one text with an embedding model, without a server."
    cli.add_command(LazyCommand("encode", encode, summary=summary, strict=True))
