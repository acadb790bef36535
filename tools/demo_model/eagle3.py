"""The EAGLE-3 head of the demo model, as it is trained and as its checkpoint has it.

Li et al., "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test", 2025. At
position i the head reads the embedding of token i + 1 and, of the target, the outputs of three layers there; further
drafts go on from its own output. Training unrolls that: in step t row j reads what step t - 1 gave at row j - 1, and
attends to the keys that it would have when the model is served.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

TAPS = (1, 3, 5)  # layers of the target whose outputs are read
KEPT = 1024  # tokens that the head can draft
STEPS = 3  # drafts in a row that it is trained for
FADING = 0.8  # weight of each further step in the loss


@dataclass(frozen=True, slots=True)
class Seen:
    """What the target makes of a batch: `taps` [rows, length, 3 · dim] and `logits` [rows, length, vocabulary]."""

    taps: Tensor
    logits: Tensor


@torch.inference_mode()
def look(target: LlamaForCausalLM, ids: Tensor) -> Seen:
    """The target's outputs for a batch."""
    taps: dict[int, Tensor] = {}
    hooks = [target.model.layers[tap].register_forward_hook(_keeps(taps, tap)) for tap in TAPS]
    try:
        logits = target(input_ids=ids, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    return Seen(torch.cat([taps[tap] for tap in TAPS], dim=-1), logits.float())


class Head(nn.Module):
    """One layer over embedding and state side by side, and a head over `kept`, the ids of the tokens it knows."""

    def __init__(self, target: LlamaForCausalLM, kept: Tensor) -> None:
        super().__init__()
        self.config = shape(target.config)
        dim = self.config.hidden_size
        self.fc = nn.Linear(len(TAPS) * dim, dim, bias=False)
        self.midlayer = Midlayer(self.config)
        self.norm = LlamaRMSNorm(dim, self.config.rms_norm_eps)
        self.lm_head = nn.Linear(dim, len(kept), bias=False)
        self.register_buffer("kept", kept, persistent=False)
        self.lm_head.weight.data.copy_(target.lm_head.weight.data[kept])
        self.norm.weight.data.copy_(target.model.norm.weight.data)

    def unroll(self, embedded: Tensor, taps: Tensor) -> Iterator[Tensor]:
        """For each step the logits [rows, length, kept] of row j: of the token after that whose embedding is read."""
        hidden = self.fc(taps)
        rotary = self.midlayer.rotary(embedded)
        past: list[tuple[Tensor, Tensor]] = []
        for step in range(STEPS):
            if step:
                hidden = later(hidden, 1, dim=1)
            hidden = self.midlayer(embedded, hidden, rotary, past)
            yield self.lm_head(self.norm(hidden))


class Midlayer(nn.Module):
    """The layer: attention over the pair, then the usual MLP."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = LlamaRMSNorm(dim, eps)
        self.hidden_norm = LlamaRMSNorm(dim, eps)
        self.self_attn = PairAttention(config)
        self.post_attention_layernorm = LlamaRMSNorm(dim, eps)
        self.mlp = LlamaMLP(config)
        self._rotary = LlamaRotaryEmbedding(config)

    def rotary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(x.shape[1])[None]
        cos, sin = self._rotary(x, positions)
        return cos, sin

    def forward(
        self, embedded: Tensor, hidden: Tensor, rotary: tuple[Tensor, Tensor], past: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        pair = torch.cat((self.input_layernorm(embedded), self.hidden_norm(hidden)), dim=-1)
        x = hidden + self.self_attn(pair, rotary, past)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class PairAttention(nn.Module):
    """Attention of the rows of a step: over the keys of step 0 before it, then one key of each step since."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        inputs = 2 * config.hidden_size
        self.q_proj = nn.Linear(inputs, self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(inputs, self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(inputs, self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, config.hidden_size, bias=False)

    def forward(self, pair: Tensor, rotary: tuple[Tensor, Tensor], past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """`past` are keys and values of the steps before, to which those of this step are added."""
        q, k = apply_rotary_pos_emb(self._split(self.q_proj(pair)), self._split(self.k_proj(pair)), *rotary)
        again = self.heads // self.kv_heads
        past.append((k.repeat_interleave(again, dim=1), self._split(self.v_proj(pair)).repeat_interleave(again, dim=1)))
        step, length = len(past) - 1, pair.shape[1]
        first, *others = past
        before = torch.ones(length, length, dtype=torch.bool).tril(-step)
        scores = [(q @ first[0].transpose(-1, -2)).masked_fill(~before, float("-inf"))]
        shifted = [(later(k, step - 1 - i, dim=2), later(v, step - 1 - i, dim=2)) for i, (k, v) in enumerate(others)]
        scores += [(q * k).sum(-1, keepdim=True) for k, _ in shifted]
        share = (torch.cat(scores, dim=-1).float() * self.dim**-0.5).softmax(dim=-1).to(q.dtype)
        out = share[..., :length] @ first[1]
        for i, (_, v) in enumerate(shifted):
            out = out + share[..., length + i : length + i + 1] * v
        joined: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return joined

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.dim)).transpose(1, 2)


def shape(target: LlamaConfig) -> LlamaConfig:
    """A layer as wide as the target's."""
    return LlamaConfig(
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_hidden_layers=1,
        num_attention_heads=target.num_attention_heads,
        num_key_value_heads=target.num_key_value_heads,
        head_dim=target.head_dim,
        max_position_embeddings=target.max_position_embeddings,
        rms_norm_eps=target.rms_norm_eps,
        rope_parameters=dict(target.rope_parameters),
        bos_token_id=None,
        eos_token_id=target.eos_token_id,
        tie_word_embeddings=False,
    )


def later(x: Tensor, by: int, *, dim: int) -> Tensor:
    """What is at j comes to j + by; zeros before."""
    if not by:
        return x
    return torch.cat((torch.zeros_like(x.narrow(dim, 0, by)), x.narrow(dim, 0, x.shape[dim] - by)), dim=dim)


def loss_of(head: Head, target: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, list[float]]:
    """The loss towards the target's distribution over all steps, and the share of drafts that stand, by position."""
    seen = look(target, ids)
    with torch.no_grad():
        embedded = target.model.embed_tokens(ids[:, 1:-1])
        wanted = seen.logits[:, 1:-1]  # of the token after that whose embedding is read
        likely, best = wanted.softmax(dim=-1)[..., head.kept], wanted.argmax(dim=-1)
    loss, marks = torch.zeros(()), []
    stands = torch.ones_like(best, dtype=torch.bool)
    for step, logits in enumerate(head.unroll(embedded, seen.taps[:, :-2].clone())):
        each = -(likely * logits.float().log_softmax(dim=-1)).sum(-1)
        weight = weights[:, 2:].clone()
        weight[:, :step] = 0
        loss = loss + FADING**step * (each * weight).sum() / weight.sum().clamp(min=1e-6)
        stands = (later(stands, 1, dim=1) if step else stands) & (head.kept[logits.argmax(dim=-1)] == best)
        counted = weight >= 1  # answers
        marks.append(float((stands & counted).sum() / counted.sum().clamp(min=1)))
    return loss, marks


def export(head: Head, target: LlamaForCausalLM, folder: Path) -> None:
    """Writes config.json and the weights in bfloat16, with the differences that lead to the target's ids."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in head.state_dict().items()}
    tensors["d2t"] = head.kept - torch.arange(len(head.kept))
    known = torch.zeros(target.config.vocab_size, dtype=torch.bool)
    known[head.kept] = True
    tensors["t2d"] = known
    unfinished = folder / "model.safetensors.new"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.chmod(0o644)
    unfinished.replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(head), indent=2) + "\n", encoding="utf-8")


def _config(head: Head) -> dict[str, object]:
    return {
        **head.config.to_diff_dict(),
        "architectures": ["LlamaForCausalLMEagle3"],
        "dtype": "bfloat16",
        "draft_vocab_size": len(head.kept),
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(TAPS), "use_aux_hidden_state": True},
    }


def _keeps(taps: dict[int, Tensor], tap: int) -> Callable[[nn.Module, object, Tensor | tuple[Tensor, ...]], None]:
    """A hook that keeps what a layer gives."""

    def keep(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        taps[tap] = output if isinstance(output, Tensor) else output[0]

    return keep
