"""Settings of plugins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from maxserve.core.interfaces.component import Ref


__all__ = ["ConfigSection", "Option", "UnsupportedValues", "UsedBy"]

UsedBy: TypeAlias = Literal["", "scheduler", "speculator", "generation", "embeddings", "adapters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSection:
    """A plugin's own settings: a frozen dataclass; `[name]` in the file, `--name.field`, MAX_SERVE_NAME_FIELD.

    With `within` they are flat: `--field`, MAX_SERVE_FIELD, `field` in the file. It names the section of the core whose
    page of help they are on, such as `scheduling`; where it is the `name` itself, the page is their own and `title` its
    heading. With a `prefix` such as `draft_`, flat options are called `--draft-field`, and `field` below `[name]`.
    `check` is given all settings and an object of the schema, and raises SettingsError where they contradict each
    other. Of a feature that is not there yet, `unsupported` says why: its options are listed, and refused when chosen.
    """

    kind: ClassVar[str] = "config"

    name: str
    schema: Ref
    within: str = ""
    title: str = ""
    prefix: str = ""
    check: Ref | None = None
    unsupported: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedValues:
    """Values of an option that are refused until their feature is there, as a marker in its field's annotation.

    `refused` picks them, `what` names them as in "with several GPUs", `instead` says what is there.
    """

    refused: Callable[[Any], bool]
    what: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field's option deviates from the rule, as a marker in its annotation.

    `alias` is a second Python name, `env` further variables besides MAX_SERVE_<NAME>. Where `registry` names one of a
    host, such as "eviction_policies", the value is the name of a component in it, or one of `no_names`; that is checked
    at start unless `checked` is off, because who reads it says more. A `server` option makes no sense without HTTP.
    `used_by` names what alone acts on it: "scheduler" a scheduler that declares it in `honours`, "speculator" a
    speculative method that does, "generation" an engine that generates text, "adapters" one that serves adapters,
    "embeddings" one that gives vectors; the last two are refused beside a model of another task. An `early` one has
    done its work once the model is known, so that no architecture can insist on a value. A switch that is not
    `negatable` has no --no-x. The values of `secret` ones are never shown, and no worker gets them. `hidden` fields
    have no option. `common` ones are on the first page of help.
    """

    alias: str = ""
    env: tuple[str, ...] = ()
    metavar: str = ""
    registry: str = ""
    no_names: tuple[str, ...] = ()
    checked: bool = True
    server: bool = False
    used_by: UsedBy = ""
    early: bool = False
    common: bool = False
    negatable: bool = True
    secret: bool = False
    hidden: bool = False
