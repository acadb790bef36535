"""All settings as one frozen value, section by section."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from maxserve.core.config.engine import (
    KVCacheSettings,
    SamplingSettings,
    SchedulingSettings,
)
from maxserve.core.config.model import CheckpointSettings, ModelSettings
from maxserve.core.config.section import Section
from maxserve.core.config.serving import FilesSettings, PluginsSettings, ServerSettings
from maxserve.core.interfaces.errors import SettingsError

__all__ = [
    "SECTIONS",
    "CheckpointSettings",
    "FilesSettings",
    "KVCacheSettings",
    "ModelSettings",
    "Origin",
    "PluginSection",
    "PluginsSettings",
    "SamplingSettings",
    "SchedulingSettings",
    "Section",
    "ServerSettings",
    "Settings",
]

Origin: TypeAlias = Literal["command line", "file", "environment"]


class Settings(BaseModel):
    """Everything that was chosen for one server; `Settings()` holds the defaults.

    `origins` says of each "section.field" that was chosen where it came from; plugins' fields count as
    "<section name>.<field>".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSettings = ModelSettings()
    kv_cache: KVCacheSettings = KVCacheSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    sampling: SamplingSettings = SamplingSettings()
    server: ServerSettings = ServerSettings()
    plugins: PluginsSettings = PluginsSettings()
    files: FilesSettings = FilesSettings()
    origins: dict[str, Origin] = {}

    @property
    def chosen(self) -> frozenset[str]:
        """Each "section.field" that the command line, a file or the environment set."""
        return frozenset(self.origins)


SECTIONS: Mapping[str, type[Section]] = {
    "model": ModelSettings,
    "kv_cache": KVCacheSettings,
    "scheduling": SchedulingSettings,
    "sampling": SamplingSettings,
    "server": ServerSettings,
    "plugins": PluginsSettings,
    "files": FilesSettings,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSection:
    """A plugin's own settings, as `ConfigSection` describes them, with what its references stand for.

    `plugin` is who declared it.
    """

    name: str
    schema: type[Any]
    plugin: str = ""
    within: str = ""
    title: str = ""
    prefix: str = ""
    check: Callable[[Settings, Any], None] | None = None
    unsupported: str = ""

    def load(self, values: Mapping[str, Any]) -> Any:
        """An instance of the schema; fields that `values` lacks have their defaults."""
        unknown = sorted(set(values) - set(self._names()))
        if unknown:
            raise SettingsError(f"--{self.name} (plugin {self.plugin!r}): there is no setting {', '.join(unknown)}")
        try:
            return self.validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (self.name, *first["loc"][:1])))
            cause = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"--{where} (plugin {self.plugin!r}): {cause}") from None

    def _names(self) -> Iterable[str]:
        """The fields of the schema."""
        if dataclasses.is_dataclass(self.schema):
            return (field.name for field in dataclasses.fields(self.schema))
        names: Iterable[str] = self.schema.model_fields
        return names

    def validate(self, values: Mapping[str, Any]) -> Any:
        """An instance of the schema; pydantic's ValidationError for values that it refuses."""
        return TypeAdapter(self.schema).validate_python(dict(values))
