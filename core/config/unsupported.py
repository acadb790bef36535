"""Options without a feature behind them yet; later work empties these two tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maxserve.core.config.catalog import catalog
from maxserve.core.config.enums import gpu_numbers
from maxserve.core.config.sections import Settings
from maxserve.core.interfaces.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Unsupported:
    """An option that is refused whatever its value; `path` is "section.field"."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnsupportedValue:
    """Values of an option that are refused; `what` names them, `instead` says what is there."""

    path: str
    refused: Callable[[Settings], bool]
    what: str
    instead: str


_DRAFT = "there are no draft models; leave it out"
_LORA = "there are no adapters; serve a merged model"
_SPECULATION = "nothing speculates; leave it out"
_KERNELS = "torch chooses the kernels; leave it out"

UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported("model.use_experimental_kernels", _KERNELS),
    Unsupported("model.use_vendor_blas", _KERNELS),
    Unsupported("draft_model.model_path", _DRAFT),
    Unsupported("draft_model.served_model_name", _DRAFT),
    Unsupported("draft_model.weight_path", _DRAFT),
    Unsupported("draft_model.quantization_encoding", _DRAFT),
    Unsupported("draft_model.allow_safetensors_weights_fp32_bf6_bidirectional_cast", _DRAFT),
    Unsupported("draft_model.huggingface_model_revision", _DRAFT),
    Unsupported("draft_model.huggingface_weight_revision", _DRAFT),
    Unsupported("draft_model.trust_remote_code", _DRAFT),
    Unsupported("draft_model.force_download", _DRAFT),
    Unsupported("draft_model.rope_type", _DRAFT),
    Unsupported("draft_model.use_subgraphs", _DRAFT),
    Unsupported("draft_model.vision_config_overrides", _DRAFT),
    Unsupported("draft_model.data_parallel_degree", _DRAFT),
    Unsupported("draft_model.devices", _DRAFT),
    Unsupported("files.draft_config_file", _DRAFT),
    Unsupported("files.draft_section_name", _DRAFT),
    Unsupported("scheduling.device_graph_capture", "steps are not recorded; leave it out"),
    Unsupported("lora.enable_lora", _LORA),
    Unsupported("lora.lora_paths", _LORA),
    Unsupported("lora.max_lora_rank", _LORA),
    Unsupported("lora.max_num_loras", _LORA),
    Unsupported("speculative.speculative_method", _SPECULATION),
    Unsupported("speculative.num_speculative_tokens", _SPECULATION),
    Unsupported("profiling.gpu_profiling", "nothing is marked for profilers; leave it out"),
    Unsupported("server.headless", "there is one role, with HTTP; leave it out"),
    Unsupported("server.profile_serve", "requests cannot ask for profiles; leave it out"),
)

UNSUPPORTED_PATHS = frozenset(each.path for each in UNSUPPORTED)

_PLAIN = ("float32", "bfloat16")

UNSUPPORTED_VALUES: tuple[UnsupportedValue, ...] = (
    UnsupportedValue(
        "model.quantization_encoding",
        lambda s: s.model.quantization_encoding not in (None, *_PLAIN),
        "with a quantized encoding",
        "use float32 or bfloat16",
    ),
    UnsupportedValue(
        "model.task",
        lambda s: s.model.task in ("audio_generation", "speech_token_generation"),
        "with a task of audio or speech",
        "use text_generation, embeddings_generation or scoring",
    ),
    UnsupportedValue(
        "model.devices", lambda s: len(gpu_numbers(s.model.devices)) > 1, "with several GPUs", "name one, such as gpu:0"
    ),
    UnsupportedValue(
        "model.data_parallel_degree", lambda s: s.model.data_parallel_degree != 1, "with several replicas", "use 1"
    ),
    UnsupportedValue("scheduling.ep_size", lambda s: s.scheduling.ep_size != 1, "with spread experts", "use 1"),
    UnsupportedValue(
        "scheduling.pipeline_role",
        lambda s: s.scheduling.pipeline_role != "prefill_and_decode",
        "with a role of its own",
        "use PrefillAndDecode",
    ),
)


def validate_supported(settings: Settings) -> None:
    """Raises UnsupportedError naming every chosen option whose feature is not there yet.

    A value that is the default asks for nothing, as --no-enable-lora does, and is taken.
    """
    options = catalog().by_path()
    flags = {path: option.flag for path, option in options.items()}
    refused = [
        f"{flags[each.path]} is not supported yet ({each.reason})"
        for each in UNSUPPORTED
        if each.path in settings.chosen and _value(settings, each.path) != options[each.path].default
    ]
    refused += [
        f"{flags[each.path]} {each.what} is not supported yet ({each.instead})"
        for each in UNSUPPORTED_VALUES
        if each.refused(settings)
    ]
    if refused:
        raise UnsupportedError("; ".join(refused))


def _value(settings: Settings, path: str) -> object:
    section, _, key = path.partition(".")
    return getattr(getattr(settings, section), key)
