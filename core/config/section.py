"""What every section of the settings is made of, and what a field may say about its option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field's option deviates from the rule, as a marker in its annotation.

    `alias` is a second Python name, `env` further variables besides MAX_SERVE_<NAME>. A `server` option makes no
    sense without HTTP. A `policy` option is up to the scheduler: those act on it that declare it in `honours`. A switch
    that is not `negatable` has no --no-x. The values of `secret` ones are never shown. `hidden` fields have no option.
    """

    alias: str = ""
    env: tuple[str, ...] = ()
    metavar: str = ""
    server: bool = False
    policy: bool = False
    negatable: bool = True
    secret: bool = False
    hidden: bool = False


class Section(BaseModel):
    """Some settings that belong together; frozen, with no names but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: ClassVar[str]
