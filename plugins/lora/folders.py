"""Folders and names of adapters: which of them may be loaded."""

from __future__ import annotations

import os
import re
from pathlib import Path

from maxserve.interfaces.component import Context
from maxserve.interfaces.errors import ModelError, RequestError
from maxserve.plugins.lora.options import LoRAOptions

_NAME = re.compile(r"(?!.*(\.\.|//))[A-Za-z0-9_][A-Za-z0-9_.:@+/-]{0,199}")
NAMES = "1 to 200 of the ASCII letters and digits and of _ . : @ + / -, beginning with a letter, a digit or _"


def is_name(name: str) -> bool:
    """Whether an adapter may have this name; no part of it can lead out of a folder."""
    return _NAME.fullmatch(name) is not None


def is_short(name: str) -> bool:
    """Whether it is a name, and no longer way to write another one."""
    return is_name(name) and os.path.normpath(name) == name


def real_folder(source: str, within: str = "") -> str:
    """The real path of an adapter's folder, relative to the folder `within` and inside of it, where there is one.

    RequestError: 400 outside of it, whether there is such a folder or not, and 404 where there is none.
    """
    try:
        root = os.path.realpath(os.path.expanduser(within)) if within else ""
        found = os.path.realpath(os.path.join(root, os.path.expanduser(source)))
    except ValueError as error:  # no path of this system
        raise _missing(source) from error
    if root and not is_within(found, root):
        raise RequestError(
            f"the folder {source[:200]!r} lies outside of the folder of --lora-dir, and adapters are loaded from there",
            param="lora_path",
        )
    if not os.path.isdir(found):
        raise _missing(source)
    return found


class LoRADir:
    """A FindsAdapters: the folders in that of --lora-dir."""

    def __init__(self, context: Context) -> None:
        options = context.config(LoRAOptions)
        self._folder = options.lora_dir if options.enable_lora else ""

    def find(self, name: str) -> str | None:
        return folder_named(name, self._folder) if self._folder else None


def folder_named(name: str, within: str) -> str | None:
    """The real path of the folder of that name inside the folder `within`; None where there is none.

    Nor is there one for a longer way to write a path, of which there would be any number to load: the last part of a
    name alone may be a link.
    """
    if not is_short(name):
        return None
    root = os.path.realpath(os.path.expanduser(within))
    found = os.path.realpath(os.path.join(root, name))
    above = os.path.dirname(os.path.join(root, name))
    return found if os.path.realpath(above) == above and is_within(found, root) and os.path.isdir(found) else None


def is_within(path: str, root: str) -> bool:
    """Whether a real path lies below another one."""
    return path != root and os.path.commonpath((path, root)) == root


def real_file(folder: Path, name: str, most: int) -> Path:
    """The real path of a file of a folder; ModelError where it is none, lies elsewhere, or is larger than `most`.

    A folder of the hub's cache has its files as links to `blobs` beside `snapshots`.
    """
    real = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(real, name))
    if not os.path.isfile(path):
        raise ModelError(f"it has no file {name}; adapters are a JSON and a safetensors file")
    homes = {real}
    if os.path.basename(os.path.dirname(real)) == "snapshots":
        homes.add(os.path.join(os.path.dirname(os.path.dirname(real)), "blobs"))
    if os.path.dirname(path) not in homes:
        raise ModelError(f"{name} is a link to a file outside of the adapter's folder; put the file itself there")
    size = os.path.getsize(path)
    if size > most:
        raise ModelError(f"{name} has {size} bytes, and no adapter of this model has more than {most}")
    return Path(path)


def _missing(source: str) -> RequestError:
    return RequestError(f"there is no folder {source[:200]!r} with an adapter", param="lora_path", status=404)
