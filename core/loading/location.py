"""Where the files of a model lie."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.json_files import read_object
from maxserve.core.loading.weight_files import choose_weights

_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Folder:
    """A model in a local folder."""

    def __init__(self, path: Path, ref: str) -> None:
        self.ref = ref
        self._path = path

    def folder(self) -> Path:
        return self._path

    def weights(self) -> list[str]:
        names = {file.name for file in self._path.iterdir() if file.is_file()}
        chosen = choose_weights(names, lambda index: read_object(self._path / index), self.ref)
        return [str(self._path / name) for name in chosen]

    def pipeline_tag(self) -> str | None:
        return None

    def file(self, name: str) -> str:
        if not (self._path / name).is_file():
            raise ModelError(f"--weight-path {name}: there is no such file, neither here nor in {self._path}")
        return str(self._path / name)


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
