"""Checks over several settings, which no field alone can make, and of what is not there yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maxserve.core.config.catalog import catalog
from maxserve.core.config.settings import CheckpointSettings, PluginSection, Settings
from maxserve.core.config.values import cpu_ranks, gpu_numbers
from maxserve.core.interfaces.errors import SettingsError, UnsupportedError

log = logging.getLogger("maxserve.settings")


def check(settings: Settings) -> Settings:
    """The settings, adjusted where a value can only mean another; SettingsError when two contradict each other."""
    settings = _model_from_weight_path(settings)
    settings = _adjust_scheduling(settings)
    settings = _adjust_server(settings)
    check_checkpoint(settings.model, "--")
    _check_devices(settings)
    _check_cache(settings)
    _check_speculation(settings)
    return settings


def _replace(settings: Settings, section: str, **changes: Any) -> Settings:
    changed = getattr(settings, section).model_copy(update=changes)
    return settings.model_copy(update={section: changed})


def _model_from_weight_path(settings: Settings) -> Settings:
    """Weights without a model: org/repo/file says which repository they belong to, a file may hold the config, too."""
    model = settings.model
    if not model.weight_path or "model.model_path" in settings.chosen:
        return settings
    for path in model.weight_path:
        if Path(path).expanduser().is_file():
            return _replace(settings, "model", model_path=path)
        parts = path.split("/")
        if len(parts) >= 3 and all(parts[:2]) and not Path(path).expanduser().exists():
            repository = "/".join(parts[:2])
            log.info("--weight-path %s: the model is %s", path, repository)
            return _replace(settings, "model", model_path=repository)
    raise SettingsError(
        f"--weight-path {model.weight_path[0]}: these weights do not say which model they are of; give --model-path"
    )


def _adjust_scheduling(settings: Settings) -> Settings:
    scheduling = settings.scheduling
    if scheduling.max_num_steps == 0:
        raise SettingsError("--max-num-steps: expected at least 1, or -1 for the best value, not 0")
    if scheduling.enable_overlap_scheduler and scheduling.max_num_steps > 1:
        raise SettingsError(
            f"--enable-overlap-scheduler looks at the requests before every step and --max-num-steps "
            f"{scheduling.max_num_steps} only after so many; drop one of them"
        )
    total, length = scheduling.max_batch_total_tokens, settings.model.max_length
    if total is not None and length is not None and total < length:
        raise SettingsError(
            f"--max-batch-total-tokens {total} is less than --max-length {length}, so a request of full length could "
            "never run; raise the one or lower the other"
        )
    if scheduling.max_batch_size is not None and scheduling.max_batch_size > scheduling.max_batch_input_tokens:
        log.info(
            "--max-batch-size %d is more than --max-batch-input-tokens and is lowered to %d",
            scheduling.max_batch_size,
            scheduling.max_batch_input_tokens,
        )
        return _replace(settings, "scheduling", max_batch_size=scheduling.max_batch_input_tokens)
    return settings


def _adjust_server(settings: Settings) -> Settings:
    alone = cpu_ranks(settings.model.devices) <= settings.model.data_parallel_degree
    if "server.step_timeout" in settings.chosen and alone:
        log.warning("--step-timeout means nothing without several --devices: nothing waits for another process")
    if settings.server.sim_failure <= 100:
        return settings
    log.info("--sim-failure %d is more than every step and is lowered to 100", settings.server.sim_failure)
    return _replace(settings, "server", sim_failure=100)


def check_checkpoint(model: CheckpointSettings, prefix: str) -> None:
    """SettingsError where the options of a model, whose flags begin with `prefix`, contradict each other."""
    cast = "allow-safetensors-weights-fp32-bf6-bidirectional-cast"
    if model.allow_safetensors_weights_fp32_bf6_bidirectional_cast and model.quantization_encoding is None:
        raise SettingsError(f"{prefix}{cast}: cast to what? Give {prefix}quantization-encoding float32 or bfloat16")
    if model.cache_quantized and model.quantization_encoding is None:
        raise SettingsError(
            f"{prefix}cache-quantized keeps rounded weights: give {prefix}quantization-encoding, such as q4_k, or "
            "leave it out"
        )


def _check_devices(settings: Settings) -> None:
    model = settings.model
    devices = max(1, len(gpu_numbers(model.devices)), cpu_ranks(model.devices))
    if devices % model.data_parallel_degree:
        raise SettingsError(
            f"--data-parallel-degree {model.data_parallel_degree}: expected 1 or the number of devices, or what "
            f"divides that; it is {devices} (--devices {model.devices})"
        )


def _check_speculation(settings: Settings) -> None:
    name = settings.speculative.speculative_method
    if name is not None and settings.scheduling.max_num_steps > 1:
        raise SettingsError(
            f"--speculative-method {name} goes without --max-num-steps above 1, which plans several steps at once; "
            "leave one of them out"
        )


def _check_cache(settings: Settings) -> None:
    cache = settings.kv_cache
    if cache.enable_kvcache_swapping_to_host and not cache.enable_prefix_caching:
        raise SettingsError(
            "--enable-kvcache-swapping-to-host keeps cached prefixes, and --no-enable-prefix-caching leaves none; drop "
            "one of them"
        )
    if "kv_cache.host_kvcache_swap_space_gb" in settings.chosen and not cache.enable_kvcache_swapping_to_host:
        log.warning(
            "--host-kvcache-swap-space-gb %g means nothing without --enable-kvcache-swapping-to-host",
            cache.host_kvcache_swap_space_gb,
        )


def validate_supported(settings: Settings, sections: Sequence[PluginSection] = ()) -> None:
    """Raises UnsupportedError naming every chosen option whose feature is not there yet.

    A value that is the default asks for nothing, as --no-enable-lora does, and is taken. `sections` are those of
    plugins.
    """
    refused = []
    if len(gpu_numbers(settings.model.devices)) > settings.model.data_parallel_degree:
        instead = "name one, such as gpu:0, or give each a replica (--data-parallel-degree)"
        refused.append(f"--devices with several GPUs that share a model is not supported yet ({instead})")
    for option in catalog(sections):
        value, some = option.value(settings), option.unsupported_values
        if option.unsupported:
            if option.path in settings.chosen and _plain(value) != _plain(option.default):
                refused.append(f"{option.flag} is not supported yet ({option.unsupported})")
        elif some is not None and some.refused(value):
            refused.append(f"{option.flag} {some.what} is not supported yet ({some.instead})")
    if refused:
        raise UnsupportedError("; ".join(refused))


def _plain(value: Any) -> Any:
    """A value as it travels, in types that JSON has."""
    return list(value) if isinstance(value, tuple) else value
