"""Layers that predict further tokens, against the layers of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RMSNorm,
    DeepseekV3RotaryEmbedding,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RMSNorm, Qwen2RotaryEmbedding

from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.draft_head import DraftHeadCases, DraftHeadChecks, DraftHeadQuirkChecks, HeadReference
from maxserve.testing.tiny_configs import tiny_config


def write_target(folder: Path, family: str, **changes: Any) -> Any:
    config = tiny_config(family, architectures=[family], **changes)
    model = randomised(ArchitectureChecks.reference(config))
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


def add_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """More tensors in the checkpoint of a folder."""
    file = folder / "model.safetensors"
    save_file({**load_file(file), **{name: t.contiguous() for name, t in tensors.items()}}, file, {"format": "pt"})


def causal_layer(layer: nn.Module, rotary: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A layer of transformers over one whole text, [n, dim]."""
    n = len(x)
    positions = torch.arange(n)[None]
    mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
    out = layer(x[None], attention_mask=mask, position_ids=positions, position_embeddings=rotary(x[None], positions))
    found: torch.Tensor = (out[0] if isinstance(out, tuple) else out)[0]
    return found


class NextN(nn.Module):
    """DeepSeek's layer for the token after next, by its own names; `layer` is one of a mixture."""

    def __init__(self, layer: nn.Module, rotary: nn.Module, dim: int) -> None:
        super().__init__()
        self.enorm, self.hnorm = DeepseekV3RMSNorm(dim), DeepseekV3RMSNorm(dim)
        self.eh_proj = nn.Linear(2 * dim, dim, bias=False)
        self.shared_head = nn.ModuleDict({"norm": DeepseekV3RMSNorm(dim)})
        self.layer, self.rotary = layer, rotary

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        own = self.state_dict()
        return {prefix + name.removeprefix("layer."): t for name, t in own.items() if not name.startswith("rotary")}

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1))
        out: torch.Tensor = self.shared_head["norm"](causal_layer(self.layer, self.rotary, x))
        return out


def split_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each expert's projections by themselves, as DeepSeek writes them."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for i, both in enumerate(tensor):
                gate, up = both.chunk(2)
                stem = name.removesuffix("gate_up_proj") + str(i)
                found[f"{stem}.gate_proj.weight"], found[f"{stem}.up_proj.weight"] = gate.clone(), up.clone()
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            found |= {f"{stem}{i}.down_proj.weight": each.clone() for i, each in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


class DeepseekV3(DraftHeadCases):
    """NextN inside the checkpoint, behind the model's layers."""

    speculator = "mtp"
    family: ClassVar[str] = "DeepseekV3ForCausalLM"
    layers: ClassVar[int] = 2
    changes: ClassVar[dict[str, Any]] = {}

    def head(self, config: Any) -> Any:
        """The head, with the same random weights every time."""
        layer = DeepseekV3DecoderLayer(config, self.layers)
        return randomised(NextN(layer, DeepseekV3RotaryEmbedding(config), config.hidden_size))

    def write_model(self, folder: Path) -> None:
        target = write_target(folder, self.family, num_hidden_layers=self.layers, **self.changes)
        self.save_head(folder, self.head(target.config), target)

    def save_head(self, folder: Path, head: Any, target: Any) -> None:
        tensors = split_experts(head.tensors(f"model.layers.{self.layers}."))
        tensors |= self.copies(target, f"model.layers.{self.layers}.")
        add_tensors(folder, tensors)

    @staticmethod
    def copies(target: Any, prefix: str) -> dict[str, torch.Tensor]:
        return {
            prefix + "embed_tokens.weight": target.model.embed_tokens.weight.detach().clone(),
            prefix + "shared_head.head.weight": target.lm_head.weight.detach().clone(),
        }

    def reference(self, folder: Path) -> HeadReference:
        target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
        head = self.head(config)
        return HeadReference(
            states=lambda ids: target(ids, output_hidden_states=True).hidden_states,
            combine=lambda states: states[-1],
            forward=lambda ids, hidden: head(target.model.embed_tokens(ids), hidden),
            logits=target.lm_head,
        )


class TestDeepseekV3(DeepseekV3, DraftHeadChecks):
    pass


class TestDeepseekV3Of61Layers(DeepseekV3, DraftHeadQuirkChecks):
    """The head is layer 61, as in the checkpoints that are published; 3 layers are dense."""

    layers = 61
    tokens = 8
    prompts = ([5, 6, 7] * 7,)


class Exported(DeepseekV3):
    """The head alone, as layer 0 of a folder of its own."""

    exported: ClassVar[str] = "DeepseekV3ForCausalLMNextN"  # the class that its config.json names

    def options_for(self, folder: Path) -> dict[str, Any]:
        return {"draft_model_path": str(folder / "head")}

    def save_head(self, folder: Path, head: Any, target: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        changes = {"architectures": [self.exported], "num_hidden_layers": 1}
        (folder / "head").mkdir()
        (folder / "head" / "config.json").write_text(json.dumps({**config, **changes}))
        tensors = split_experts(head.tensors("model.layers.0.")) | self.copies(target, "model.layers.0.")
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "head" / "model.safetensors")


class TestDeepseekV3Exported(Exported, DraftHeadQuirkChecks):
    pass


class MiMoLayer(nn.Module):
    """MiMo's layer for the token after next, by its own names."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        dim = config.hidden_size
        self.token_layernorm, self.hidden_layernorm = Qwen2RMSNorm(dim), Qwen2RMSNorm(dim)
        self.input_proj = nn.Linear(2 * dim, dim, bias=False)
        self.final_layernorm = Qwen2RMSNorm(dim)
        self.layer = Qwen2DecoderLayer(config, 0)
        self.rotary = Qwen2RotaryEmbedding(config)

    def tensors(self) -> dict[str, torch.Tensor]:
        own = {name.removeprefix("layer."): t for name, t in self.state_dict().items() if "rotary" not in name}
        return {f"model.mtp_layers.0.{name}": tensor for name, tensor in own.items()}

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = self.input_proj(torch.cat((self.hidden_layernorm(hidden), self.token_layernorm(embedded)), dim=-1))
        out: torch.Tensor = self.final_layernorm(causal_layer(self.layer, self.rotary, x))
        return out


class MiMo(DraftHeadCases):
    """`model.mtp_layers.0` beside a model that is a Qwen 2."""

    speculator = "mtp"

    def write_model(self, folder: Path) -> None:
        target = write_target(folder, "Qwen2ForCausalLM")
        config = json.loads((folder / "config.json").read_text())
        config |= {"architectures": ["MiMoForCausalLM"], "num_nextn_predict_layers": 1}
        (folder / "config.json").write_text(json.dumps(config))
        head: Any = randomised(MiMoLayer(target.config))
        add_tensors(folder, head.tensors())

    def reference(self, folder: Path) -> HeadReference:
        target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        head = randomised(MiMoLayer(AutoConfig.from_pretrained(folder, attn_implementation="eager")))
        return HeadReference(
            states=lambda ids: target(ids, output_hidden_states=True).hidden_states,
            combine=lambda states: states[-1],
            forward=lambda ids, hidden: head(target.model.embed_tokens(ids), hidden),
            logits=target.lm_head,
        )


class TestMiMo(MiMo, DraftHeadChecks):
    pass
