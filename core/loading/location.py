"""Where the files of a model lie."""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError

_FILE_NAME = re.compile(r"((?!\.{1,2}/)[^/\0]{1,200}/)?(?!\.{1,2}$)[^/\0]{1,200}")  # in a folder, perhaps
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Folder:
    """A model in a local folder."""

    def __init__(self, path: Path, ref: str) -> None:
        self.ref = ref
        self._path = path

    def folder(self) -> Path:
        return self._path

    def names(self) -> Collection[str]:
        return {file.name for file in self._path.iterdir() if file.is_file()}

    def fetch(self, names: Sequence[str]) -> list[str]:
        for name in names:
            if not (self._path / name).is_file():
                raise ModelError(f"--weight-path {name}: there is no such file, neither here nor in {self._path}")
        return [str(self._path / name) for name in names]

    def pipeline_tag(self) -> str | None:
        return None


class LoneFile(Folder):
    """A model in weight files, of which one holds config and tokenizer, too; `unpacked` is a folder with these."""

    def __init__(self, path: Path, ref: str, unpacked: Path, files: Sequence[str]) -> None:
        super().__init__(path.parent, ref)
        self._files = {name for name in files if (path.parent / name).is_file()}
        self._unpacked = unpacked

    def folder(self) -> Path:
        return self._unpacked

    def names(self) -> Collection[str]:
        return self._files


def unpacked(contents: Mapping[str, bytes]) -> Path:
    """A folder with files of these contents, by name; one that an earlier start made is used again."""
    strange = next((name for name in contents if not _FILE_NAME.fullmatch(name)), None)
    if strange is not None:
        raise ModelError(f"{strange!r} is no name of a file of a model")
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name} {len(content)} ".encode() + content)
    folder = _writable() / digest.hexdigest()[:32]
    if not folder.is_dir():
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            for name, content in contents.items():
                (unfinished / name).parent.mkdir(exist_ok=True)
                (unfinished / name).write_bytes(content)
            unfinished.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was first
                raise ModelError(f"the files that the weights hold cannot be written to {folder}: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _writable() -> Path:
    """The parent of such folders: below HOME, or a private temporary one where that cannot be written."""
    try:
        parent = Path.home() / ".cache" / "maxserve" / "models"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(parent, os.W_OK):
            return parent
    except (OSError, RuntimeError):  # the latter where no user has that id
        pass
    return _temporary()


@cache
def _temporary() -> Path:
    """A folder of this process alone, gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="maxserve-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def is_repository(ref: str) -> bool:
    """Whether `ref` can be the name of a repository: not a path, at most one slash."""
    return not ref.startswith((".", "/", "~", os.sep)) and _REPOSITORY.fullmatch(ref) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """Where a model's config and tokenizer lie, for architectures that read more than config.json.

    `config` is the content of config.json. Python code that lies there may run only if it is `trusted`
    (`--trust-remote-code`).
    """

    path: str
    config: Mapping[str, Any]
    trusted: bool = False
