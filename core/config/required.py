"""Option values that an architecture insists on, declared beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from maxserve.core.config.catalog import OptionSpec, catalog, near
from maxserve.core.config.checks import check, validate_supported
from maxserve.core.config.limits import expectation
from maxserve.core.config.options import value_text
from maxserve.core.config.sections import SECTIONS, Settings
from maxserve.core.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.core.interfaces.architecture import Architecture

log = logging.getLogger("maxserve.settings")

_SECTIONS = ("model", "kv_cache", "scheduling", "sampling")
# They say which model it is and how it is stored: they have done their work once its architecture is known.
_TOO_EARLY = frozenset(
    {
        "model_path",
        "served_model_name",
        "weight_path",
        "quantization_encoding",
        "allow_safetensors_weights_fp32_bf6_bidirectional_cast",
        "huggingface_model_revision",
        "huggingface_weight_revision",
        "trust_remote_code",
        "force_download",
        "task",
        "use_legacy_module",
        "defer_resolve",
        "force",
    }
)


def check_required(arguments: Mapping[str, Any]) -> None:
    """SettingsError for a name that is no option of a model's engine, and for a value that the option cannot have."""
    options = _options()
    for name, value in arguments.items():
        if name not in options:
            raise SettingsError(f"there is no option {name!r} that an architecture may set{near(name, options)}")
        _read(options[name], value)


def with_required(settings: Settings, architecture: Architecture, *, tell: bool = True) -> Settings:
    """The settings with what the architecture insists on, a warning for each change; as they are with `--force`."""
    if settings.model.force:
        return settings
    changed = settings
    for name, value in architecture.required_arguments.items():
        option = _options()[name]
        section = getattr(changed, option.section)
        before, wanted = getattr(section, option.key), _read(option, value)
        if before == wanted:
            continue
        if tell:
            overruled = f"{_typed(option, before)} is overruled (--force keeps it)"
            log.warning("architecture %r insists on %s; %s", architecture.name, _typed(option, wanted), overruled)
        changed = changed.model_copy(update={option.section: section.model_copy(update={option.key: wanted})})
    if changed is settings:
        return settings
    changed = check(changed)
    validate_supported(changed)
    return changed


def _options() -> dict[str, OptionSpec]:
    return {o.name: o for o in catalog() if o.section in _SECTIONS and o.name not in _TOO_EARLY}


def _read(option: OptionSpec, value: Any) -> Any:
    """The value as the option's section has it."""
    try:
        read = None if value is None and option.default is None else option.shape.read(value)
        return getattr(SECTIONS[option.section].model_validate({option.key: read}), option.key)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{option.name}: expected {expectation(option, first)}, not {value!r}") from None
    except ValueError as error:
        raise SettingsError(f"{option.name}: {error}") from None


def _typed(option: OptionSpec, value: Any) -> str:
    """The option as it would be typed."""
    if isinstance(value, bool):
        return option.flag if value else option.off_flag
    return f"no {option.flag}" if value is None else f"{option.flag} {value_text(value)}"
