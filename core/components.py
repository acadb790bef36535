"""What a plugin may declare: frozen, import-light descriptions.

`build` (and every other Ref) is either the thing itself or "module:attribute", imported only when it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

if TYPE_CHECKING:
    from maxserve.core.loading.progress import Progress

Ref: TypeAlias = str | Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something with a name in the registry of its kind. `build(context)` gives the kind's Protocol object."""

    kind: ClassVar[str] = ""

    name: str
    build: Ref
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """How a checkpoint's names become the model's.

    `renames` are (regular expression, replacement) pairs tried in order, each applied to the result of the one
    before; `ignored` are expressions of names to leave unread, `optional` those of names to leave unread where the
    model has no such parameter. Prefixes that checkpoints leave out or add are seen to for all families
    (core/loading/weight_names.py). `fused` says which neighbouring parameters lie one after another, along the output
    axis, in one of ours: {"qkv_proj": ("q_proj", "k_proj", "v_proj")}. `split` says the same of a checkpoint's tensor
    that holds several of ours: {"qkv": ("q_proj", "k_proj", "v_proj")}. `stacked` names lists whose members are entries
    along the first axis of ours: with ("experts",), experts.7.up_proj.weight is entry 7 of experts.up_proj.weight. The
    last three, expressions of our names: `transposed` parameters have their last two axes the other way round in
    checkpoints, unless these are packed; `either_way` ones in some checkpoints, as their shapes tell (equal axes: as
    ours); `exact` ones are float32, whatever the others are.
    """

    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stacked: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    either_way: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(Component):
    """A model family. `name` is the entry of "architectures" in config.json.

    `build(config)` gives a Model; `config(dict)` makes that config from the content of config.json. `cache_strategy` is
    what `--cache-strategy model_default` stands for. `supports_empty_batches`: its forward can be called with a batch
    of no sequences, which `--execute-empty-batches` needs. `packings` are the ways of quantizing that its checkpoints
    may come in: by "quant_method", what makes a Packing of the "quantization_config" of config.json. Such weights are
    unpacked while they are loaded. `required_arguments` are values of options, by Python name, that it insists on
    whatever was chosen: they are put in place with a warning each, unless `--force` is given.

    `weights` is the WeightMap of its checkpoints or, where names depend on sizes, what makes it of the config.

    `load` fills the model, built without memory, with the weights of a checkpoint: it is called as `load_weights` is.
    `fallback(ModelFolder)` makes it one that is asked where no architecture has the name of a model's class: it gives
    the reason why it cannot serve the model, or None; it is called without torch. With `reads_folder`, `config` is
    given a ModelFolder too. `images(ImagesContext)` gives a ReadsImages for models that see; without it, prompts are
    text.

    `task` says what for: text_generation (`build` gives a Model), embeddings_generation (an Encoder), scoring (a
    Scorer: how well two texts go together). Two architectures may have one class name among their aliases if their
    tasks differ. `matryoshka`: the first numbers of a vector make a vector too, unless config.json denies it.
    """

    kind: ClassVar[str] = "architecture"

    aliases: tuple[str, ...] = ()
    config: Ref = "maxserve.layers:from_transformers"
    weights: WeightMap | Ref = field(default_factory=WeightMap)
    packings: Mapping[str, Ref] = field(default_factory=dict)
    encodings: tuple[str, ...] = ("float32", "bfloat16", "float16")
    cache_strategy: str = "paged"
    tensor_parallel: bool = False
    supports_empty_batches: bool = False
    required_arguments: Mapping[str, Any] = field(default_factory=dict)
    load: Ref = "maxserve.core.loading.weights:load_weights"
    fallback: Ref | None = None
    reads_folder: bool = False
    task: str = "text_generation"
    matryoshka: bool = False
    images: Ref | None = None
    example_repos: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStrategy(Component):
    """A keeper of keys and values. `build(CacheContext)` gives a Cache.

    `shares_prefixes`: rows that begin alike share pages; `host_tier`: it keeps copies of them in host memory if asked.
    `windows`: it gives back what the windows of `CacheContext.groups` have passed, and builds a GroupedCache.
    """

    kind: ClassVar[str] = "cache_strategy"

    shares_prefixes: bool = True
    host_tier: bool = False
    windows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler(Component):
    """Who runs next. `build(SchedulerContext)` gives a StepPolicy.

    `honours` names the options up to schedulers (`Option(policy=True)`) that this one acts on, by Python name: the
    others are refused beside it. One that does not `chunks_prompts` runs every prompt whole, whatever is chosen.
    `priorities`: it keeps to the order of `View.waiting`, by priority; else requests that have one are refused.
    """

    kind: ClassVar[str] = "scheduler"

    honours: tuple[str, ...] = ()
    chunks_prompts: bool = True
    priorities: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler(Component):
    """A transform of logits that requests can ask for. `build(SamplerContext)` gives a LogitTransform.

    `params` is a frozen dataclass whose fields become request fields and which validates itself by raising
    ValueError; it may have `check_vocabulary(size)`, which raises ValueError too, and `tokenized(tokenizer)`, which
    gives the same wish without text, before it travels to a worker. A smaller `stage` runs earlier, ties by name.
    `keeps_argmax`: skipped when every row is greedy. `switch` is the "section.field" of a core option that lets
    requests use it: when that is off, those that ask for more than the defaults are refused.
    """

    kind: ClassVar[str] = "sampler"

    params: Ref | None = None
    stage: int = 50
    keeps_argmax: bool = False
    with_speculation: bool = True
    switch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBackend(Component):
    """A way to attend over the cache on some torch device types. `build(AttentionContext)` gives an Attention.

    The one of highest priority that can be built serves: a build may raise Unavailable, and the next one is asked.
    `compiled` ones are left out with `--no-use-subgraphs`.
    """

    kind: ClassVar[str] = "attention_backend"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMethod(Component):
    """A way to keep the weights of projections and to multiply by them. `build(LinearContext)` gives a WeightKeeper.

    Which method serves is decided as for attention back ends.
    """

    kind: ClassVar[str] = "linear_method"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCompiler(Component):
    """A way to make one call of a whole layer. `build(LayerContext)` gives a CompilesLayers.

    Which one serves is decided as for attention back ends; a layer that it cannot compile runs as it was written.
    """

    kind: ClassVar[str] = "layer_compiler"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolParser(Component):
    """A way in which models write tool calls. `build(ToolContext)` gives a ReadsAnswer, a new one for each answer.

    `recognises(template)` tells from the Jinja text of a chat template how surely its model writes so: 0 is no, and
    the highest number serves; it is called without torch. `markers` are texts the reader looks for: where they are
    special tokens of the model, they are kept in the text.
    """

    kind: ClassVar[str] = "tool_parser"

    recognises: Ref | None = None
    markers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningParser(Component):
    """A way in which models set apart what they think. `build(ReasoningContext)` gives a ReadsAnswer for one answer.

    `recognises` and `markers` as for tool parsers. `thoughts(ReasoningContext)` gives the Thoughts that an answer has
    before a text that is held to a grammar, None where it has none; without it no such answer has any.
    """

    kind: ClassVar[str] = "reasoning_parser"

    recognises: Ref | None = None
    markers: tuple[str, ...] = ()
    thoughts: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarBackend(Component):
    """A way to keep texts within a grammar. `build(GrammarContext)` gives a GrammarCompiler.

    `accepts` are the kinds of constraint it takes; where a request names no back end, the one of highest priority that
    can express the constraint serves. `rollback`: its matchers can take tokens back.
    """

    kind: ClassVar[str] = "grammar_backend"

    accepts: frozenset[str] = frozenset()
    rollback: bool = True
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes(Component):
    """HTTP routes. `build(ServerContext)` gives a fastapi.APIRouter, mounted at `prefix`.

    An empty `prefix` stands for /plugins/<plugin name>; "/" is the root. `failures`: what makes the answer of a Failure
    and the request's id, by the path below which it words failures that no route hears of, such as a missing key.
    """

    kind: ClassVar[str] = "routes"

    prefix: str = ""
    failures: Mapping[str, Ref] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer(Component):
    """A sink of statistics in the API process. `build(ObserverContext)` gives a StatsObserver."""

    kind: ClassVar[str] = "observer"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSection:
    """A plugin's own settings: a frozen dataclass; `[name]` in the file, `--name.field`, MAX_SERVE_NAME_FIELD."""

    kind: ClassVar[str] = "config"

    name: str
    schema: Ref


class ModelLocation(Protocol):
    """Somewhere a model's files can be had from. ModelError in one line where they cannot."""

    ref: str

    def folder(self) -> Path:
        """A local folder with config and tokenizer."""
        ...

    def weights(self) -> list[str]:
        """Paths of the weight files."""
        ...

    def pipeline_tag(self) -> str | None:
        """What the page of the model says that it is for, where there is one and it can be asked."""
        ...

    def file(self, name: str) -> str:
        """The path of one weight file; ModelError if there is none of this name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelQuery:
    """What the operator wants of a model, for sources that have several states of it.

    `revision` is of config and tokenizer, `weight_revision` of the weights. `files` are patterns of names that engines
    read beside the usual ones. `trust_remote_code`: Python files of the model are wanted, too.
    """

    progress: Progress
    revision: str = "main"
    weight_revision: str = "main"
    force_download: bool = False
    trust_remote_code: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model reference leads: `path`, a local folder with config.json, weights and tokenizer, or a `location`.

    A location is asked for files when they are needed: config and tokenizer first, weights when these are sound.
    """

    path: str = ""
    location: ModelLocation | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine(Component):
    """What serves models of some tasks. `build(EngineContext)` gives a ServedEngine; generation is core's own.

    `tags` are tasks by what pages of the hub call them. `files` are patterns of names of files beside config.json that
    it reads. `recognises(folder)`: the task that files in a model's folder speak for, of a model whose class is for
    several; it is called without torch.
    """

    kind: ClassVar[str] = "engine"

    tasks: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    recognises: Ref | None = None
