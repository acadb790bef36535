"""All settings as one frozen value, section by section."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from maxserve.core.config.engine import (
    KVCacheSettings,
    LoRASettings,
    ProfilingSettings,
    SamplingSettings,
    SchedulingSettings,
    SpeculativeSettings,
)
from maxserve.core.config.model import CheckpointSettings, DraftModelSettings, ModelSettings
from maxserve.core.config.section import Section
from maxserve.core.config.serving import FilesSettings, PluginsSettings, ServerSettings
from maxserve.core.interfaces.errors import SettingsError

__all__ = [
    "SECTIONS",
    "CheckpointSettings",
    "DraftModelSettings",
    "FilesSettings",
    "KVCacheSettings",
    "LoRASettings",
    "ModelSettings",
    "Origin",
    "PluginSection",
    "PluginsSettings",
    "ProfilingSettings",
    "SamplingSettings",
    "SchedulingSettings",
    "Section",
    "ServerSettings",
    "Settings",
    "SpeculativeSettings",
]

Origin: TypeAlias = Literal["command line", "file", "environment"]


class Settings(BaseModel):
    """Everything that was chosen for one server; `Settings()` holds the defaults.

    `origins` says of each "section.field" that was chosen where it came from; plugins' fields count as
    "<section name>.<field>".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelSettings = ModelSettings()
    draft_model: DraftModelSettings = DraftModelSettings()
    kv_cache: KVCacheSettings = KVCacheSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    sampling: SamplingSettings = SamplingSettings()
    lora: LoRASettings = LoRASettings()
    speculative: SpeculativeSettings = SpeculativeSettings()
    profiling: ProfilingSettings = ProfilingSettings()
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
    "draft_model": DraftModelSettings,
    "kv_cache": KVCacheSettings,
    "scheduling": SchedulingSettings,
    "sampling": SamplingSettings,
    "lora": LoRASettings,
    "speculative": SpeculativeSettings,
    "profiling": ProfilingSettings,
    "server": ServerSettings,
    "plugins": PluginsSettings,
    "files": FilesSettings,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSection:
    """A plugin's own settings: `schema` is a frozen dataclass, `plugin` who declared it.

    Those `within` a section of the core are flat options that are shown with its own.
    """

    name: str
    schema: type[Any]
    plugin: str = ""
    within: str = ""

    def load(self, values: Mapping[str, Any]) -> Any:
        """An instance of the schema; fields that `values` lacks have their defaults."""
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(self.schema)})
        if unknown:
            raise SettingsError(f"--{self.name} (plugin {self.plugin!r}): there is no setting {', '.join(unknown)}")
        try:
            return self.validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (self.name, *first["loc"][:1])))
            cause = first["msg"].removeprefix("Value error, ")
            raise SettingsError(f"--{where} (plugin {self.plugin!r}): {cause}") from None

    def validate(self, values: Mapping[str, Any]) -> Any:
        """An instance of the schema; pydantic's ValidationError for values that it refuses."""
        return TypeAdapter(self.schema).validate_python(dict(values))
