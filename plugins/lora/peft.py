"""Adapters as PEFT saves them: a folder with adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from maxserve.interfaces.errors import ModelError, RequestError
from maxserve.loading import is_repository, read_object
from maxserve.plugins.lora.folders import real_file, real_folder
from maxserve.plugins.lora.patterns import Matcher

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MOST_CONFIG = 1 << 20  # bytes
MOST_WEIGHTS = 1 << 36
LONGEST_NAME = 512
LARGEST_RANK, LARGEST_SCALE = 1 << 20, 1e9
PREFIX = "base_model.model."
_TENSOR = re.compile(
    r"^(?P<module>.+)\.lora_(?:(?P<side>[AB])(?:\.default)?\.weight|embedding_(?P<of>[AB])(?:\.default)?)$"
)
_STACKED = re.compile(r"^(?P<module>(?:.+\.)?experts)(?P<inner>(?:\.base_layer)*)\.lora_[AB](?:\.default)?\.weight$")
_WEIGHTS_OF_EXPERTS = ("gate_up_proj", "down_proj")
_PARAMETERS = (
    "gate_up_proj",
    "gate_up_proj_bias",
    "down_proj",
    "down_proj_bias",
)  # in the order of transformers' modules
_TABLE = re.compile(r"^(?P<module>.+)\.base_layer\.weight$")

# What changes more than products of low rank can, or makes other numbers of them: the key, and what it stands for.
_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA, which scales the columns of the adapted weight",
    "lora_bias": "biases of the adapter's own",
    "modules_to_save": "whole modules in place of the base model's",
    "trainable_token_indices": "rows of the embedding in place of the base model's",
    "layer_replication": "layers that are repeated",
    "use_qalora": "QALoRA, which pools inputs",
    "use_bdlora": "block-diagonal factors",
    "arrow_config": "a router among adapters",
    "alora_invocation_tokens": "an adapter that begins at certain tokens of the prompt",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
}
_INITS = ("true", "false", "gaussian", "eva", "orthogonal", "lora_ga", "none")


class Factors(msgspec.Struct, frozen=True):
    """The change of one module's weight: up [outputs, rank] · down [rank, inputs], in float32, the scale in `up`.

    `embedding`: they were saved as those of a table of tokens, which are the inputs. With several `experts` each has
    factors of its own: up [experts, outputs, rank], down [experts, rank, inputs].
    """

    down: Tensor
    up: Tensor
    embedding: bool = False

    @property
    def experts(self) -> int:
        """0 for a module with one weight."""
        return len(self.down) if self.down.dim() == 3 else 0

    @property
    def rank(self) -> int:
        return self.down.shape[-2]

    @property
    def shape(self) -> tuple[int, int]:
        """That of the weight, or of each expert's."""
        return self.up.shape[-2], self.down.shape[-1]

    def of_expert(self, index: int) -> Factors:
        return Factors(self.down[index], self.up[index])

    def swapped(self) -> Factors:
        """Those of the weight with its two axes swapped."""
        return Factors(self.up.transpose(-1, -2), self.down.transpose(-1, -2))


class PeftFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder holds: factors by the name of the module in the base model, and that model's name.

    `tables` are the shapes of the base model's own embeddings and heads, which PEFT writes beside their factors and
    does not read again. `tied`: a head that shares the table of an embedding shares its factors, too.
    """

    base: str
    factors: Mapping[str, Factors]
    tables: Mapping[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    tied: bool = False


class Scales(msgspec.Struct, frozen=True, kw_only=True):
    """The scale of each module: alpha / rank, or alpha / √rank."""

    rank: int
    alpha: float
    root: bool
    ranks: Mapping[str, int] = msgspec.field(default_factory=dict)
    alphas: Mapping[str, float] = msgspec.field(default_factory=dict)
    matcher: Matcher = msgspec.field(default_factory=Matcher)

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale of a module."""
        rank = int(self._by_pattern(self.ranks, module, self.rank))
        alpha = float(self._by_pattern(self.alphas, module, self.alpha))
        return rank, alpha / (math.sqrt(rank) if self.root else rank)

    def _by_pattern(self, patterns: Mapping[str, Any], module: str, default: Any) -> Any:
        """The value of the first key that is the module's name, the end of it, or an expression of these."""
        return next((value for key, value in patterns.items() if self.matcher.matches(key, module)), default)


def read_adapter(source: str, most: int = MOST_WEIGHTS) -> PeftFile:
    """The adapter in a folder, of at most so many bytes; RequestError naming what is wrong with it."""
    folder = Path(real_folder(source))
    try:
        config = read_object(real_file(folder, CONFIG, MOST_CONFIG))
        weights = real_file(folder, WEIGHTS, most)
        scales, tensors = read_scales(config), _tensors(weights)
        tables = _tables(tensors)
        return PeftFile(
            base=str(config.get("base_model_name_or_path") or ""),
            factors=_factors(tensors, scales, stacked_names(tensors, config)),
            tables=tables,
            tied=bool(config.get("ensure_weight_tying")),
        )
    except (ModelError, OSError) as error:  # what may not be read, too
        raise refused(source, str(error)) from error


def refused(source: str, reason: str, base: str = "") -> RequestError:
    """The error of an adapter that cannot be served; `base` is the model that it was trained for, where that is known.

    Only names are told to clients: a path is one of the machine that it was trained on.
    """
    of_base = f" (of {base[:100]})" if is_repository(base) else ""
    return RequestError(f"the adapter {source[:200]!r}{of_base} cannot be served: {reason[:600]}", param="lora_path")


def read_scales(config: Mapping[str, Any]) -> Scales:
    """The scales of a config; ModelError for what is no plain LoRA."""
    kind = str(config.get("peft_type"))
    if kind.upper() != "LORA":
        raise ModelError(f"{CONFIG}: its peft_type is {kind}, and only LORA is served")
    for key, what in _REFUSED.items():
        if config.get(key):
            raise ModelError(f"{CONFIG}: it has {key} ({what}), which is not served; merge it into the base model")
    if str(config.get("bias", "none")) != "none":
        raise ModelError(
            f"{CONFIG}: bias is {config['bias']!r}, and biases of the base model stay as they are; use 'none'"
        )
    init = config.get("init_lora_weights", True)
    if str(init).lower() not in _INITS:
        raise ModelError(
            f"{CONFIG}: init_lora_weights is {init!r}, which changed the base model's weights; convert the adapter "
            "with path_initial_model_for_weight_conversion of PEFT's save_pretrained"
        )
    return Scales(
        rank=_whole("r", config.get("r", 8)),
        alpha=_number("lora_alpha", config.get("lora_alpha", 8)),
        root=bool(config.get("use_rslora")),
        ranks={key: _whole("rank_pattern", value) for key, value in _pattern(config, "rank_pattern").items()},
        alphas={key: _number("alpha_pattern", value) for key, value in _pattern(config, "alpha_pattern").items()},
    )


def _pattern(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, Mapping):
        raise ModelError(f"{CONFIG}: {key} is {_short(found)}; an object of modules is due")
    return found


def _short(value: Any) -> str:
    return repr(value)[:80]


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST_RANK:
        raise ModelError(f"{CONFIG}: {key} is {_short(value)}; a whole number from 1 to {LARGEST_RANK} is due")
    return value


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_SCALE:
        raise ModelError(f"{CONFIG}: {key} is {_short(value)}; a number of at most {LARGEST_SCALE:.0e} is due")
    return float(value)


def _tables(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Takes out the weights of modules with factors, by module their shapes."""
    modules = {found["module"] for name in tensors if (found := _TENSOR.match(name))}
    tables = {name: found["module"] for name in tensors if (found := _TABLE.match(name)) and found["module"] in modules}
    return {module.removeprefix(PREFIX): tuple(tensors.pop(name).shape) for name, module in tables.items()}


def stacked_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """What modules of factors stand for where they are parameters that have the weights of all experts.

    PEFT wraps a module once for each of its parameters that it adapts, in their order: what it saves has the name of
    the module, with as many "base_layer" behind as there are wrappers around.
    """
    depths: dict[str, set[int]] = {}
    for name in names:
        found = _STACKED.match(name.removeprefix(PREFIX)) if len(name) <= LONGEST_NAME else None
        if found is not None:
            depths.setdefault(found["module"], set()).add(found["inner"].count(".base_layer"))
    return {
        module + ".base_layer" * depth: f"{module}.{parameter}"
        for module, own in depths.items()
        for depth, parameter in enumerate(reversed(_adapted_parameters(module, own, config)))
    }


def _adapted_parameters(module: str, depths: set[int], config: Mapping[str, Any]) -> list[str]:
    targets = config.get("target_parameters") or []
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ModelError(f"{CONFIG}: target_parameters is {targets!r:.80}; a list of names is expected")
    named = {name for name in _PARAMETERS if any(f".{module}.{name}".endswith(f".{target}") for target in targets)}
    if not targets and depths == {0, 1}:  # all that a gated expert has
        named = set(_WEIGHTS_OF_EXPERTS)
    if biases := named.difference(_WEIGHTS_OF_EXPERTS):
        raise ModelError(f"{CONFIG}: it adapts {min(biases)} of {module}, and biases of experts stay as they are")
    if depths != set(range(len(named))):
        raise ModelError(
            f"{WEIGHTS}: it has factors for {len(depths)} parameters of {module}, and target_parameters of {CONFIG} "
            f"names {', '.join(sorted(named)) or 'none'} of them"
        )
    return [name for name in _PARAMETERS if name in named]


def _factors(tensors: Mapping[str, Tensor], scales: Scales, stacked: Mapping[str, str]) -> dict[str, Factors]:
    sides: dict[tuple[str, bool], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.match(name.removeprefix(PREFIX)) if len(name) <= LONGEST_NAME else None
        if found is None:
            raise ModelError(
                f"{WEIGHTS}: what {name[:LONGEST_NAME]} changes is not known; only lora_A and lora_B of modules are"
            )
        module = stacked.get(found["module"], found["module"])
        both = sides.setdefault((module, found["side"] is None), {})
        both[found["side"] or found["of"]] = _checked(name, tensor)
    if not sides:
        raise ModelError(f"{WEIGHTS}: it has no tensors")
    if twice := {module for module, embedding in sides if embedding and (module, False) in sides}:
        raise ModelError(f"{WEIGHTS}: {min(twice)} has factors both of a projection and of an embedding")
    return {
        module: _scaled(module, both, scales, embedding, stacked=module in stacked.values())
        for (module, embedding), both in sides.items()
    }


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{WEIGHTS} is damaged: {error}") from error


def _checked(name: str, tensor: Tensor) -> Tensor:
    """In float32; ModelError for what is no matrix of finite numbers."""
    if tensor.dim() != 2 or not tensor.is_floating_point():
        raise ModelError(f"{WEIGHTS}: {name} is {tensor.dtype} {list(tensor.shape)}; a matrix of numbers is due")
    found = tensor.float()
    if not found.numel() or not found.isfinite().all():
        raise ModelError(f"{WEIGHTS}: {name} has numbers that are not finite, or none")
    return found


def _scaled(module: str, sides: Mapping[str, Tensor], scales: Scales, embedding: bool, *, stacked: bool) -> Factors:
    if len(sides) < 2:
        side = f"embedding_{next(iter(sides))}" if embedding else f"{next(iter(sides))}.weight"
        raise ModelError(f"{WEIGHTS}: of {module} there is only lora_{side}")
    down, up = sides["A"], sides["B"]
    rank, scale = scales.of(module)
    experts = max(1, down.shape[0] // rank) if stacked else 1
    if down.shape[0] != experts * rank or up.shape[1] != experts * rank:
        raise ModelError(
            f"{WEIGHTS}: {module} has the factors {list(down.shape)} and {list(up.shape)}, which are not of the rank "
            f"{rank} that {CONFIG} says"
        )
    up = up * scale
    if not up.isfinite().all():
        raise ModelError(f"{WEIGHTS}: {module} has numbers that are not finite with its scale {scale:.3g}")
    if stacked:
        return Factors(down.view(experts, rank, -1), up.view(-1, rank, experts).permute(2, 0, 1))
    return Factors(down, up, embedding)
