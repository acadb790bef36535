"""`max quantize`: a plain checkpoint written anew with its weights rounded."""

from __future__ import annotations

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
from maxserve.interfaces.quantization import WritesCheckpoints
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
        "the folder OUT, as `max serve --model IN --quantization-encoding` holds it.",
    )


def encodings(host: Host) -> list[str]:
    """Those that plain weights can be rounded to."""
    return sorted(each for entry in host.quantization_formats for each in entry.component.rounds)


def run(host: Host, source: str, out: Path, encoding: str, *, force: bool) -> str:
    """Writes the model, and says what that came to."""
    rounds = rounding_to(host, encoding)
    if not isinstance(rounds, WritesCheckpoints):
        written = ", ".join(each for each in encodings(host) if isinstance(rounding_to(host, each), WritesCheckpoints))
        raise UsageError(
            f"--encoding {encoding}: the plugin that rounds to it writes no checkpoints; choose from {written}, or "
            f"round while it is loaded: max serve --model {source} --quantization-encoding {encoding}"
        )
    check_out(out, source, force=force)
    settings = CheckpointSettings(model_path=source, quantization_encoding=encoding)
    found = resolve_checkpoint(settings, host, progress=NullProgress())
    if not found.rounding:
        raise ModelError(f"{source} is quantized already; give the checkpoint that it was made of")
    check_read(out, [found.path, *found.weights])
    files = open_weights(host, found.weights, found.config)
    before = sum(tensor.size for file in files for tensor in file.tensors.values())
    with (
        open_files(files) as read,
        replaced(out) as unfinished,
        click.progressbar(length=before, label=f"Rounding to {encoding}", file=sys.stderr) as bar,
    ):
        rounds.write(Checkpoint(found, files, read, bar.update), unfinished)
    return f"{out}: {size_text(size_of(out))} instead of {size_text(before)}"


class Checkpoint:
    """A PlainCheckpoint that counts what is read of it."""

    def __init__(
        self, found: ModelFiles, files: Sequence[WeightFile], read: OpenFiles, advance: Callable[[int], None]
    ) -> None:
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


def check_out(out: Path, source: str, *, force: bool) -> None:
    """UsageError where nothing can be written to `out`, or where something would be lost."""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    if not out.exists() and not out.is_symlink():
        return
    check_read(out, [source])
    if not (out / "config.json").is_file() or out.is_symlink():
        raise UsageError(f"{out} exists and is not the folder of a model; choose another name")
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
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
