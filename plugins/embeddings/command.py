"""`max encode`: one text, encoded in this process, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from maxserve.config import HELP_WIDTH, GroupedCommand, engine_options, settle, typed
from maxserve.interfaces.engine import EMBEDDINGS, TEXT
from maxserve.interfaces.errors import UsageError
from maxserve.plugins.commands.generate import PROMPT, local_process, prompt_argument, with_adapter, with_prompt
from maxserve.plugins.commands.report import Measured, encode_report

if TYPE_CHECKING:
    from maxserve.config import Settings
    from maxserve.registry import Host, Invocation


def encode_command(invocation: Invocation) -> click.Command:
    """The command, with the settings that mean something without a server."""
    own = [
        click.Option(["--prompt"], default=PROMPT, show_default=True, help="The text to encode."),
        click.Option(
            ["--num-warmups"], type=click.IntRange(0), default=0, help="Times to encode it first, unseen and uncounted."
        ),
        click.Option(
            ["--lora"],
            metavar="PATH",
            help="Encode with this LoRA adapter: a folder, a name of --lora-paths, or one that a source has.",
        ),
    ]

    @click.pass_context
    def encode(ctx: click.Context, /, **_: Any) -> None:
        given = typed(ctx)
        with_prompt(ctx, given)
        names = {option.name for option in own}
        chosen = {name: value for name, value in given.items() if name not in names}
        settings = settle(invocation, with_adapter(chosen, ctx.params["lora"]))
        with local_process(invocation.host):
            run(settings, invocation.host, ctx.params)

    return GroupedCommand(
        "encode",
        callback=encode,
        params=[prompt_argument(), *engine_options(invocation.host.plugin_sections()), *own],
        context_settings={"obj": invocation.host, "max_content_width": HELP_WIDTH},
        help="Encode one text in this process with an embedding model, without a server, and report how fast it was.",
    )


def run(settings: Settings, host: Host, asked: Mapping[str, Any]) -> None:
    """Loads the model, prints the vector and then the report."""
    start, prompt, lora = time.perf_counter(), asked["prompt"], asked["lora"] or ""

    from maxserve import LLM  # imports torch
    from maxserve.plugins.embeddings.encoder_input import EncoderInputs

    llm = LLM(settings=settings, host=host)
    if llm.info.task != EMBEDDINGS:
        what = "generates text; there is `max generate`" if llm.info.task == TEXT else "scores pairs of texts; serve it"
        raise UsageError(f"{llm.info.name} gives no embeddings, it {what}")
    ready = time.perf_counter()
    for _ in range(asked["num_warmups"]):
        llm.encode(prompt, lora=lora)
    begun = time.perf_counter()
    (vector,) = llm.encode(prompt, lora=lora)
    done = time.perf_counter()
    click.echo(f"Encoding: {prompt}")
    click.echo(f"Embeddings: {vector}")
    click.echo()
    inputs = EncoderInputs(llm.tokenizer, llm.info)
    tokens = inputs.text(prompt, "--prompt", prompt=inputs.prompt(None)).ids
    click.echo(encode_report(Measured(prompt=len(tokens), startup=ready - start, total=done - begun)))
