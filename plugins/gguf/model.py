"""The tensors of a GGUF file under the names, and in the layout, of a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.gguf.container import Container, TensorPlace
from maxserve.plugins.gguf.families import NEXT_TOKEN, Family, Keys, layer_name
from maxserve.plugins.gguf.types import PLAIN

if TYPE_CHECKING:
    import torch

Arrange: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
Shape: TypeAlias = tuple[int, ...]

_PAIRED = ("ffn_gate_exps", "ffn_up_exps")
_LATENT = ("attn_k_b", "attn_v_b")
# Factors of rotary frequencies: they go into config.json.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True, slots=True)
class Join:
    """How two tensors become one: `shape` of both shapes, `tensor` of both in float32."""

    shape: Callable[[Shape, Shape], Shape]
    tensor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _head_rows(keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What makes keys of the latent vector, [heads, latent, n], and values, [heads, m, latent], as rows of a weight
    [heads * (n + m), latent], by head."""
    import torch

    return torch.cat((keys.transpose(1, 2), values), dim=1).flatten(0, 1)


def _inputs_first(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """[experts, outputs, inputs] of both as [experts, inputs, 2 * outputs]."""
    import torch

    return torch.cat((gate, up), dim=1).transpose(1, 2)


HEADS = Join(lambda keys, values: (keys[0] * (keys[2] + values[1]), keys[1]), _head_rows)
GATE_UP = Join(lambda gate, up: (gate[0], gate[2], gate[1] + up[1]), _inputs_first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a tensor comes from: one of the file, or several of one type and shape that lie in turns along `axis`.

    `entry` is that of a stack. `arrange` puts rows, or numbers, in the order and value of Hugging Face. `join` makes
    one tensor of the values of several.
    """

    places: tuple[TensorPlace, ...]
    axis: int = 0
    entry: int | None = None
    arrange: Arrange | None = None
    join: Join | None = None

    @property
    def info(self) -> TensorInfo:
        if self.join is not None:
            whole = self.join.shape(*(place.shape for place in self.places))
            return TensorInfo(dtype="F32", shape=whole, size=4 * prod(whole))
        place = self.places[0]
        shape = list(place.shape if self.entry is None else place.shape[1:])
        shape[self.axis] *= len(self.places)
        if self.arrange is _transposed:
            shape = [shape[0], shape[2], shape[1]]
        size = sum(each.size for each in self.places) // (1 if self.entry is None else place.shape[0])
        return TensorInfo(dtype=place.type.name, shape=tuple(shape), size=size)


def sources_of(container: Container, keys: Keys, family: Family) -> dict[str, Source]:
    """What becomes of each tensor of the file, by its new name; ModelError naming those that have none."""
    found: dict[str, Source] = {}
    unknown = []
    for name, place in container.tensors.items():
        made = _named(name, place, container, keys, family)
        if made is None:
            unknown.append(name)
        else:
            found |= made
    if unknown:
        listed = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ModelError(
            f"{container.path}: a model of architecture {keys.architecture} has no {listed}; use a checkpoint in "
            "safetensors"
        )
    return found


def _named(name: str, place: TensorPlace, container: Container, keys: Keys, family: Family) -> dict[str, Source] | None:
    """The tensors that come of one of the file, by name; None for one that is not known."""
    parts = name.split(".")
    if name in ROPE_FACTORS:
        return {}
    outer = family.outer.get(name)
    if outer is not None:
        if name == "token_types.weight" and len(place.shape) == 1:  # of one kind of part
            place = replace(place, shape=(1, *place.shape))
        return {outer: Source(places=(place,), arrange=_arranged(outer, place, keys, family))}
    if len(parts) < 4 or parts[0] != "blk" or not parts[1].isdigit():
        return None
    layer = f"{family.layers}{int(parts[1])}."
    if parts[2] == "nextn":
        ours = NEXT_TOKEN.get(".".join(parts[3:]))
        return None if ours is None else {layer + ours: Source(places=(place,))}
    if len(parts) != 4:
        return None
    _check_stack(name, place, container, keys)
    if family.alternating and parts[2] in _PAIRED:
        return _alternating(parts, layer, container)
    if family.transposed and place.type.name in PLAIN and parts[2] in (*_PAIRED, "ffn_down_exps"):
        return _transposed_stack(parts, layer, container)
    if family.names.get("attn_kv_b") and parts[2] in _LATENT:
        keys_of_heads, values = _together(parts, _LATENT, container)
        if keys_of_heads.shape[:1] + keys_of_heads.shape[1:2] != values.shape[:1] + values.shape[2:]:
            raise ModelError(
                f"{container.path}: {' and '.join(_LATENT)} of block {parts[1]} are {list(keys_of_heads.shape)} and "
                f"{list(values.shape)}, which are not of one latent vector; fetch the file again"
            )
        return {layer + "self_attn.kv_b_proj.weight": Source(places=(keys_of_heads, values), join=HEADS)}
    ours = layer_name(family, parts[2], parts[3])
    if ours is None:
        return None
    if "{expert}" not in ours:
        return {layer + ours: Source(places=(place,), arrange=_arranged(ours, place, keys, family))}
    if ours.endswith(".bias"):
        return {layer + _stacked_bias(ours): Source(places=(place,))}
    if family.alternating and place.type.name in PLAIN:
        return {layer + "mlp.experts.down_proj": Source(places=(place,), arrange=_transposed)}
    return {layer + ours.format(expert=e): Source(places=(place,), entry=e) for e in range(place.shape[0])}


def _stacked_bias(ours: str) -> str:
    """mlp.experts.{expert}.down_proj.bias is mlp.experts.down_proj_bias, of all experts."""
    return ours.replace(".{expert}", "").removesuffix(".bias") + "_bias"


def _together(parts: list[str], pair: tuple[str, str], container: Container) -> tuple[TensorPlace, TensorPlace]:
    """The places of two tensors of a block, either of which brings the other with it."""
    found = [container.tensors.get(".".join([*parts[:2], part, parts[3]])) for part in pair]
    places = tuple(place for place in found if place is not None)
    if len(places) < len(pair):
        raise ModelError(f"{container.path}: block {parts[1]} has one of {' and '.join(pair)} without the other")
    return places[0], places[1]


def _check_stack(name: str, place: TensorPlace, container: Container, keys: Keys) -> None:
    """ModelError where a tensor of all experts, or of all heads' keys or values, has not the shape of one."""
    part, kind = name.split(".")[2:]
    if part.endswith("_exps"):
        due, count, what = (2 if kind == "bias" else 3), keys.number("expert_count"), "experts"
    elif part in _LATENT:
        due, count, what = 3, keys.number("attention.head_count"), "heads"
    else:
        return
    if len(place.shape) != due or place.shape[0] != count:
        raise ModelError(
            f"{container.path}: {name} is {list(place.shape)}; of {count} {what} it has {due} dimensions, the first of "
            f"{count}; fetch the file again"
        )


def _alternating(parts: list[str], layer: str, container: Container) -> dict[str, Source]:
    """Gate and up of all experts, whose rows lie in turns; the gate brings the up with it."""
    places = _alike(parts, container)
    if parts[3] == "bias":
        return {layer + "mlp.experts.gate_up_proj_bias": Source(places=places, axis=1)}
    if places[0].type.name in PLAIN:
        return {layer + "mlp.experts.gate_up_proj": Source(places=places, axis=1, arrange=_transposed)}
    name = layer + "mlp.experts.{}.gate_up_proj.weight"
    return {name.format(expert): Source(places=places, entry=expert) for expert in range(places[0].shape[0])}


def _alike(parts: list[str], container: Container) -> tuple[TensorPlace, TensorPlace]:
    """Gate and up of all experts of a block."""
    gate, up = _together(parts, _PAIRED, container)
    if gate.shape != up.shape or gate.type != up.type:
        raise ModelError(f"{container.path}: gate and up of experts in block {parts[1]} do not have one type and shape")
    return gate, up


def _transposed_stack(parts: list[str], layer: str, container: Container) -> dict[str, Source]:
    """All experts in one tensor, inputs first, as Llama 4's checkpoints have them."""
    if parts[2] == "ffn_down_exps":
        place = container.tensors[".".join(parts)]
        return {layer + "feed_forward.experts.down_proj": Source(places=(place,), arrange=_transposed)}
    return {layer + "feed_forward.experts.gate_up_proj": Source(places=_alike(parts, container), join=GATE_UP)}


def _arranged(ours: str, place: TensorPlace, keys: Keys, family: Family) -> Arrange | None:
    if family.offset and "norm" in ours:
        return _without_offset
    if family.pairs and ours.startswith(("self_attn.q_proj", "self_attn.k_proj")):
        heads = keys.number("attention.head_count") if "q_proj" in ours else keys.kv_heads
        if place.shape[0] % (2 * heads):
            raise ModelError(f"{keys.path}: {place.shape[0]} rows of {ours} are not of {heads} heads")
        return PairsApart(heads)
    return None


def _transposed(stack: torch.Tensor) -> torch.Tensor:
    """[experts, outputs, inputs] the other way round, as such checkpoints have it where it is not packed."""
    return stack.transpose(1, 2)


def _without_offset(norm: torch.Tensor) -> torch.Tensor:
    return norm - 1


@dataclass(frozen=True, slots=True)
class PairsApart:
    """Puts rows of heads whose rotary pairs lie side by side so that they lie half a head apart."""

    heads: int

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        pairs = rows.reshape(self.heads, len(rows) // self.heads // 2, 2, *rows.shape[1:])
        return pairs.transpose(1, 2).reshape(rows.shape)
