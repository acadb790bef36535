"""Settings of plugins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from maxserve.core.interfaces.component import Ref


__all__ = ["ConfigSection", "Option"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSection:
    """A plugin's own settings: a frozen dataclass; `[name]` in the file, `--name.field`, MAX_SERVE_NAME_FIELD.

    With `within`, which names a section of the core such as `scheduling`, they are flat and stand beside that section's
    own: `--field`, MAX_SERVE_FIELD, `field` in the file, in help on the page of that section.
    """

    kind: ClassVar[str] = "config"

    name: str
    schema: Ref
    within: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field's option deviates from the rule, as a marker in its annotation.

    `alias` is a second Python name, `env` further variables besides MAX_SERVE_<NAME>. Where `registry` names one of a
    host, such as "eviction_policies", the value is the name of a component in it, which is checked at start. A `server`
    option makes no sense without HTTP. A `policy` option is up to the scheduler: those act on it that declare it in
    `honours`. A switch that is not `negatable` has no --no-x. The values of `secret` ones are never shown. `hidden`
    fields have no option.
    """

    alias: str = ""
    env: tuple[str, ...] = ()
    metavar: str = ""
    registry: str = ""
    server: bool = False
    policy: bool = False
    negatable: bool = True
    secret: bool = False
    hidden: bool = False
