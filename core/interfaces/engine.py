"""Engines: what serves the models of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component, Context, Ref
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.progress import Progress
from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.adapter import AdapterPool
    from maxserve.core.interfaces.architecture import Architecture, ModelSpec, WeightMap
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.cache import Cache
    from maxserve.core.interfaces.component import Components
    from maxserve.core.interfaces.errors import RequestError
    from maxserve.core.interfaces.model_source import Checkpoint
    from maxserve.core.interfaces.tokenizer import Tokenizer
    from maxserve.core.interfaces.weight_format import WeightFile


__all__ = ["EMBEDDINGS", "Engine", "EngineContext", "EngineOptions", "GenerationContext", "GivesBack", "LoadsModel"]
__all__ += ["LoadsModels", "ModelFiles", "ModelInfo", "SCORING", "ServedEngine", "ServesAdapters", "TEXT"]
__all__ += ["VectorInfo"]


TEXT = "text_generation"
SCORING = "scoring"
EMBEDDINGS = "embeddings_generation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Component):
    """What serves models of some tasks. `build(EngineContext)` gives a ServedEngine; generation is core's own.

    `tags` are tasks by what pages of the hub call them. `files` are patterns of names of files beside config.json that
    it reads. `recognises(folder)`: the task that files in a model's folder speak for, of a model whose class is for
    several; it is called without torch. `adapters`: it serves those that the operator asks for.
    """

    kind: ClassVar[str] = "engine"

    tasks: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    recognises: Ref | None = None
    adapters: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorInfo:
    """What a model that encodes texts says of its vectors; one that scores gives a number for each pair.

    `size` is how many numbers a vector has, `sizes` which lengths it may be cut to: None is no other, empty is any.
    `pooled`: a text has one vector, else each of its tokens has. `prompts` are put before a text, by name.
    """

    size: int = 1
    sizes: tuple[int, ...] | None = None
    pooled: bool = True
    normalized: bool = False
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the API process knows of the served model once it is ready.

    `ref` is what was asked for, a repository or a path. `images`: prompts may have some. `unsupported` says of the
    request fields `priority` and `prompt_logprobs` why this server does not take them, where it does not, and
    `without_prefixes` the option for which it keeps no prefixes of past requests, where it keeps none.
    """

    name: str
    path: str
    architecture: str
    max_length: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str  # in which the weights of projections are held
    device: str
    parameters: int
    max_batch_size: int
    created: int
    ref: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict)  # generation_config.json, by request field
    adapters: tuple[str, ...] = ()  # that requests may name from the start
    adapter_sources: Mapping[str, str] = field(default_factory=dict)  # where each of these was found, by its name
    images: bool = False
    unsupported: Mapping[str, str] = field(default_factory=dict)
    without_prefixes: str = ""
    task: str = "text_generation"
    vectors: VectorInfo | None = None  # of models that encode texts


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What the operator asks of any engine, in the words of the options; None is for the engine to decide.

    `name` is what clients call the model. Weights and whatever else there is may take the share `memory_share` of the
    device's free memory. `failure_percent` of the steps fail on purpose (--sim-failure). `chosen` are the options that
    the operator set, by their Python names.
    """

    name: str
    max_length: int | None = None
    max_batch_size: int | None = None
    max_batch_input_tokens: int = 8192
    memory_share: float = 0.9
    failure_percent: float = 0.0
    chosen: frozenset[str] = frozenset()


class LoadsModel(Protocol):
    """Makes the model of an engine: the module without memory, whose needs can be planned, and then its weights."""

    @property
    def device(self) -> torch.device: ...
    @property
    def compute(self) -> torch.dtype:
        """The type in which the model computes."""
        ...

    @property
    def storage(self) -> torch.dtype:
        """The type in which projections and tables are held."""
        ...

    def weight_bytes(self, module: torch.nn.Module) -> int:
        """What the weights of the module take once they are loaded, as far as it can be told beforehand."""
        ...

    @property
    def architecture(self) -> Architecture: ...
    @property
    def spec(self) -> ModelSpec:
        """What the architecture makes of config.json."""
        ...

    def build(self, protocol: type[Any], methods: str) -> torch.nn.Module:
        """The module, on the meta device; PluginError, naming the `methods`, unless it is of the `protocol`."""
        ...

    def adapters(self, module: torch.nn.Module) -> AdapterPool | None:
        """What an engine that serves adapters serves them with, where the operator wants some; asked before `fill`.

        They have slots, and those of the start are loaded, once the module is filled.
        """
        ...

    def fill(self, module: torch.nn.Module, positions: int | None = None) -> None:
        """Gives the module its weights and its kernels, and lets it prepare what no checkpoint holds.

        `positions` is how many texts have at most; None: as many as the model was made for.
        """


class LoadsModels(LoadsModel, Protocol):
    """A LoadsModel that fills any module from its checkpoint, and knows further checkpoints."""

    @property
    def files(self) -> ModelFiles: ...
    @property
    def checkpoint(self) -> Checkpoint:
        """The options that name it."""
        ...

    def beside(self, model: Checkpoint, *, served: bool = True) -> LoadsModels:
        """The same for another checkpoint, downloaded if need be, with the device and the kernels of this one.

        Where it is not to be `served`, its class need not be known, and has no `architecture` and no `spec`.
        """
        ...

    def weight_files(self) -> Sequence[WeightFile]: ...
    def tokenizer(self, folder: str) -> Tokenizer:
        """The tokenizer in the folder of a model."""
        ...

    def held_bytes(self, module: torch.nn.Module, weights: WeightMap) -> int:
        """As `weight_bytes`, of a module whose parameters are called in the checkpoint as `weights` says."""
        ...

    def fill_module(self, module: torch.nn.Module, weights: WeightMap, positions: int | None = None) -> None:
        """As `fill`, but that the module does not prepare anything."""

    def compile_layers(self, module: torch.nn.Module, attention: Attention) -> None:
        """Replaces layers by their compiled calls where there are some, unless the checkpoint's options forbid it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext(Context):
    """The model's files, what makes the model of them, the operator's options, and who hears how far the start is."""

    options: EngineOptions
    files: ModelFiles
    model: LoadsModel
    progress: Progress


class ServedEngine(Protocol):
    """What a worker runs: takes requests, gives outputs step by step. One thread uses it."""

    info: ModelInfo
    empty_steps: bool  # whether steps are to be made while there is nothing to do

    @property
    def busy(self) -> bool: ...
    @property
    def pause(self) -> float | None:
        """Seconds to wait for messages before the next step; None: until one comes."""
        ...

    def add(self, request: Request | EncodeRequest) -> None:
        """RequestError for what this engine does not do, and for what can never be served."""

    def abort(self, ids: Iterable[str]) -> None: ...
    def serve_grammars(self, wake: Callable[[], None]) -> None:
        """Gets ready for constrained requests, beside the loop. `wake` ends a pause; it is called from any thread."""

    def step(self) -> Sequence[Output | Encoded]: ...
    def stats(self) -> StepStats: ...
    def reset_prefix_cache(self) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationContext(Context):
    """What there is of an engine that generates text, for what stands before it.

    `salt(request)` is what the `cache` finds the prompt under; RequestError for an adapter that is not served.
    `components` are those of all plugins.
    """

    cache: Cache
    salt: Callable[[Request], str]
    files: ModelFiles
    components: Components


@runtime_checkable
class ServesAdapters(Protocol):
    """A ServedEngine whose adapters can be changed while it serves."""

    @property
    def adapters(self) -> Mapping[str, str]:
        """Where each of those that are served now was found, by its name."""
        ...

    def change_adapter(self, change: AdapterChange) -> None:
        """RequestError if the change cannot begin; an Output with its id, from a later step, says that it is made."""

    def rejected_changes(self) -> Sequence[tuple[str, RequestError]]:
        """The ids of those that were begun and cannot be made, and why, since this was last asked for."""
        ...


@runtime_checkable
class GivesBack(Protocol):
    """A ServedEngine that holds memory which it has no use for while nothing runs."""

    def give_back(self) -> None:
        """Gives it back to the system; called a moment after the last step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model found: everything that is needed to build it, as plain values.

    `path` is the folder of config and tokenizer, `weights` are paths of safetensors files. `encoding` is what is to be
    served (see encoding.py), `explicit_encoding` whether the user asked for it. `architecture` is a name in the
    registry, `task` what that is for. `companions` are those of its ModelSource. Plain weights are rounded to the
    encoding `rounding`, if there is one, and what comes out is kept in the folder `rounding_cache`.
    """

    ref: str
    path: str
    config: dict[str, Any]
    generation_config: dict[str, Any]
    weights: tuple[str, ...]
    encoding: str
    explicit_encoding: bool
    architecture: str
    task: str = TEXT
    companions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rounding: str = ""
    rounding_cache: str = ""
