"""All settings as one frozen value, section by section."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from maxserve.core.config.values import (
    CacheFormat,
    CacheStrategyName,
    DeviceList,
    Encoding,
    RopeType,
    SpeculativeMethod,
    Task,
)
from maxserve.core.interfaces.config import Option, UnsupportedValues
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.grammar import GrammarChoice


class Section(BaseModel):
    """Some settings that belong together; frozen, with no names but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: ClassVar[str]


DEMO = "maxserve/demo"


class CheckpointSettings(Section):
    """What is true of any checkpoint, of the target's as of a draft's."""

    model_path: Annotated[
        str,
        Option(early=True),
        Field(description="Hugging Face repository, or local folder with config.json and weights."),
    ] = ""
    served_model_name: Annotated[
        str | None,
        Option(early=True, server=True),
        Field(description="Name by which clients ask for the model; unset, it is the model path."),
    ] = None
    weight_path: Annotated[
        tuple[str, ...],
        Option(early=True, metavar="PATH"),
        Field(
            description="Weight file to read instead of those found beside the config: a local file, a file of the "
            "repository, or org/repo/file of another one."
        ),
    ] = ()
    quantization_encoding: Annotated[
        Encoding | None,
        Option(early=True),
        Field(
            description="How the weights are stored; unset, it is found out. Of several GGUF files it chooses one. "
            "Plain weights of projections are rounded to q4_0, q4_1, q4_k, q5_0, q5_1, q6_k, q8_0 or float8_e4m3fn "
            "while they are loaded. A CPU sums up in float32 whatever the weights are stored in."
        ),
    ] = None
    cache_quantized: Annotated[
        str,
        Option(early=True, metavar="FOLDER"),
        Field(
            description="Folder that keeps what plain weights are rounded to, so that a later start need not round "
            "them again. Needs --quantization-encoding."
        ),
    ] = ""
    allow_safetensors_weights_fp32_bf6_bidirectional_cast: Annotated[
        bool,
        Option(early=True),
        Field(
            description="Cast weights between float32 and bfloat16 when the checkpoint has only the other one. Needs "
            "--quantization-encoding."
        ),
    ] = False
    huggingface_model_revision: Annotated[
        str,
        Option(early=True),
        Field(description="Branch, tag or commit of the config and the tokenizer.", min_length=1),
    ] = "main"
    huggingface_weight_revision: Annotated[
        str, Option(early=True), Field(description="Branch, tag or commit of the weight files.", min_length=1)
    ] = "main"
    trust_remote_code: Annotated[
        bool,
        Option(early=True),
        Field(
            description="Let Python code of the model's repository run, where its tokenizer or its model class is some."
        ),
    ] = False
    force_download: Annotated[
        bool,
        Option(early=True),
        Field(description="Fetch the files from the hub again even when they are in the cache."),
    ] = False
    rope_type: Annotated[
        RopeType | None,
        Field(
            description="How the rows of queries and keys are ordered: neox, pairs half a head apart, as Hugging Face "
            "keeps them; normal, pairs side by side, as Meta's files and GGUF do. none, longrope and yarn are checked "
            "against the model. Unset, the architecture knows."
        ),
    ] = None
    use_subgraphs: Annotated[
        bool, Field(description="Compile the parts of a layer once and use them for all layers; off, plain PyTorch.")
    ] = True
    vision_config_overrides: dict[str, Any] = Field(
        default_factory=dict,
        description="Entries, as JSON, that replace those of the vision part of config.json or of the image processor, "
        "such as max_pixels or max_dynamic_patch.",
    )
    data_parallel_degree: Annotated[
        int, Field(description="Replicas of the whole model, each on an equal part of the devices.", ge=1)
    ] = 1
    devices: Annotated[
        DeviceList,
        Field(
            description="Where the model runs: gpu is GPU 0, default is GPU 0 if there is one and else the CPU. "
            "cpu:0,1 are two processes on CPUs that have a part of it each: a trial of what several GPUs will do, and "
            "slower than one; with --data-parallel-degree 2 each has all of it."
        ),
    ] = "default"


class ModelSettings(CheckpointSettings):
    """The model that is served."""

    title: ClassVar[str] = "Model"

    model_path: Annotated[
        str,
        Option(early=True, alias="model"),
        Field(
            description="What to serve: a Hugging Face repository, one of several models in it (org/repo:Q4_K_M), a "
            "GGUF file, or a local folder with config.json and weights. The default is the small demo model that comes "
            "with maxserve.",
            min_length=1,
        ),
    ] = DEMO
    max_length: Annotated[
        int | None,
        Field(description="Most tokens of a prompt and its answer together; unset, the model's own limit.", ge=1),
    ] = None
    task: Annotated[
        Task,
        UnsupportedValues(
            refused=lambda task: task in ("audio_generation", "speech_token_generation"),
            what="with a task of audio or speech",
            instead="use text_generation, embeddings_generation or scoring",
        ),
        Option(early=True),
        Field(
            description="What the model is for; unset, its architecture knows. Where that serves several tasks, the "
            "pipeline tag of the repository decides, or the files of sentence-transformers in the folder."
        ),
    ] = "text_generation"
    use_legacy_module: Annotated[
        bool,
        Option(early=True),
        Field(
            description="Where an architecture comes in two implementations, prefer X_Legacy; off, prefer X_ModuleV3."
        ),
    ] = True
    attention_backend: Annotated[
        str,
        Option(used_by="generation", metavar="NAME", registry="attention_backends", no_names=("auto",)),
        Field(
            description="What attends over the cache: the name of a back end (`max list attention-backends`); auto "
            "takes the best that works here.",
            min_length=1,
        ),
    ] = "auto"
    linear_method: Annotated[
        str,
        Option(metavar="NAME", registry="linear_methods", no_names=("auto", "none")),
        Field(
            description="What keeps the weights of projections and multiplies by them: the name of a method; auto "
            "takes the best that works here, none leaves them to torch.",
            min_length=1,
        ),
    ] = "auto"
    layer_compiler: Annotated[
        str,
        Option(metavar="NAME", registry="layer_compilers", no_names=("auto", "none")),
        Field(
            description="What makes one call of a whole layer: the name of a compiler; auto takes the best that works "
            "here, none runs layers as they are written.",
            min_length=1,
        ),
    ] = "auto"
    model_runner: Annotated[
        str,
        Option(used_by="generation", metavar="NAME", registry="model_runners", no_names=("auto",)),
        Field(
            description="What runs the model, a step at a time: the name of a runner (`max list model-runners`); auto "
            "takes the best that works here.",
            min_length=1,
        ),
    ] = "auto"
    defer_resolve: Annotated[
        bool,
        Option(early=True, env=("MODULAR_PIPELINE_DEFER_RESOLVE",)),
        Field(
            description="Look at model and devices only when the model is built: in a program when it is first used, "
            "in a server by the worker, while the port answers already."
        ),
    ] = False
    force: Annotated[
        bool,
        Option(early=True),
        Field(description="Keep what was chosen where an architecture insists on another value."),
    ] = False


class KVCacheSettings(Section):
    """Where keys and values are stored."""

    title: ClassVar[str] = "KV cache"

    cache_strategy: Annotated[
        CacheStrategyName,
        Option(used_by="generation", registry="cache_strategies", no_names=("model_default",)),
        Field(description="Keeper of keys and values: model_default, paged, or a name that a plugin registers."),
    ] = "model_default"
    kv_cache_page_size: Annotated[
        int | None,
        Option(used_by="generation"),
        Field(
            description="Tokens per page, a multiple of 16; unset, 64 on a CPU and 128 on a GPU. Only full pages are "
            "shared, so small ones share more and waste less; a GPU's kernels want fewer.",
            ge=16,
            multiple_of=16,
        ),
    ] = None
    enable_prefix_caching: Annotated[
        bool,
        Option(used_by="generation"),
        Field(description="Keep pages of past requests and share them with requests that begin alike."),
    ] = True
    enable_kvcache_swapping_to_host: Annotated[
        bool,
        Option(used_by="generation"),
        Field(
            description="Copy every full page to host memory as well, and read it back when the device forgot it. "
            "Needs prefix caching."
        ),
    ] = False
    host_kvcache_swap_space_gb: Annotated[
        float,
        Option(used_by="generation"),
        Field(
            description="Host memory for those copies, in GiB per replica; unset, half of what is free where the "
            "default does not fit.",
            gt=0,
        ),
    ] = 50.0
    device_memory_utilization: Annotated[
        float,
        Field(
            description="Share of the device's free memory that weights and cache may take together. Unset on a CPU, "
            "the cache takes 4 GiB at most, and prefixes that no request uses keep little of it: a third of the size "
            "of the weights, or 192 MiB where that is more.",
            gt=0,
            le=1,
        ),
    ] = 0.9
    kv_cache_format: Annotated[
        CacheFormat | None,
        Option(used_by="generation", registry="cache_formats"),
        Field(
            description="Form in which keys and values are stored; unset, the type of the rows that projections "
            "multiply. float8_e4m3fn takes a byte per value, holds magnitudes up to 448 and divides by the scales of "
            "the checkpoint, if it has some; int8 takes a byte per value and 4 for each head of a token, its scale."
        ),
    ] = None


class SchedulingSettings(Section):
    """Who runs when, and how much at once."""

    title: ClassVar[str] = "Scheduling"

    scheduler: Annotated[
        str,
        Option(used_by="generation", metavar="NAME", registry="schedulers"),
        Field(description="Policy that decides who runs in a step.", min_length=1),
    ] = "continuous"
    max_batch_size: Annotated[
        int | None,
        Field(description="Most requests that run at once in a replica; unset, planned from memory and limits.", ge=1),
    ] = None
    max_batch_input_tokens: Annotated[
        int, Field(description="Most new tokens in one step; longer prompts are run in pieces.", ge=1)
    ] = 8192
    max_batch_total_tokens: Annotated[
        int | None,
        Option(used_by="scheduler"),
        Field(description="Most tokens, cached ones included, in a step that runs a prompt; unset, no limit.", ge=1),
    ] = None
    enable_chunked_prefill: Annotated[
        bool,
        Option(used_by="scheduler"),
        Field(description="Cut a prompt where the step is full and run the rest in the next one."),
    ] = True
    enable_in_flight_batching: Annotated[
        bool, Option(used_by="scheduler"), Field(description="Run prompts and answers in one step instead of in turns.")
    ] = True
    max_mixed_step_ms: Annotated[
        int | None,
        Option(used_by="scheduler"),
        Field(
            description="Longest step that runs prompts beside answers, in milliseconds, as far as it can be told "
            "beforehand; unset, 200 on a CPU, 50 elsewhere, and no bound where --max-batch-input-tokens is given.",
            ge=1,
        ),
    ] = None
    kvcache_ce_watermark: Annotated[
        float,
        Option(used_by="scheduler"),
        Field(description="Begin no prompt that would fill more than this share of the cache.", ge=0, le=1),
    ] = 0.95
    max_num_steps: Annotated[
        int,
        Option(used_by="generation"),
        Field(
            description="Most tokens per request between two looks at the queue, which then come in one piece; -1 for "
            "the best value, which is 1 on every device.",
            ge=-1,
        ),
    ] = -1
    max_queue_size: Annotated[
        int | None,
        Option(server=True),
        Field(description="Most requests that may wait; one more is answered 429. Unset, no limit.", ge=1),
    ] = None
    enable_overlap_scheduler: Annotated[
        bool,
        Option(used_by="generation"),
        Field(
            description="Plan and launch the next step before this one's tokens are known. Made for GPUs; on a CPU "
            "the model runs in a thread beside the planning. With --speculative-method, which asks for a GPU then, "
            "steps that drafts may follow are waited for. Not with several --max-num-steps."
        ),
    ] = False
    execute_empty_batches: Annotated[
        bool,
        Option(used_by="generation"),
        Field(
            description="Run steps without requests, some 100 a second while idle, for models whose devices wait for "
            "each other. The architecture must support it."
        ),
    ] = False


class SamplingSettings(Section):
    """What requests may ask of the sampler; switched off, a request that asks is refused."""

    title: ClassVar[str] = "Sampling"

    enable_structured_output: Annotated[
        bool, Field(description="Let requests constrain the answer to a JSON schema, expression, choice or grammar.")
    ] = True
    structured_output_backend: Annotated[
        str,
        Option(metavar="NAME", registry="grammar_backends", no_names=("auto",), checked=False),
        Field(
            description="Who keeps texts within grammars: llguidance, outlines, or a name that a plugin registers; "
            "auto takes, per request, the first that can and starts at once.",
            min_length=1,
        ),
    ] = "auto"
    enable_variable_logits: Annotated[
        bool,
        Field(description="Let requests have the logprobs of their prompt, which takes logits of all its positions."),
    ] = True

    @property
    def grammars(self) -> GrammarChoice:
        return GrammarChoice(enabled=self.enable_structured_output, backend=self.structured_output_backend)


class SpeculativeSettings(Section):
    """Drafting several tokens and verifying them at once."""

    title: ClassVar[str] = "Speculative decoding"

    speculative_method: Annotated[
        SpeculativeMethod | None,
        Option(registry="speculators"),
        Field(
            description="Who drafts tokens: standalone (a smaller model, --draft-model-path), eagle (an EAGLE-1 or "
            "EAGLE-3 head, --draft-model-path), mtp (layers of the checkpoint that predict further tokens), ngram "
            "(looks them up in the text before), suffix (in past answers, too), cascade (one method, and another one "
            "where it finds nothing), synthetic (for benchmarks), or a name that a plugin registers; unset, none."
        ),
    ] = None
    num_speculative_tokens: Annotated[
        int,
        Field(
            description="Most tokens drafted for a request before each step that verifies them; 15 at most, since up "
            "to 16 tokens of a sequence are attended to the bit as one is.",
            ge=1,
            le=15,
        ),
    ] = 5
    adaptive_speculation: Annotated[
        bool,
        Field(
            description="Draft fewer tokens, or none, where their verification costs more than it gains, as measured "
            "while requests run; off, as many as can be."
        ),
    ] = True


class ServerSettings(Section):
    """The HTTP server and its processes."""

    title: ClassVar[str] = "Server"

    host: Annotated[
        str,
        Option(metavar="ADDRESS", server=True),
        Field(description="Address to listen on; 0.0.0.0 opens the server to the network.", min_length=1),
    ] = "127.0.0.1"
    port: Annotated[
        int, Option(server=True), Field(description="TCP port to listen on; 0 takes any free one.", ge=0, le=65535)
    ] = 8000
    headless: Annotated[
        bool, Option(server=True, negatable=False), Field(description="Start the worker without HTTP.")
    ] = False
    replica: Annotated[int, Option(hidden=True), Field(description="Which of several replicas this is.")] = 0
    log_prefix: Annotated[
        str | None, Option(server=True), Field(description="Text in front of every log line, in every process.")
    ] = None
    pretty_print_config: Annotated[
        bool,
        Option(server=True, negatable=False),
        Field(description="Log every setting at start, with where it came from."),
    ] = False
    sim_failure: Annotated[
        int, Field(description="Percent of steps that fail on purpose, to try how clients take it.", ge=0)
    ] = 0
    step_timeout: Annotated[
        float,
        Option(metavar="SECONDS", server=True),
        Field(
            description="How long one of several processes that share a model waits for another in the middle of a "
            "step, until all of them are started anew.",
            gt=0,
        ),
    ] = 300.0
    executor: Annotated[
        str,
        Option(metavar="NAME", registry="executors", server=True),
        Field(
            description="Where the worker runs: local, a process of this machine, or a name that a plugin registers.",
            min_length=1,
        ),
    ] = "local"
    balancer: Annotated[
        str,
        Option(metavar="NAME", registry="balancers", server=True),
        Field(description="What spreads requests over replicas: least_cost, or a plugin's name for it.", min_length=1),
    ] = "least_cost"
    http_server: Annotated[
        str,
        Option(metavar="NAME", registry="http_servers", server=True),
        Field(description="What speaks HTTP: uvicorn, or a name that a plugin registers.", min_length=1),
    ] = "uvicorn"
    enable_routes: Annotated[
        tuple[str, ...],
        Option(metavar="NAME", server=True),
        Field(description="Plugin whose HTTP routes are served besides those that are by default."),
    ] = ()
    debug: Annotated[
        bool, Option(negatable=False), Field(description="Show the Python traceback when the start fails.")
    ] = False


class PluginsSettings(Section):
    """Which plugins are there, and what they were given."""

    title: ClassVar[str] = "Plugins"

    plugin: Annotated[
        tuple[str, ...],
        Option(metavar="MODULE|FILE.py[:ATTRIBUTE]"),
        Field(description="Plugin to load besides the installed ones: a module, a Python file or a package folder."),
    ] = ()
    no_plugin: Annotated[
        tuple[str, ...], Option(metavar="NAME"), Field(description="Plugin to leave out, built in or installed.")
    ] = ()
    prefer: Annotated[
        tuple[str, ...],
        Option(metavar="KIND:NAME=PLUGIN"),
        Field(description="Whose component to take when two plugins offer one of the same name."),
    ] = ()
    custom_architectures: Annotated[
        tuple[str, ...],
        Option(metavar="MODULE|DIR/MODULE|DIR:MODULE"),
        Field(description="Python module with a list ARCHITECTURES of further model families."),
    ] = ()
    sections: Annotated[dict[str, dict[str, Any]], Option(hidden=True)] = Field(
        default_factory=dict, description="What plugins' own options were set to: section, field, plain value."
    )


class FilesSettings(Section):
    """Files that hold settings."""

    title: ClassVar[str] = "Settings files"

    config_file: Annotated[
        tuple[str, ...],
        Option(metavar="FILE"),
        Field(
            description="YAML file with settings; what is typed wins over it, it wins over the environment, and of "
            "several files the later one wins."
        ),
    ] = ()
    section_name: Annotated[
        tuple[str, ...],
        Option(metavar="TEXT"),
        Field(
            description="Key of the file below which the settings are; unset, the whole file. As many as files, one "
            "for each; one for all files; or several of one file, of which the later one wins."
        ),
    ] = ()


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
    kv_cache: KVCacheSettings = KVCacheSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    sampling: SamplingSettings = SamplingSettings()
    speculative: SpeculativeSettings = SpeculativeSettings()
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
    "speculative": SpeculativeSettings,
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
        schema: Any = self.schema  # which mypy does not see to be hashable
        if _are_defaults(schema, values):
            with suppress(ValueError):  # of its own checks, which pydantic tells better
                return schema()
        return _adapter(schema).validate_python(dict(values))


def _are_defaults(schema: type[Any], values: Mapping[str, Any]) -> bool:
    """Whether a dataclass would be made of its own defaults, for which no validator has to be built: that takes time.

    Sequences are compared as JSON has them.
    """
    if not dataclasses.is_dataclass(schema):
        return False
    defaults = {field.name: _default(field) for field in dataclasses.fields(schema)}
    if any(default is dataclasses.MISSING or isinstance(default, FieldInfo) for default in defaults.values()):
        return False
    return all(_is_same(defaults[name], value) for name, value in values.items())


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_same(default: object, value: object) -> bool:
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    return type(default) is type(value) and default == value


@lru_cache(maxsize=64)
def _adapter(schema: type[Any]) -> TypeAdapter[Any]:
    """Made once for each schema: values are read at several points of a start."""
    return TypeAdapter(schema)
