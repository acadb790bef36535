"""`max plugins new`: a folder to begin a plugin with, which can be installed, and whose tests pass as they come."""

from __future__ import annotations

import keyword
import re
import sys
from importlib import util
from pathlib import Path
from typing import Any

import click

from maxserve.interfaces.errors import UsageError

TEMPLATES = Path(__file__).parent / "new"  # one folder per kind; files end in .txt, {{words}} are filled in
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*")
COMMON = "any"  # the folder of what every kind has, where its own does not say otherwise
KINDS = {  # what it is, and how it is used
    "adapter": ("Adapters", "`max serve --{{distribution}}.scales a=0.5` has an adapter `a` for requests to name."),
    "adapter-source": (
        "An adapter source",
        "`max serve --enable-lora --{{distribution}}.folders sql=FOLDER` loads `sql` when a request names it.",
    ),
    "architecture": ("An architecture", "`max serve --model FOLDER` finds it by the class in config.json."),
    "attention-backend": ("An attention back end", "`max serve --attention-backend {{distribution}}` runs it."),
    "balancer": ("A balancer", "`max serve --data-parallel-degree 2 --balancer {{distribution}}` runs it."),
    "cache-format": ("A cache format", "`max serve --kv-cache-format {{distribution}}` stores keys and values so."),
    "cache-strategy": ("A cache strategy", "`max serve --cache-strategy {{distribution}}` runs it."),
    "chat-template": ("A chat template", "It writes the prompts of models whose folder has its file."),
    "command": ("A command", "`max {{distribution}}` runs it."),
    "engine": ("An engine", "`max serve --model FOLDER` runs it for models of its task."),
    "eviction-policy": ("An eviction policy", "`max serve --paged.eviction {{distribution}}` runs it."),
    "executor": ("An executor", "`max serve --executor {{distribution}}` runs it."),
    "grammar-backend": ("A grammar back end", "`max serve --structured-output-backend {{distribution}}` runs it."),
    "http-server": ("An HTTP server", "`max serve --http-server {{distribution}}` runs it."),
    "layer-compiler": ("A layer compiler", "`max serve --layer-compiler {{distribution}}` runs it."),
    "linear-method": ("A linear method", "`max serve --linear-method {{distribution}}` runs it."),
    "middleware": ("Middleware", "Every request passes it."),
    "model-runner": ("A model runner", "`max serve --model-runner {{distribution}}` runs it."),
    "model-source": ("A model source", "`max serve --model {{distribution}}:NAME` asks it."),
    "observer": ("An observer", "Every server tells it what happens."),
    "quantization-format": ("A quantization format", "Checkpoints whose quant_method it is are read by it."),
    "reasoning-parser": ("A reasoning parser", "`max serve --reasoning-parser {{package}}` runs it."),
    "routes": ("HTTP routes", "`max serve --enable-routes {{package}}` mounts them at /plugins/{{package}}."),
    "sampler": ("A sampler", 'Requests may carry `"{{package}}": 0.5`.'),
    "scheduler": ("A scheduler", "`max serve --scheduler {{distribution}}` runs it."),
    "speculator": ("A speculative method", "`max serve --speculative-method {{distribution}}` runs it."),
    "tokenizer": ("A tokenizer", "It serves models whose folder has its file."),
    "transport": (
        "A transport",
        "`max serve --transfers.transport {{distribution}} --pipeline-role decode_only` runs it.",
    ),
    "weight-format": ("A weight format", "Models whose files are in it are served."),
    "tool-parser": ("A tool parser", "`max serve --tool-parser {{package}}` runs it."),
}
NO_COMPONENTS = ("chat-template", "command", "model-source", "tokenizer")  # which `max list` does not show


class Kinds(click.Choice[str]):
    """A kind of plugin, by its name with - or _ in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(str(value).replace("_", "-"), param, ctx)


def new_command() -> click.Command:
    """The command."""

    def new(kind: str, name: str, into: str) -> None:
        folder = write(kind, name, Path(into))
        click.echo(_next_steps(kind, folder))

    return click.Command(
        "new",
        callback=new,
        params=[
            click.Argument(["kind"], type=Kinds(list(KINDS), case_sensitive=False)),
            click.Argument(["name"]),
            click.Option(
                ["--into"], type=click.Path(file_okay=False), default=".", help="Folder to write it into.  [default: .]"
            ),
        ],
        help="Write a folder NAME to begin a plugin with: a package that can be installed, and its tests. For an "
        "architecture, NAME may be that of the model class in config.json, such as AcmeForCausalLM.",
    )


def write(kind: str, name: str, into: Path) -> Path:
    """Writes the folder and returns it; UsageError for a name that cannot be one, and where something is already."""
    words = filling(kind, name)
    folder = into / words["package"]
    if folder.exists():
        raise UsageError(
            f"{folder} exists already and is left alone; choose another name, or another folder with --into"
        )
    for template in (TEMPLATES / COMMON, TEMPLATES / kind.replace("-", "_")):
        for source in sorted(path for path in template.rglob("*.txt") if path.is_file()):
            target = folder / fill(str(source.relative_to(template)).removesuffix(".txt"), words)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(fill(source.read_text(encoding="utf-8"), words), encoding="utf-8")
    return folder


def filling(kind: str, name: str) -> dict[str, str]:
    """What stands for the words of a template."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"a plugin cannot be called {name!r}: a name begins with a letter and has only letters, digits, and single "
            "- or _ between them"
        )
    stem = name.removesuffix("ForCausalLM") if kind == "architecture" else name
    package = _snake(stem or name)
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or util.find_spec(package) is not None:
        raise UsageError(
            f"a plugin cannot be called {name!r}: its package would be {package}, and Python has a module of that name"
        )
    camel = "".join(part[:1].upper() + part[1:] for part in re.split("[_-]", stem or name))
    words = {
        "package": package,
        "distribution": package.replace("_", "-"),
        "class": camel,
        "architecture": f"{camel}ForCausalLM",
        "variable": package.upper(),
        "what": KINDS[kind][0],
        "shown": shown(kind),
    }
    return words | {"use": fill(KINDS[kind][1], words)}


def shown(kind: str) -> str:
    """The command that shows a plugin of the kind."""
    if kind in NO_COMPONENTS:
        return "max plugins"
    plural = kind if kind.endswith("s") else f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"
    return f"max list {plural}"


def fill(text: str, words: dict[str, str]) -> str:
    """The text with every {{word}} replaced."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: words[found[1]], text)


def _snake(name: str) -> str:
    """The name as modules are called: AcmeTwo and acme-two become acme_two."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()


def _next_steps(kind: str, folder: Path) -> str:
    files = sum(path.is_file() for path in folder.rglob("*"))
    steps = (
        (f"pip install --no-build-isolation -e {folder}", "as a plugin, for every start of max"),
        (f"pytest {folder}", "the checks of maxserve, which pass before the first change"),
        (shown(kind), "shows it, and where it is"),
    )
    width = max(len(command) for command, _ in steps)
    lines = [f"  {command:<{width}}  # {why}" for command, why in steps]
    return "\n".join(
        [f"wrote {files} files into {folder}; next:", *lines, f"{folder / 'README.md'} says what to change."]
    )
