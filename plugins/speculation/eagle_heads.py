"""The heads of EAGLE-1 and EAGLE-3, as their checkpoints have them.

What a head has beside its layers (biases, norms, an embedding, a vocabulary of its own) its tensors say; what has no
tensors, its config does. Configs are flat (SafeAILab, SpecForge) or of the `speculators` library, with those of the
layers in `transformer_layer_config`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.config import read_fields, windows_of
from maxserve.interfaces.architecture import WeightMap
from maxserve.interfaces.errors import ModelError
from maxserve.layers import (
    Attention,
    DraftCell,
    DraftHeadModel,
    Embedding,
    Linear,
    ModelConfig,
    PreNormBlock,
    ProjectedPair,
    RMSNorm,
)

if TYPE_CHECKING:
    from maxserve.interfaces.architecture import ModelSpec
    from maxserve.interfaces.runner import ModelOutput
    from maxserve.interfaces.speculator import DraftCheckpoint
    from maxserve.interfaces.step_context import StepContext

NAMES = WeightMap(
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")},
    renames=(
        (r"^model\.", ""),
        (r"^midlayer\.", "layers.0."),
        (r"^transformer\.", "layers.0."),
        (r"^fusion_fc\.", "fc."),
        (r"^pre_lm_head_layernorm\.", "hidden_states_layernorm."),
    ),
    ignored=(r"(^|\.)(d2t|t2d)$", r"\.rotary_emb\.inv_freq$"),
)


class HeadTensors:
    """The shapes of a head's tensors by the names that its modules have."""

    def __init__(self, checkpoint: DraftCheckpoint) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in checkpoint.tensors.items():
            for pattern, becomes in NAMES.renames:
                name = re.sub(pattern, becomes, name)
            self._shapes[name] = shape

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    @property
    def layers(self) -> int:
        numbers = [int(name.split(".")[1]) for name in self._shapes if re.match(r"layers\.\d+\.", name)]
        return max(numbers, default=-1) + 1

    @property
    def of_eagle3(self) -> bool:
        return "d2t" in self or "layers.0.hidden_norm.weight" in self


def read_head(checkpoint: DraftCheckpoint, target: ModelSpec) -> Eagle1Head | Eagle3Head:
    """The head in a checkpoint; ModelError where there is none that is known, or one for another target."""
    tensors, raw, ref = HeadTensors(checkpoint), checkpoint.config, checkpoint.ref
    kind = raw.get("speculators_model_type", "eagle3")
    if kind not in ("eagle", "eagle3"):
        raise ModelError(f"{ref} drafts by the method {kind!r}, which is not known; known: eagle, eagle3")
    if not tensors.layers or not ("fc.weight" in tensors or tensors.of_eagle3):
        raise ModelError(
            f"{ref} is no EAGLE head: it has no fc.weight that would join what the target computes with the "
            "embedding; a whole model drafts by --speculative-method standalone"
        )
    given = {**raw, **(raw.get("transformer_layer_config") or {})}
    _check(ref, "vocabulary", given.get("vocab_size", target.vocab_size), target.vocab_size)
    if tensors.of_eagle3:
        return Eagle3Head(_eagle3_config(raw, given, tensors, target, ref), tensors)
    config = HeadConfig(**_layer_fields(given, tensors, target))
    _check(ref, "hidden size", config.dim, target.dim)
    return Eagle1Head(config, tensors)


def _check(ref: str, what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise ModelError(
            f"the draft head of {ref} is for another target: its {what} is {ours}, that of the target {theirs}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadConfig(ModelConfig):
    """The config of a head. `qk_norm`: queries and keys are normed per head.

    Of EAGLE-3: `taps` are the target's layers whose outputs it reads, in that order, none for the last hidden state
    alone, and `tap_dim` is their width. `norm_before_residual`: what attention is added to is the normed state.
    `norm_output`: the state that it goes on from is normed.
    """

    qk_norm: bool = False
    taps: tuple[int, ...] = ()
    tap_dim: int = 0
    norm_before_residual: bool = False
    norm_output: bool = False


def _layer_fields(given: Mapping[str, Any], tensors: HeadTensors, target: ModelSpec) -> dict[str, Any]:
    """The fields of the head's layers; rotary positions reach as far as the target's."""
    layers = tensors.layers
    windows: tuple[int | None, ...] = ()
    if given.get("layer_types") and given.get("use_sliding_window", True):
        windows = windows_of(given["layer_types"], given.get("sliding_window"), layers)
    fields = read_fields(
        {**given, "num_hidden_layers": layers, "tie_word_embeddings": False},
        partial_rotary=True,
        windows=windows,
        attention_bias="layers.0.self_attn.q_proj.bias" in tensors,
        o_bias="layers.0.self_attn.o_proj.bias" in tensors,
        mlp_bias="layers.0.mlp.gate_proj.bias" in tensors,
    )
    length = max(fields["max_length"], target.max_length)
    return {**fields, "max_length": length, "qk_norm": "layers.0.self_attn.q_norm.weight" in tensors}


def _eagle3_config(
    raw: Mapping[str, Any], given: Mapping[str, Any], tensors: HeadTensors, target: ModelSpec, ref: str
) -> HeadConfig:
    inner = raw.get("eagle_config") or {}
    library = "speculators_model_type" in raw

    def setting(name: str, default: Any) -> Any:
        return next((place[name] for place in (raw, inner) if place.get(name) is not None), default)

    for flag, name in (("norm_before_fc", "input_norm.weight"), ("fc_norm", "fc_norm.0.weight")):
        if setting(flag, False) and name not in tensors:
            raise ModelError(f"config.json of {ref} sets {flag}, but the checkpoint has no {name}")
    taps: tuple[int, ...] = ()
    if setting("use_aux_hidden_state", True):
        taps = _taps(setting("eagle_aux_hidden_state_layer_ids", None), len(target.cache_layers), library, ref)
    config = HeadConfig(
        **_layer_fields(given, tensors, target),
        taps=taps,
        tap_dim=target.dim,
        norm_before_residual=bool(setting("norm_before_residual", library)),
        norm_output=bool(setting("norm_output", False)),
    )
    if "fc.weight" in tensors:
        _check(ref, "input of fc", tensors.shape("fc.weight")[1], max(len(taps), 1) * target.dim)
    else:
        _check(ref, "hidden size", config.dim, max(len(taps), 1) * target.dim)
    if config.dim != target.dim and not {"embed_tokens.weight", "lm_head.weight"} <= set(tensors):
        raise ModelError(f"{ref} is narrower than its target, and has no embed_tokens and lm_head of its own")
    return config


def _taps(ids: Sequence[int] | None, layers: int, inputs: bool, ref: str) -> tuple[int, ...]:
    """The target's layers whose outputs are read. What ids name are `inputs` of layers, or outputs."""
    if ids is None:
        ids, inputs = (2, layers // 2, layers - 3), True
    taps = tuple(int(index) - inputs for index in ids)
    if not taps or not all(0 <= tap < layers for tap in taps):
        what = "inputs" if inputs else "outputs"
        raise ModelError(
            f"the draft head of {ref} reads {what} of layers {', '.join(map(str, ids))}, which a target of {layers} "
            "layers does not have; eagle_aux_hidden_state_layer_ids in its config.json can name others"
        )
    return taps


class HeadBlock(PreNormBlock):
    """A layer of a head."""

    def attention(self, config: HeadConfig, layer: int) -> Attention:
        return Attention(config, layer, qk_norm=config.qk_norm)


class JoiningBlock(HeadBlock):
    """The first layer of EAGLE-3, whose queries, keys and values are made of embedding and state side by side."""

    def __init__(self, config: HeadConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.hidden_norm = self.Norm(config.dim, config.eps)
        self.norm_before_residual = config.norm_before_residual

    def attention(self, config: HeadConfig, layer: int) -> Attention:
        return Attention(config, layer, qk_norm=config.qk_norm, inputs=2 * config.dim)

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """[T, 2 · dim], embedding and state side by side, to [T, dim]: a layer of one input, which can be compiled."""
        embedded, x = x.chunk(2, dim=-1)
        normed = self.hidden_norm(x)
        seen = self.self_attn(torch.cat((self.input_layernorm(embedded), normed), dim=-1), step)
        x = (normed if self.norm_before_residual else x) + seen
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class EagleHead(DraftHeadModel):
    """What both kinds have: an embedding and a head of their own, where their checkpoints have them."""

    config: HeadConfig

    def __init__(self, config: HeadConfig, tensors: HeadTensors) -> None:
        super().__init__(config, NAMES)
        if "embed_tokens.weight" in tensors:
            self.embed_tokens = Embedding(config.vocab_size, config.dim, role="column")
        if "lm_head.weight" in tensors:
            self.lm_head = Linear(config.dim, tensors.shape("lm_head.weight")[0], role="column")


class Eagle1Head(EagleHead):
    """One projection of embedding and last hidden state, and layers, the first mostly without a norm before it."""

    def __init__(self, config: HeadConfig, tensors: HeadTensors) -> None:
        super().__init__(config, tensors)
        self.fc = Linear(2 * config.dim, config.dim, bias="fc.bias" in tensors)
        self.layers = nn.ModuleList(HeadBlock(config, layer) for layer in range(config.layers))
        for layer, block in enumerate(self.layers):
            if f"layers.{layer}.input_layernorm.weight" not in tensors:
                block.input_layernorm = nn.Identity()
        self.embedding_layernorm = _norm_if("embedding_layernorm.weight", config, tensors)
        self.hidden_states_layernorm = _norm_if("hidden_states_layernorm.weight", config, tensors)
        self.norm = _norm_if("norm.weight", config, tensors)

    def cell(self, head: Linear) -> DraftCell | None:
        """All of it, where it has one layer."""
        if self.config.layers > 1:
            return None
        pair = ProjectedPair((self.embedding_layernorm, self.hidden_states_layernorm), self.fc, self.layers[0])
        return DraftCell(pair, self.norm, head, normed=True)

    def forward(self, step: StepContext, hidden: Tensor) -> Tensor:
        """[T, dim], at positions whose following tokens are the step's, to [T, dim]."""
        pair = self.embedding_layernorm(self.embed(step)), self.hidden_states_layernorm(hidden)
        x: Tensor = self.fc(torch.cat(pair, dim=-1))
        for block, rotary in zip(self.layers, self.rotary(step, x.dtype), strict=True):
            x = block(x, rotary)
        out: Tensor = self.norm(x)
        return out


class Eagle3Head(EagleHead):
    """Layers over embedding and a projection of what several layers of the target gave."""

    def __init__(self, config: HeadConfig, tensors: HeadTensors) -> None:
        super().__init__(config, tensors)
        self.aux_layers = tuple(sorted(set(config.taps)))
        self._order = [self.aux_layers.index(tap) for tap in config.taps]
        width = max(len(config.taps), 1) * config.tap_dim
        self.fc: nn.Module = nn.Identity()
        if "fc.weight" in tensors:
            self.fc = Linear(width, config.dim, bias="fc.bias" in tensors)
        later = (HeadBlock(config, layer) for layer in range(1, config.layers))
        self.layers = nn.ModuleList([JoiningBlock(config, 0), *later])
        self.norm = RMSNorm(config.dim, config.eps)
        self.input_norm = _norm_if("input_norm.weight", config, tensors, width)
        norms = [name for name in tensors if name.startswith("fc_norm.")]  # one for each layer that is read, or none
        self.fc_norm = nn.ModuleList(RMSNorm(config.tap_dim, config.eps) for _ in (config.taps if norms else ()))
        self._ids: Tensor | None = None

    def cell(self, head: Linear) -> DraftCell | None:
        """All of it, where it has one layer."""
        if self.config.layers > 1:
            return None
        return DraftCell(self.layers[0], self.norm, head, normed=self.config.norm_output)

    def name_tokens(self, differences: Tensor | None, ref: str) -> None:
        """Where its own vocabulary is smaller: how far the target's id of each token is from its own (`d2t`)."""
        own, of_target = self.lm_head.outputs if self.lm_head is not None else None, self.config.vocab_size
        if differences is None:
            if own not in (None, of_target):
                raise ModelError(f"{ref} has a vocabulary of {own} tokens, but no d2t that says which they are")
            return
        ids = torch.arange(len(differences)) + differences.to(torch.int64)
        if len(ids) != own or not bool(((ids >= 0) & (ids < of_target)).all()):
            raise ModelError(f"d2t of {ref} does not lead from {own} tokens of its own to those of its target")
        self._ids = ids

    def combine(self, output: ModelOutput) -> Tensor:
        """What it reads of rows that the target has computed."""
        taps = [output.aux_hidden[index] for index in self._order]
        if self.fc_norm:
            taps = [norm(tap) for norm, tap in zip(self.fc_norm, taps, strict=True)]
        out: Tensor = self.fc(self.input_norm(torch.cat(taps or [output.hidden], dim=-1)))
        return out

    def forward(self, step: StepContext, hidden: Tensor) -> Tensor:
        """[T, dim], at positions whose following tokens are the step's, to [T, dim]."""
        first, *rotations = self.rotary(step, hidden.dtype)
        x: Tensor = self.layers[0](torch.cat((self.embed(step), hidden), dim=-1), first)
        for block, rotary in zip(list(self.layers)[1:], rotations, strict=True):
            x = block(x, rotary)
        return self.norm(x) if self.config.norm_output else x

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] to [rows, tokens]."""
        return super().logits(hidden if self.config.norm_output else self.norm(hidden))

    def own_ids(self) -> Tensor | None:
        """The target's ids of its own tokens; None where they are the same."""
        return self._ids


def _norm_if(name: str, config: HeadConfig, tensors: HeadTensors, width: int | None = None) -> nn.Module:
    """The norm of that name, where the checkpoint has one."""
    return RMSNorm(width or config.dim, config.eps) if name in tensors else nn.Identity()
