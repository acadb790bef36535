"""Files of settings, which are YAML."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from maxserve.core.interfaces.errors import SettingsError


class _Loader(yaml.SafeLoader):
    """YAML in which a key must not come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} comes twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str, flag: str) -> dict[Any, Any]:
    """The keys and values in a file; SettingsError naming the `flag` where it has none."""
    try:
        root = yaml.load(Path(path).expanduser().read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise SettingsError(f"{flag} {path}: there is no such file below {Path.cwd()}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{flag} {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{flag} {path} is not YAML: {_one_line(error)}") from None
    if root is None:
        return {}
    if not isinstance(root, Mapping):
        found = "a list" if isinstance(root, list) else "one plain value"
        raise SettingsError(f"{flag} {path}: expected keys with values, such as max_length: 2048, not {found}")
    return dict(root)


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem or error.context} in line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())
