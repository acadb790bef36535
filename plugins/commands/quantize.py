"""`max quantize`: a plain checkpoint written anew with its weights rounded."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from maxserve.config import CheckpointSettings
from maxserve.interfaces.errors import ModelError, UsageError
from maxserve.interfaces.quantization import QuantizationContext, WritesCheckpoints, WritesFiles
from maxserve.loading import NullProgress, open_files, open_weights, resolve_checkpoint, rounding_to, size_text
from maxserve.registry import Host

if TYPE_CHECKING:
    import torch

    from maxserve.interfaces.engine import ModelFiles
    from maxserve.interfaces.weight_format import TensorInfo, WeightFile
    from maxserve.loading import OpenFiles
    from maxserve.registry import Invocation


def quantize_command(invocation: Invocation) -> click.Command:
    """The command, with the encodings that weights can be rounded to."""
    host = invocation.host

    def quantize(source: str, out: str, encoding: str, force: bool) -> None:
        click.echo(run(host, source, Path(out), encoding, force=force))

    return click.Command(
        "quantize",
        callback=quantize,
        params=[
            click.Argument(["source"], metavar="IN"),
            click.Argument(["out"], metavar="OUT"),
            click.Option(
                ["--encoding"], type=click.Choice(encodings(host)), required=True, help="What weights are rounded to."
            ),
            click.Option(["--force"], is_flag=True, help="Replace what is at OUT."),
        ],
        help="Round the weights of projections of the checkpoint IN, a folder or a repository, and write the model to "
        "OUT, as `max serve --model IN --quantization-encoding` holds it: a folder or, in encodings of GGUF, where a "
        "table that is the head is rounded, too, a file whose name ends with .gguf.",
    )


def encodings(host: Host) -> list[str]:
    """Those that plain weights can be rounded to, or written in as they are."""
    found = {each for entry in host.quantization_formats for each in (*entry.component.rounds, *entry.component.writes)}
    return sorted(found)


def run(host: Host, source: str, out: Path, encoding: str, *, force: bool) -> str:
    """Writes the model, and says what that came to."""
    format = format_for(host, encoding)
    check_out(out, source, format.suffix if isinstance(format, WritesFiles) else None, encoding, force=force)
    rounds = encoding in roundable(host)
    settings = CheckpointSettings(model_path=source, quantization_encoding=encoding if rounds else None)
    found = resolve_checkpoint(settings, host, progress=NullProgress())
    if found.config.get("quantization_config"):
        raise ModelError(f"{source} is quantized already; give the checkpoint that it was made of")
    check_read(out, [found.path, *found.weights])
    files = open_weights(host, found.weights, found.config)
    before = sum(tensor.size for file in files for tensor in file.tensors.values())
    notes: Sequence[str] = ()
    with (
        open_files(files) as read,
        replaced(out) as unfinished,
        click.progressbar(length=before, label=f"Writing in {encoding}", file=sys.stderr) as bar,
    ):
        checkpoint = Checkpoint(host, found, files, read, bar.update)
        if isinstance(format, WritesFiles):
            notes = format.write_file(checkpoint, unfinished)
        else:
            format.write(checkpoint, unfinished)
    return "\n".join([f"{out}: {size_text(size_of(out))} instead of {size_text(before)}", *notes])


def format_for(host: Host, encoding: str) -> WritesCheckpoints | WritesFiles:
    """What writes models in the encoding; UsageError, with those that are written, where nothing does."""
    found = built_for(host, encoding)
    if isinstance(found, WritesCheckpoints | WritesFiles):
        return found
    written = [each for each in encodings(host) if isinstance(built_for(host, each), WritesCheckpoints | WritesFiles)]
    raise UsageError(
        f"--encoding {encoding}: the plugin that rounds to it writes no checkpoints; choose from {', '.join(written)}, "
        f"or round while it is loaded: max serve --quantization-encoding {encoding}"
    )


def built_for(host: Host, encoding: str) -> object:
    """What a format gives for the encoding, whether it rounds to it or only writes it."""
    if encoding in roundable(host):
        return rounding_to(host, encoding)
    entry = next(entry for entry in host.quantization_formats if encoding in entry.component.writes)
    settings = {"quant_method": entry.name, "encoding": encoding}
    return host.build(entry, QuantizationContext(model_config={"quantization_config": settings}))


def roundable(host: Host) -> frozenset[str]:
    """The encodings that plain weights can be rounded to."""
    return frozenset(each for entry in host.quantization_formats for each in entry.component.rounds)


class Checkpoint:
    """A PlainCheckpoint that counts what is read of it."""

    def __init__(
        self,
        host: Host,
        found: ModelFiles,
        files: Sequence[WeightFile],
        read: OpenFiles,
        advance: Callable[[int], None],
    ) -> None:
        self._host = host
        self.name = name_of(found.ref)
        self.config: Mapping[str, Any] = found.config
        self.folder = Path(found.path)
        self.tensors: Mapping[str, TensorInfo] = {name: info for file in files for name, info in file.tensors.items()}
        self._paths = {name: file.path for file in files for name in file.tensors}
        self._read, self._advance = read, advance
        self._seen: set[str] = set()

    def read(self, name: str) -> torch.Tensor:
        if name not in self._seen:  # a table that is a head, too, is read twice
            self._seen.add(name)
            self._advance(self.tensors[name].size)
        return self._read(self._paths[name], name)

    def differences(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> Sequence[str]:
        models = [self._model(config) for config in (first, second)]
        fields = sorted({*models[0], *models[1]})
        return [
            f"{field} is {models[0].get(field)!r:.120} instead of {models[1].get(field)!r:.120}"
            for field in fields
            if not same(models[0].get(field), models[1].get(field))
        ]

    def _model(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the architecture makes of a config, by field; windows and ropes by layer."""
        entry = self._host.architectures.get(config["architectures"][0])
        spec = self._host.load(entry, entry.component.config)(config)
        fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
        by_layer = {key: getattr(spec, key) for key in ("cache_layers", "layer_ropes") if hasattr(spec, key)}
        return {key: value for key, value in (fields | by_layer).items() if key not in _BY_LAYER}


def name_of(ref: str) -> str:
    """What a model is called: the last part of a repository's name, or of the path of a folder or a file."""
    path = Path(ref).expanduser()
    if path.exists():
        return path.resolve().stem if path.is_file() else path.resolve().name
    return ref.partition(":")[0].rpartition("/")[2]


# Fields that stand in others by layer; and the ends of answers, which are named in several files.
_BY_LAYER = frozenset({"windows", "rope", "ropes", "eos_token_ids"})


def same(first: Any, second: Any) -> bool:
    """Whether two values of a config are equal, numbers as far as 32 bits have them."""
    if dataclasses.is_dataclass(first) and dataclasses.is_dataclass(second):
        return type(first) is type(second) and all(
            same(getattr(first, field.name), getattr(second, field.name)) for field in dataclasses.fields(first)
        )
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-6)
    return bool(first == second)


def check_out(out: Path, source: str, suffix: str | None, encoding: str, *, force: bool) -> None:
    """UsageError where nothing can be written to `out`, or where something would be lost.

    What is written is a file whose name ends with `suffix`, or a folder if that is None.
    """
    if suffix is not None and out.suffix != suffix:
        raise UsageError(f"--encoding {encoding} is written as one file; let OUT, {out}, end with {suffix}")
    if re.fullmatch(r".*-\d{5}-of-\d{5}", out.stem):
        raise UsageError(f"{out} would be taken for a part of several; let OUT not end with numbers of parts")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    if not out.exists() and not out.is_symlink():
        return
    check_read(out, [source])
    is_model = out.is_file() if suffix is not None else (out / "config.json").is_file()
    if not is_model or out.is_symlink():
        what = "the folder" if suffix is None else "the file"
        raise UsageError(f"{out} exists and is not {what} of a model; choose another name")
    if not force:
        raise UsageError(f"{out} exists; replace it with --force, or choose another name")


def check_read(out: Path, paths: Iterable[str]) -> None:
    """UsageError where `out` is, or holds, something that is read, links followed."""
    place = out.resolve()
    if any(place in (read, *read.parents) for read in (Path(path).resolve() for path in paths)):
        raise UsageError(f"{out} is, or holds, the checkpoint that is read; choose another name")


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """Where to write what is put in the place of `out` once it is whole; it is removed after an error."""
    parent = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    new, old = parent / "new", parent / "old"
    try:
        yield new
        if not out.is_dir():  # a file takes the place of a file in one step
            new.replace(out)
            return
        try:
            out.rename(old)
            new.rename(out)
        except BaseException:  # also one who presses Ctrl-C here
            if old.exists() and not out.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def size_of(out: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [out] if out.is_file() else out.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
