"""Architectures: model families and the models they build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.cache import CacheLayer
    from maxserve.core.interfaces.component import Ref
    from maxserve.core.interfaces.step_context import StepContext


__all__ = [
    "Architecture",
    "BoundsPositions",
    "Model",
    "ModelSpec",
    "OrdersRotaryRows",
    "SharesEmbedding",
    "SharesHead",
    "TensorChange",
    "WeightMap",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorChange:
    """What becomes of tensors whose names, once they are renamed, match the expression `names`: `apply(tensor)`.

    The shape stays. Of a quantized weight it is applied to what comes out. A checkpoint without such tensors is refused
    with the message `absent`, if there is one.
    """

    names: str
    apply: Callable[[torch.Tensor], torch.Tensor]
    absent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMap:
    """How a checkpoint's names become the model's.

    `renames` are (regular expression, replacement) pairs tried in order, each applied to the result of the one before;
    `ignored` are expressions of names to leave unread, `optional` those of names to leave unread where the model has no
    such parameter. Prefixes that checkpoints leave out or add are seen to for all families. `fused` says which
    neighbouring parameters lie one after another, along the output axis, in one of ours: {"qkv_proj": ("q_proj",
    "k_proj", "v_proj")}. `split` says the same of a checkpoint's tensor that holds several of ours: {"qkv": ("q_proj",
    "k_proj", "v_proj")}. `stacked` names lists whose members are entries along the first axis of ours: with
    ("experts",), experts.7.up_proj.weight is entry 7 of experts.up_proj.weight. The last three, expressions of our
    names: `transposed` parameters have their last two axes the other way round in checkpoints, unless these are packed;
    `either_way` ones in some checkpoints, as their shapes tell (equal axes: as ours); `exact` ones are float32,
    whatever the others are. `changes` are applied to tensors as they are read.
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
    changes: tuple[TensorChange, ...] = ()


LOAD = "maxserve.loading:load_weights"
"""What fills models unless their architecture names something else, and modules beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture(Component):
    """A model family. `name` is the entry of "architectures" in config.json.

    `build(config)` gives a Model; `config(dict)` makes that config from the content of config.json. `cache_strategy` is
    what `--cache-strategy model_default` stands for. `supports_empty_batches`: its forward can be called with a batch
    of no sequences, which `--execute-empty-batches` needs. `required_arguments` are values of options, by
    Python name, that it insists on whatever was chosen: they are set with a warning each, unless `--force` is
    given. `tensor_parallel`: it is made of bricks that ranks share, so that several devices can have a part of it each.

    `weights` is the WeightMap of its checkpoints or, where names depend on sizes, what makes it of the config.

    `load` fills the model, built without memory, with the weights of a checkpoint: it is called as `load_weights` is.
    `fallback(ModelFolder)` makes it one that is asked where no architecture has the name of a model's class: it gives
    the reason why it cannot serve the model, or None; it is called without torch. With `reads_folder`, `config` is
    given a ModelFolder too. `images(ImagesContext)` gives a ReadsImages for vision-language models; without it, prompts
    are text. `image_steps(StepImagesContext)` gives the ImagesOfSteps of such a model. `draft_head(DraftHeadContext)`
    gives the layers of a checkpoint that predict further tokens, a DraftHead, or None where it has none.

    `task` says what for: text_generation (`build` gives a Model), embeddings_generation (an Encoder), scoring (a
    Scorer: how well two texts go together). Two architectures may have one class name among their aliases if their
    tasks differ. `matryoshka`: the first numbers of a vector make a vector too, unless config.json denies it.
    """

    kind: ClassVar[str] = "architecture"

    aliases: tuple[str, ...] = ()
    config: Ref = "maxserve.layers:from_transformers"
    weights: WeightMap | Ref = field(default_factory=WeightMap)
    encodings: tuple[str, ...] = ("float32", "bfloat16", "float16")
    cache_strategy: str = "paged"
    supports_empty_batches: bool = False
    required_arguments: Mapping[str, Any] = field(default_factory=dict)
    load: Ref = LOAD
    fallback: Ref | None = None
    reads_folder: bool = False
    task: str = "text_generation"
    matryoshka: bool = False
    images: Ref | None = None
    image_steps: Ref = "maxserve.vision:StepImages"
    draft_head: Ref | None = None
    tensor_parallel: bool = False
    example_repos: tuple[str, ...] = ()


class ModelSpec(Protocol):
    """What the engine must know of a model's config, whatever else its architecture keeps there."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_length(self) -> int:
        """Positions the model was made for."""
        ...

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]: ...
    @property
    def prompt_regimes(self) -> tuple[int, ...]:
        """Prompt lengths, rising, above which every token's keys change: prefixes are shared within a regime only.

        Empty for models whose keys depend on nothing but the tokens up to theirs.
        """
        return ()


@runtime_checkable
class OrdersRotaryRows(Protocol):
    """A ModelSpec that knows how its model applies rope, and so what `--rope-type` asks for."""

    def rotary_changes(self, rope_type: str, architecture: str) -> tuple[TensorChange, ...]:
        """What is to be done with queries and keys of a checkpoint of that type; ModelError where the type contradicts
        the model, an `architecture` of that name."""
        ...


@runtime_checkable
class Model(Protocol):
    """An nn.Module. Parameter names follow the checkpoint, but for what the WeightMap fuses and renames."""

    def prepare(self) -> None:
        """Computes what no checkpoint holds (rope tables); called once, when the weights are on their device."""

    def forward(self, step: StepContext) -> torch.Tensor:
        """Hidden states after the last norm, [T, dim]."""
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, dim] to [rows, vocab_size]."""
        ...


@runtime_checkable
class BoundsPositions(Protocol):
    """A module, of a model perhaps, that has something for each position that texts may have, such as rotations."""

    def bound_positions(self, count: int) -> None:
        """No text that is served has more than `count`; called before `prepare`, if at all."""


@runtime_checkable
class SharesEmbedding(Protocol):
    """A Model that gives its embedding to others, such as heads that draft."""

    def get_input_embeddings(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What makes rows [T, dim] of token ids [T], before the model does anything else with them."""
        ...


@runtime_checkable
class SharesHead(Protocol):
    """A Model whose `logits` is the product with one weight, which heads that draft may compute with theirs."""

    def get_output_embeddings(self) -> torch.nn.Module | None:
        """The projection [rows, dim] to [rows, vocab_size] that `logits` is; None where it does more."""
        ...
