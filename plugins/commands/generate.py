"""`max generate`: one prompt, answered in this process, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from maxserve.config import HELP_WIDTH, GroupedCommand, engine_options, settle, typed
from maxserve.interfaces.engine import TEXT
from maxserve.interfaces.errors import UnsupportedError, UsageError
from maxserve.plugins.commands.report import Measured, report
from maxserve.registry import ProcessInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from maxserve import LLM
    from maxserve.config import Settings
    from maxserve.plugins.api.common.rendering import Rendered
    from maxserve.registry import Host, Invocation

PROMPT = "I believe the meaning of life is"
MAX_NEW_TOKENS = 100
WORDS = "positional_prompt"

# How an option is typed, and the request field that a sampler must declare for it to mean something.
SAMPLER_OPTIONS: tuple[tuple[str, str, type], ...] = (
    ("--top-k", "top_k", int),
    ("--top-p", "top_p", float),
    ("--min-p", "min_p", float),
    ("--temperature", "temperature", float),
    ("--frequency-penalty", "frequency_penalty", float),
    ("--presence-penalty", "presence_penalty", float),
    ("--repetition-penalty", "repetition_penalty", float),
    ("--min-new-tokens", "min_tokens", int),
)


def generate_command(invocation: Invocation) -> click.Command:
    """The command, with the settings that mean something without a server and options for the one request."""
    own = own_options()

    @click.pass_context
    def generate(ctx: click.Context, /, **_: Any) -> None:
        given = typed(ctx)
        with_prompt(ctx, given)
        asked = {option.name: ctx.params[option.name] for option in own if option.name}
        validate_known_fields(invocation.host, asked)
        chosen = {name: value for name, value in given.items() if name not in asked}
        settings = settle(invocation, with_adapter(chosen, asked["lora"]))
        with local_process(invocation.host):
            run(settings, invocation.host, asked)

    return GroupedCommand(
        "generate",
        callback=generate,
        params=[prompt_argument(), *engine_options(invocation.host.plugin_sections()), *own],
        context_settings={"obj": invocation.host, "max_content_width": HELP_WIDTH},
        help="Continue one prompt in this process, without a server, and report how fast it was.",
    )


def prompt_argument() -> click.Argument:
    return click.Argument([WORDS], metavar="[PROMPT]", required=False)


def with_adapter(given: dict[str, Any], lora: str | None) -> dict[str, Any]:
    """The settings with the adapter of a folder, unless `lora` is the name of one that --lora-paths has."""
    paths = tuple(given.get("lora_paths") or ())
    if lora is None or lora in {path.partition("=")[0] for path in paths}:
        return given
    return {**given, "enable_lora": True, "lora_paths": (*paths, lora)}


def with_prompt(ctx: click.Context, given: dict[str, Any]) -> None:
    """Takes a prompt that stands without --prompt for it; shows the one that stands in where there is neither."""
    words = given.pop(WORDS, None)
    if words is not None and "prompt" in given:
        raise UsageError("a prompt and --prompt are given; leave out one of them")
    if words is not None:
        ctx.params["prompt"] = words
    elif "prompt" not in given:
        click.echo(f"Prompt: {ctx.params['prompt']}", err=True)


def own_options() -> list[click.Option]:
    """What can be asked of the one request; unset means what the model's generation_config says."""
    return [
        click.Option(["--prompt"], default=PROMPT, show_default=True, help="What the user says."),
        click.Option(
            ["image_url", "--image_url"],
            multiple=True,
            metavar="URL",
            help="Image before the prompt, by an http:, https:, file: or data: URL. Repeatable.",
        ),
        click.Option(
            ["--num-warmups"], type=click.IntRange(0), default=0, help="Tokens to generate first, unseen and uncounted."
        ),
        click.Option(
            ["--max-new-tokens"],
            type=click.IntRange(0),
            default=0,
            help=f"Tokens to generate at most; 0 means {MAX_NEW_TOKENS}.",
        ),
        *(
            click.Option([field, flag], type=kind, help=f"The request field {field}.")
            for flag, field, kind in SAMPLER_OPTIONS
        ),
        click.Option(["--stop"], multiple=True, help="Text that ends the answer and is left out of it. Repeatable."),
        click.Option(
            ["--stop-token-ids"], callback=_token_ids, help="Tokens that end the answer, with commas between."
        ),
        click.Option(["--ignore-eos"], is_flag=True, help="Go on after the model's own end."),
        click.Option(["--detokenize/--no-detokenize"], default=True, help="Print text, or token ids."),
        click.Option(
            ["--lora"],
            metavar="PATH",
            help="Answer with this LoRA adapter: a folder, a name of --lora-paths, or one that a source has.",
        ),
        click.Option(["--seed"], type=int, help="Seed of the draw; equal seeds give equal texts."),
    ]


def _token_ids(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between, not {text!r}", ctx, param) from None


def validate_known_fields(host: Host, asked: Mapping[str, Any]) -> None:
    """Raises UnsupportedError for what was asked and is not supported."""
    fields = host.request_fields()
    for flag, field, _ in SAMPLER_OPTIONS:
        if asked[field] is not None and field not in fields:
            raise UnsupportedError(f"{flag} is not supported yet: no sampler declares the request field {field!r}")


@contextmanager
def local_process(host: Host) -> Iterator[None]:
    """What plugins want done when a process starts and ends, around an engine in this one."""
    process = ProcessInfo(kind="local")
    try:
        host.process_start(process)
        yield
    finally:
        process.exit()


def run(settings: Settings, host: Host, asked: Mapping[str, Any]) -> None:
    """Loads the model, prints the answer as it comes, and then the report."""
    start = time.perf_counter()

    from maxserve import LLM  # imports torch

    llm = LLM(settings=settings, host=host)
    ready = time.perf_counter()
    if llm.info.task != TEXT:
        raise UsageError(
            f"{llm.info.name} encodes texts and generates none; for embedding models there is `max encode`"
        )
    lora = asked["lora"] or ""
    prompt = user_prompt(llm, asked["prompt"], asked["image_url"])
    if asked["num_warmups"]:
        warm_up(llm, prompt, asked["num_warmups"], lora)
    measured = answer(llm, prompt, asked)
    measured.startup = ready - start
    click.echo()
    click.echo(report(measured))


def user_prompt(llm: LLM, text: str, images: Sequence[str]) -> Rendered:
    """Images and text as the one message of a user, in the words of the model's template; a model without one, which is
    for no chats, continues the text."""
    if llm.template is None and not images:
        from maxserve.plugins.api.common.rendering import Rendered

        click.echo("The model has no chat template: it continues the prompt as it is.", err=True)
        return Rendered(tokens=tuple(llm.tokenizer.encode(text, add_special_tokens=True)))
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    content = [*shown, {"type": "text", "text": text}] if shown else text
    return llm.render([{"role": "user", "content": content}])


def warm_up(llm: LLM, prompt: Rendered, tokens: int, lora: str = "") -> None:
    """Runs the prompt once for `tokens` tokens and shows nothing of it."""
    for _ in llm.stream(prompt=prompt, params=llm.params(max_tokens=tokens), lora=lora):
        pass


def answer(llm: LLM, prompt: Rendered, asked: Mapping[str, Any]) -> Measured:
    """Prints the answer delta by delta and says what was measured."""
    params = llm.params(
        max_tokens=asked["max_new_tokens"] or MAX_NEW_TOKENS,
        stop_token_ids=asked["stop_token_ids"],
        ignore_eos=asked["ignore_eos"],
        seed=asked["seed"],
        **{field: asked[field] for _, field, _ in SAMPLER_OPTIONS if asked[field] is not None},
    )
    measured = Measured(prompt=len(prompt.tokens))
    start = time.perf_counter()
    for delta in llm.stream(prompt=prompt, params=params, stop=asked["stop"], lora=asked["lora"] or ""):
        measured.step(len(delta.tokens), time.perf_counter() - start)
        shown = delta.text if asked["detokenize"] else "".join(f"{token} " for token in delta.tokens)
        click.echo(shown, nl=False)
    measured.total = time.perf_counter() - start
    return measured
