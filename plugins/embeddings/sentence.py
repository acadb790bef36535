"""The files that sentence-transformers writes beside a model.

`modules.json` lists what the tokens' vectors pass through: Transformer, Pooling, and then Dense and Normalize in any
number. `sentence_bert_config.json` (or another's name in it) bounds the length, `config_sentence_transformers.json` has
the prompts. See https://sbert.net; the reading here follows its release 5 and 6, which read older folders too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from maxserve.interfaces.engine import EMBEDDINGS
from maxserve.interfaces.errors import ModelError
from maxserve.loading import read_object, read_optional_object, read_value

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
ACTIVATIONS = frozenset({"Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid"})
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_SENTENCE = "sentence_embedding"
_ENDLESS = 1 << 24  # transformers writes 1e30 where a tokenizer knows no length


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A projection of pooled vectors; `weights` is its safetensors file, `activation` a class of torch.nn."""

    weights: str
    inputs: int
    outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class Normalize:
    """Divides by the length."""


Step: TypeAlias = Dense | Normalize


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What becomes of the vectors of a text's tokens, and what is put before the text.

    Several `pooling` kinds are put side by side. `include_prompt`: the tokens of a prompt are pooled too. `max_length`
    counts all tokens of a text, special ones included; None: the model's positions bound it.
    """

    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    steps: tuple[Step, ...] = ()
    max_length: int | None = None
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def normalized(self) -> bool:
        """Whether vectors have the length 1."""
        return bool(self.steps) and isinstance(self.steps[-1], Normalize)

    def dimension(self, dim: int) -> int:
        """Numbers of a vector, where a token's has `dim`."""
        outputs = [step.outputs for step in self.steps if isinstance(step, Dense)]
        return outputs[-1] if outputs else len(self.pooling) * dim


def task_of_folder(folder: Path) -> str | None:
    """Embeddings, where sentence-transformers' files say how vectors are made."""
    return EMBEDDINGS if is_sentence_model(folder) else None


def is_sentence_model(folder: Path) -> bool:
    """Whether sentence-transformers says in this folder how its tokens' vectors are pooled."""
    if (folder / "1_Pooling" / "config.json").is_file():
        return True
    return any(_kind(module) == "Pooling" for module in _modules(folder))


def read_recipe(folder: Path, *, causal: bool) -> Recipe:
    """The recipe in `folder`; ModelError naming a module that is not known.

    Where the folder has none, a model whose tokens see all others is pooled by the mean, as sentence-transformers does;
    in a `causal` one only the last token has seen the whole text: it is taken, and its vector normalised.
    """
    limit = _max_length(folder)
    settings = read_optional_object(folder / "config_sentence_transformers.json")
    prompts, default = _prompts(settings, folder)
    modules = _modules(folder)
    bert = _transformer_settings(folder)
    common: dict[str, Any] = {
        "max_length": limit,
        "lower": bool(bert.get("do_lower_case", False)),
        "prompts": prompts,
        "default_prompt": default,
    }
    if not modules:
        pooling = folder / "1_Pooling" / "config.json"
        if pooling.is_file():
            return Recipe(**_pooling(read_object(pooling), folder), **common)
        return Recipe(pooling=("lasttoken",), steps=(Normalize(),), **common) if causal else Recipe(**common)
    return Recipe(**_of_modules(modules, folder), **common)


def _modules(folder: Path) -> list[Mapping[str, Any]]:
    file = folder / "modules.json"
    if not file.is_file():
        return []
    found = read_value(file)
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise ModelError(f"{file}: a list of modules is expected; fetch the model again")
    return found


def _kind(module: Mapping[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _of_modules(modules: list[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    first, *rest = modules
    if _kind(first) != "Transformer" or not rest or _kind(rest[0]) != "Pooling":
        kinds = ", ".join(map(_kind, modules))
        raise ModelError(f"{folder}: modules.json has {kinds}; what can be served begins with Transformer, Pooling")
    steps = tuple(_step(module, folder) for module in rest[1:])
    return {**_pooling(read_object(folder / str(rest[0].get("path", "")) / "config.json"), folder), "steps": steps}


def _step(module: Mapping[str, Any], folder: Path) -> Step:
    kind, path = _kind(module), folder / str(module.get("path", ""))
    if kind == "Normalize":
        _insist_on_sentences(read_optional_object(path / "config.json"), path)
        return Normalize()
    if kind == "Dense":
        return _dense(read_object(path / "config.json"), path)
    raise ModelError(
        f"{folder}: modules.json has the module {kind!r} after the pooling; known there are Dense and Normalize"
    )


def _dense(config: Mapping[str, Any], path: Path) -> Dense:
    _insist_on_sentences(config, path)
    module, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if not module.startswith("torch.nn") or activation not in ACTIVATIONS:
        raise ModelError(
            f"{path}: activation_function {activation!r} is not known; known: {', '.join(sorted(ACTIVATIONS))}"
        )
    if config.get("use_residual"):
        raise ModelError(f"{path}: a Dense module with use_residual is not supported yet")
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"{path} has no model.safetensors; pickle files are not read, convert the module's weights")
    return Dense(
        weights=str(weights),
        inputs=int(config["in_features"]),
        outputs=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=activation,
    )


def _insist_on_sentences(config: Mapping[str, Any], path: Path) -> None:
    """Modules may also work on the vectors of tokens, before they are pooled."""
    names = {config.get("module_input_name") or _SENTENCE}
    names.add(config.get("module_output_name") or _SENTENCE)
    if names != {_SENTENCE}:
        raise ModelError(f"{path}: a module that works on {', '.join(sorted(names))} is not supported, only sentences")


def _pooling(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    found = config.get("pooling_mode")
    if found is None:
        modes = [mode for key, mode in _LEGACY.items() if config.get(key)] or ["mean"]
    else:
        modes = [found] if isinstance(found, str) else list(found)
    for mode in modes:
        if mode not in POOLINGS:
            raise ModelError(f"{folder}: pooling mode {mode!r} is not known; known: {', '.join(POOLINGS)}")
    return {"pooling": tuple(modes), "include_prompt": bool(config.get("include_prompt", True))}


def _prompts(settings: Mapping[str, Any], folder: Path) -> tuple[dict[str, str], str | None]:
    prompts = {str(name): str(text) for name, text in (settings.get("prompts") or {}).items() if text is not None}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelError(
            f"{folder}: config_sentence_transformers.json has the default_prompt_name {default!r}, but its prompts are "
            f"{', '.join(prompts) or 'none'}"
        )
    return prompts, default


def _transformer_settings(folder: Path) -> Mapping[str, Any]:
    files = sorted(folder.glob("sentence_*_config.json"))
    return read_object(files[0]) if files else {}


def _max_length(folder: Path) -> int | None:
    limits = (
        _transformer_settings(folder).get("max_seq_length"),
        read_optional_object(folder / "tokenizer_config.json").get("model_max_length"),
    )
    for limit in limits:
        if isinstance(limit, int | float) and 0 < limit < _ENDLESS:
            return int(limit)
    return None
