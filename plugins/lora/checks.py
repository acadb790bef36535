"""What is wrong with the options of LoRA adapters, before a model is loaded."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path

from maxserve.config import Settings
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.lora.folders import NAMES, is_name
from maxserve.plugins.lora.options import LoRAOptions

_REPOSITORIES = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.*-]+")  # of one user or organisation
_DEFAULTS = asdict(LoRAOptions())


def check(settings: Settings, options: LoRAOptions) -> None:
    """SettingsError naming the option that is wrong by itself, or beside the others."""
    _check_enabled(options)
    _check_names(options)
    _check_most(options)
    for pattern in options.lora_hub:
        if _REPOSITORIES.fullmatch(pattern) is None:
            raise SettingsError(
                f"--lora-hub {pattern}: give ORG/NAME; * may stand in NAME, and whose repositories are loaded is "
                "said in full"
            )
    if options.lora_dir and not os.path.isdir(os.path.expanduser(options.lora_dir)):
        raise SettingsError(f"--lora-dir: there is no folder {options.lora_dir!r}")


def named(path: str) -> tuple[str, str]:
    """Name and source of NAME=PATH, or of PATH, which is its own name then, as is a folder with = in its path."""
    name, equals, source = path.partition("=")
    if not equals or Path(path).expanduser().is_dir():
        return path, path
    if not name or not source:
        raise SettingsError(f"--lora-paths {path}: a name or a path is missing; give NAME=PATH, or PATH")
    return name, source


def _check_enabled(options: LoRAOptions) -> None:
    """Options are given without --enable-lora, where they change nothing."""
    idle = [] if options.enable_lora else [name for name, value in asdict(options).items() if value != _DEFAULTS[name]]
    if idle:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise SettingsError(f"{flags}: that changes nothing without --enable-lora; give that, too, or leave it out")


def _check_names(options: LoRAOptions) -> None:
    """Two adapters have one name, or one has a name that there cannot be."""
    sources = [named(path) for path in options.lora_paths]
    names = [name for name, _ in sources]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"--lora-paths: two adapters have the name {min(twice)}; give them names, NAME=PATH")
    for name, source in sources:
        if name != source and not is_name(name):
            raise SettingsError(f"--lora-paths: {name!r} is no name for an adapter; names are {NAMES}")


def _check_most(options: LoRAOptions) -> None:
    """--max-cpu-loras is less than what must be in memory at once."""
    most = options.max_cpu_loras
    for option, due in (("--max-num-loras", options.max_num_loras), ("--lora-paths", len(options.lora_paths))):
        if most is not None and most < due:
            what = f"{option} is {due}" if option == "--max-num-loras" else f"{option} has {due}"
            raise SettingsError(
                f"--max-cpu-loras is {most} and {what}, all of which are in memory; raise the one or lower the other"
            )
