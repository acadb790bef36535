from __future__ import annotations

import json
from typing import ClassVar

import torch
from ia3_adapters import Config
from safetensors.torch import save_file

from maxserve.testing import AdapterChecks

PARTS = {"self_attn.k_proj": (32, 1), "self_attn.v_proj": (32, 1), "mlp.down_proj": (1, 96)}


def write(folder, seed, peft_type="IA3", parts=PARTS):
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"base_model.model.model.layers.0.{name}.ia3_l": 1 + torch.randn(shape, generator=generator)
        for name, shape in parts.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": peft_type}))
    return str(folder)


class TestIA3(AdapterChecks):
    adapter = "ia3"
    sections: ClassVar = {Config: Config(slots=3)}

    def adapters(self, folder):
        self.folder = folder
        both = {"mlp.up_proj": (96, 1), "mlp.down_proj": (1, 96)}  # of one outcome
        return {"one": write(folder / "one", 1), "two": write(folder / "two", 2, parts=both)}

    def broken(self, folder):
        short, other = {"self_attn.k_proj": (31, 1)}, {"self_attn.rotary": (32, 1)}
        inputs = {"self_attn.o_proj": (1, 64)}
        wrong = [write(folder / f"wrong-{i}", i, parts=parts) for i, parts in enumerate((short, other, inputs))]
        nan = {"self_attn.k_proj": (32, 1)}
        wrong.append(write(folder / "nan", 5, parts=nan))
        vectors = {"base_model.model.model.layers.0.self_attn.k_proj.ia3_l": torch.full((32, 1), float("nan"))}
        save_file(vectors, folder / "nan" / "adapter_model.safetensors")
        return [*wrong, write(folder / "lora", 6, peft_type="LORA"), str(folder / "nothing")]

    def expected(self, name, projection, x, out):
        from safetensors.torch import load_file

        found = load_file(self.folder / name / "adapter_model.safetensors")
        vectors = {key.split(".")[-2]: vector.flatten() for key, vector in found.items()}
        vectors["up_proj"] = vectors.get("up_proj", torch.ones(96)) * vectors.pop("down_proj")
        if "down_proj" in projection.name or "o_proj" in projection.name:
            return out
        parts = [vectors.get(part, torch.ones(size)) for part, size in projection.parts.items()]
        return out * torch.cat(parts)
