"""The tensors of a GGUF file out of those of a checkpoint: the inverse of `model`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import PlainCheckpoint
from maxserve.plugins.gguf.families import OUTER, Family
from maxserve.plugins.gguf.types import BY_NAME, PLAIN, PLAIN_ENCODINGS, TensorType, rounded_type
from maxserve.plugins.gguf.writer import NewTensor

if TYPE_CHECKING:
    import torch

Cut: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
Parts: TypeAlias = "Callable[[], Iterator[torch.Tensor]]"

HEAD, TABLE = "output.weight", "token_embd.weight"
_KEPT = ("ffn_gate_inp", "attn_sinks")  # in float32, as llama.cpp has them
_UNROUNDED = ("attn_k_b", "attn_v_b")  # as what they are made of is while it is loaded
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_EXPERTS = re.compile(r"(?:mlp|feed_forward)\.experts\.(gate_up|down)_proj(_bias)?")
_LATENT = "self_attn.kv_b_proj.weight"
# What EXAONE 3's own checkpoints call what others call as Llama does.
_RENAMES = (
    (r"^transformer\.wte\.", "model.embed_tokens."),
    (r"^transformer\.ln_f\.", "model.norm."),
    (r"^transformer\.h\.", "model.layers."),
    (r"\.attn\.attention\.out_proj\.", ".self_attn.o_proj."),
    (r"\.attn\.attention\.", ".self_attn."),
    (r"\.ln_1\.", ".input_layernorm."),
    (r"\.ln_2\.", ".post_attention_layernorm."),
    (r"\.mlp\.c_fc_0\.", ".mlp.gate_proj."),
    (r"\.mlp\.c_fc_1\.", ".mlp.up_proj."),
    (r"\.mlp\.c_proj\.", ".mlp.down_proj."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A tensor of the new file; `parts` gives what it is made of, rows [n, inputs] or vectors, one after another."""

    tensor: NewTensor
    parts: Parts
    note: str = ""  # why it is in another type than most

    def stored(self) -> Iterator[torch.Tensor]:
        """The parts in the tensor's type; ModelError for values that it cannot hold."""
        for part in self.parts():
            try:
                yield _stored(part, self.tensor.type)
            except ModelError as error:
                raise ModelError(f"{self.tensor.name}: {error}") from error


@dataclass(slots=True)
class Planner:
    """Finds the targets of a checkpoint. `given` is its config with all defaults."""

    checkpoint: PlainCheckpoint
    family: Family
    given: Mapping[str, Any]
    encoding: str
    _sources: dict[str, list[str]] = field(default_factory=dict)  # of what has several, by expert, or one
    _cut: dict[str, tuple[str, Cut]] = field(default_factory=dict)  # source, and what is taken of it
    left_out: bool = False  # whether there are layers that predict further tokens

    def targets(self) -> list[Target]:
        """Those of all tensors, layer by layer; ModelError naming tensors that have none."""
        unknown = [name for name in self.checkpoint.tensors if not self._place(name)]
        if unknown:
            listed = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            raise ModelError(
                f"{self.checkpoint.folder}: GGUF files of such models have no place for {listed}; use the checkpoint "
                "as it is"
            )
        if TABLE not in self._sources:
            raise ModelError(f"{self.checkpoint.folder} has no table of embeddings; is it the checkpoint of a model?")
        self._settle_head()
        names = sorted({*self._sources, *self._cut}, key=_order)
        return [self._target(name) for name in names]

    def _place(self, name: str) -> bool:
        """Whether it is known what becomes of a tensor of the checkpoint."""
        if _IGNORED.fullmatch(name):
            return True
        ours = name
        for pattern, replacement in _RENAMES:
            ours = re.sub(pattern, replacement, ours)
        outer = {ours: theirs for theirs, ours in OUTER.items()}.get(ours)
        if outer is not None:
            self._sources[outer] = [name]
            return True
        layer = _LAYER.fullmatch(ours)
        if layer is not None and int(layer[1]) >= self.given["num_hidden_layers"]:
            self.left_out = True
            return True
        return layer is not None and self._place_in_layer(name, f"blk.{layer[1]}.", layer[2])

    def _place_in_layer(self, name: str, block: str, ours: str) -> bool:
        cuts = self._cuts(ours)
        if cuts:
            self._cut |= {block + part: (name, cut) for part, cut in cuts.items()}
            return True
        whole = ours.endswith(("sinks", "_bias"))  # of no module, or not its weight
        kind = "bias" if ours.endswith("_bias") else "weight"
        module, _, kind = (ours, "", kind) if whole else ours.rpartition(".")
        expert = _EXPERT.search(ours)
        module = _EXPERT.sub(".experts.{expert}.", module) if expert else module
        part = {ours: theirs for theirs, ours in self.family.names.items()}.get(module)
        number = int(expert[1]) if expert else 0
        if part is None or kind not in ("weight", "bias") or number >= len(self.checkpoint.tensors):
            return False
        sources = self._sources.setdefault(f"{block}{part}.{kind}", [])
        sources += [""] * (number + 1 - len(sources))
        sources[number] = name
        return True

    def _cuts(self, ours: str) -> dict[str, Cut]:
        """What several tensors of the file are of one of the checkpoint's."""
        stack = _EXPERTS.fullmatch(ours)
        if stack is not None and (self.family.alternating or self.family.transposed):
            kind = "bias" if stack[2] else "weight"
            if stack[1] == "down":
                return {f"ffn_down_exps.{kind}": _outputs_first}
            cuts = _ALTERNATING if self.family.alternating else _ONE_AFTER_OTHER
            return {f"ffn_{part}_exps.{kind}": cut for part, cut in cuts.items()}
        if ours != _LATENT or "attn_kv_b" not in self.family.names:
            return {}
        heads, first = self.given["num_attention_heads"], self.given["qk_nope_head_dim"]
        return {
            "attn_k_b.weight": lambda rows: rows.view(heads, -1, rows.shape[1])[:, :first].transpose(1, 2),
            "attn_v_b.weight": lambda rows: rows.view(heads, -1, rows.shape[1])[:, first:],
        }

    def _settle_head(self) -> None:
        """A head that is the table is not written again."""
        if self.given.get("tie_word_embeddings", False):
            self._sources.pop(HEAD, None)

    def _target(self, name: str) -> Target:
        if name in self._cut:
            source, cut = self._cut[name]
            shape = _shape_of(cut, self.checkpoint.tensors[source].shape)
            return self._made(name, shape, source, partial(self._taken, source, cut))
        sources = self._sources[name]
        if "" in sources:
            raise ModelError(f"{self.checkpoint.folder}: expert {sources.index('')} of {name} is missing")
        first = self.checkpoint.tensors[sources[0]]
        for source in sources[1:]:
            if self.checkpoint.tensors[source].shape != first.shape:
                raise ModelError(f"{self.checkpoint.folder}: {source} has another shape than {sources[0]}")
        shape = (len(sources), *first.shape) if "_exps." in name else first.shape
        return self._made(name, shape, sources[0], partial(self._read, name, sources))

    def _made(self, name: str, shape: Sequence[int], source: str, parts: Parts) -> Target:
        type, note = self._type(name, shape, self.checkpoint.tensors[source].dtype)
        return Target(tensor=NewTensor(name=name, type=type, shape=tuple(shape)), parts=parts, note=note)

    def _type(self, name: str, shape: Sequence[int], stored: str) -> tuple[TensorType, str]:
        """The type of a tensor, and why it is another than is asked for, where that is not so for all such tensors."""
        part = name.split(".")[-2]
        if len(shape) == 1 or name.endswith(".bias") or part in _KEPT:
            return BY_NAME["F32"], ""
        if stored not in PLAIN:
            raise ModelError(
                f"{self.checkpoint.folder}: a tensor of {name} is of type {stored}, which is not written; read are "
                f"{', '.join(sorted(PLAIN))}"
            )
        own = BY_NAME[stored]
        if part in _UNROUNDED:
            return own, ""
        if name == TABLE and self.encoding not in PLAIN_ENCODINGS:
            return self._table_type(shape[-1]) or own, ""
        type = rounded_type(self.encoding, shape[-1])
        if type is None:
            return own, f"rows of {shape[-1]} values are no whole blocks"
        if type.name.lower() != self.encoding and self.encoding not in PLAIN_ENCODINGS:
            return type, f"rows of {shape[-1]} values are no whole blocks of 256"
        return type, ""

    def _table_type(self, inputs: int) -> TensorType | None:
        """That of a table which is the head, too, as llama-quantize has it: an error there is one of each logit. Others
        are only looked up in, which costs no time, and stay as they are."""
        if HEAD in self._sources:
            return None
        return rounded_type("q8_0" if self.encoding == "q8_0" else "q6_k", inputs)

    def _read(self, name: str, sources: Sequence[str]) -> Iterator[torch.Tensor]:
        part = name.split(".")[-2]
        for source in sources:
            tensor = self.checkpoint.read(source)
            if self.family.offset and "norm" in part:
                tensor = tensor.float() + 1
            if self.family.pairs and part in ("attn_q", "attn_k"):
                heads = self.given["num_attention_heads"]
                tensor = side_by_side(tensor, heads if part == "attn_q" else self.given["num_key_value_heads"] or heads)
            yield tensor

    def _taken(self, source: str, cut: Cut) -> Iterator[torch.Tensor]:
        """What is taken of a tensor, by its first axis."""
        yield from cut(self.checkpoint.read(source))


def _shape_of(cut: Cut, shape: Sequence[int]) -> tuple[int, ...]:
    import torch

    return tuple(cut(torch.empty(shape, device="meta")).shape)


def _outputs_first(stack: torch.Tensor) -> torch.Tensor:
    """[experts, inputs, outputs] the other way round; biases have no inputs."""
    return stack.transpose(1, 2) if stack.dim() == 3 else stack


_ALTERNATING: Mapping[str, Cut] = {
    "gate": lambda stack: _outputs_first(stack)[:, ::2],
    "up": lambda stack: _outputs_first(stack)[:, 1::2],
}
_ONE_AFTER_OTHER: Mapping[str, Cut] = {
    "gate": lambda stack: _outputs_first(stack).chunk(2, dim=1)[0],
    "up": lambda stack: _outputs_first(stack).chunk(2, dim=1)[1],
}


def _order(name: str) -> tuple[int, int, str]:
    """Table, layers, and what comes after these."""
    parts = name.split(".")
    if parts[0] == "blk":
        return 1, int(parts[1]), name
    return (0 if name == TABLE else 2), 0, name


def side_by_side(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Puts rows of heads whose rotary pairs lie half a head apart so that they lie side by side."""
    apart = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return apart.transpose(1, 2).reshape(rows.shape)


def _stored(part: torch.Tensor, type: TensorType) -> torch.Tensor:
    import torch

    from maxserve.plugins.gguf.rounding import rounded_rows

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    if type.name not in dtypes:
        return rounded_rows(part, type)
    stored = part.to(dtypes[type.name])
    if type.name == "F16" and not stored.isfinite().all():
        raise ModelError(f"a weight is {part.abs().max().item():.3g}, more than float16 holds; write bfloat16 instead")
    return stored
