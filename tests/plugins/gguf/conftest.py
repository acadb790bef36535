"""Tiny models of transformers as GGUF files, written with the gguf package under the names that it has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter

Types: TypeAlias = Callable[[str], Type]

# Where blocks have their scales, in bytes, and how large these are for weights of about 0.2.
SCALES: Mapping[Type, Mapping[int, float]] = {
    Type.Q2_K: {80: 0.02, 82: 0.02},
    Type.Q3_K: {108: 0.005},
    Type.Q4_K: {0: 0.0008, 2: 0.006},
    Type.Q5_K: {0: 0.0004, 2: 0.006},
    Type.Q6_K: {208: 0.0001},
    Type.IQ4_XS: {0: 0.0001},
}
PAIRS = ("llama", "granite", "olmo")  # whose rotary pairs lie side by side
TURNED = ("gpt-oss", "llama4")  # whose experts have inputs first
JOINED = ("attn_k_b", "attn_v_b")  # which become one weight in float32
OFFSET = ("gemma2", "gemma3")  # whose norms are larger by one


def packed(weight: npt.NDArray[np.float32], type: Type) -> npt.NDArray[Any]:
    """The rows of a weight in a type; of types that gguf cannot write, others of about that size."""
    if type not in SCALES:
        return gguf.quants.quantize(weight, type)
    values, size = gguf.GGML_QUANT_SIZES[type]
    generator = np.random.default_rng(weight.size)
    blocks = generator.integers(0, 256, (*weight.shape[:-1], weight.shape[-1] // values, size), dtype=np.uint8)
    for offset, scale in SCALES[type].items():
        blocks[..., offset : offset + 2] = np.array([scale], dtype=np.float16).view(np.uint8)
    return blocks.reshape(*weight.shape[:-1], -1)


def paired(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of heads whose rotary pairs are put side by side."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class Writer:
    """Writes a model, and puts what is read back of it into the model itself."""

    def __init__(self, path: Path, model: Any, architecture: str, types: Types, unpacked: torch.dtype) -> None:
        self.model, self.config, self.architecture, self.types = model, model.config, architecture, types
        self.unpacked = unpacked
        self.file = GGUFWriter(path, architecture)
        number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
        self.names = gguf.get_tensor_name_map(number, self.config.num_hidden_layers)

    def write(self, metadata: Mapping[str, Any]) -> None:
        self.split = "attention.key_length" not in metadata or self.architecture != "deepseek2"
        self.sizes()
        for key, value in metadata.items():
            self.add(key, value)
        self.tokenizer()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                self.parameter(name, parameter)
            for name, buffer in self.model.named_buffers():
                if name.endswith("e_score_correction_bias"):
                    self.tensor(f"{self.layer(name)}.exp_probs_b.bias", buffer)
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()

    def add(self, key: str, value: Any) -> None:
        name = f"{self.architecture}.{key}"
        if isinstance(value, bool):
            self.file.add_bool(name, value)
        elif isinstance(value, list):
            self.file.add_array(name, value)
        elif isinstance(value, str):
            self.file.add_string(name, value)
        else:
            (self.file.add_float32 if isinstance(value, float) else self.file.add_uint32)(name, value)

    def sizes(self) -> None:
        config = self.config
        self.add("context_length", config.max_position_embeddings)
        self.add("embedding_length", config.hidden_size)
        self.add("block_count", config.num_hidden_layers)
        self.add("feed_forward_length", config.intermediate_size)
        self.add("attention.head_count", config.num_attention_heads)
        self.add("attention.head_count_kv", config.num_key_value_heads)
        if getattr(config, "head_dim", None):
            self.add("attention.key_length", config.head_dim)
        if getattr(config, "rms_norm_eps", None):
            self.add("attention.layer_norm_rms_epsilon", float(config.rms_norm_eps))
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
        if theta:
            self.add("rope.freq_base", float(theta))

    def tokenizer(self) -> None:
        self.file.add_tokenizer_model("gpt2")
        self.file.add_tokenizer_pre("gpt-2")
        self.file.add_token_list([f"t{i}" for i in range(self.config.vocab_size)])
        self.file.add_token_types([1] * self.config.vocab_size)
        self.file.add_token_merges(["t 0"])
        self.file.add_eos_token_id(1)

    def parameter(self, name: str, parameter: torch.Tensor) -> None:
        config, base = self.config, name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            alternating = self.architecture == "gpt-oss"
            whole = parameter.transpose(1, 2) if self.architecture in TURNED else parameter
            gate = whole[:, ::2] if alternating else whole[:, : whole.shape[1] // 2]
            up = whole[:, 1::2] if alternating else whole[:, whole.shape[1] // 2 :]
            for part, tensor in (("gate", gate), ("up", up)):
                self.tensor(f"{self.layer(name)}.ffn_{part}_exps.weight", tensor)
            return
        if name.endswith("experts.gate_up_proj_bias"):
            self.tensor(f"{self.layer(name)}.ffn_gate_exps.bias", parameter[:, ::2])
            self.tensor(f"{self.layer(name)}.ffn_up_exps.bias", parameter[:, 1::2])
            return
        if name.endswith("experts.down_proj_bias"):
            self.tensor(f"{self.layer(name)}.ffn_down_exps.bias", parameter)
            return
        if name.endswith("experts.down_proj"):
            down = parameter.transpose(1, 2) if self.architecture in TURNED else parameter
            self.tensor(f"{self.layer(name)}.ffn_down_exps.weight", down)
            return
        if name.endswith("kv_b_proj.weight") and self.split:
            heads, rows = config.num_attention_heads, config.qk_nope_head_dim
            keys, values = parameter.view(heads, -1, parameter.shape[1]).split([rows, config.v_head_dim], dim=1)
            self.tensor(f"{self.layer(name)}.attn_k_b.weight", keys.transpose(1, 2))
            self.tensor(f"{self.layer(name)}.attn_v_b.weight", values)
            return
        if name.endswith("sinks"):
            self.tensor(f"{self.layer(name)}.attn_sinks.weight", parameter)
            return
        new = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, f"gguf has no name for {name}"
        heads = None
        if self.architecture in PAIRS and base.endswith(("q_proj", "k_proj")):
            heads = config.num_attention_heads if base.endswith("q_proj") else config.num_key_value_heads
        self.tensor(new, parameter, heads, 1.0 if self.architecture in OFFSET and "norm" in name else 0.0)

    def layer(self, name: str) -> str:
        return f"blk.{name.split('.layers.')[1].split('.')[0]}"

    def tensor(self, name: str, tensor: torch.Tensor, heads: int | None = None, offset: float = 0.0) -> None:
        """Adds what a view of a parameter holds, and sets the view to what comes back of it."""
        values = np.ascontiguousarray(tensor.numpy())
        type = Type.F32 if values.ndim == 1 or name.endswith(".bias") else self.types(name)
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[type][0]:
            type = Type.Q5_0  # as llama.cpp does with rows of other sizes
        if type == Type.F32:
            data: npt.NDArray[Any] = values + np.float32(offset)
        else:
            data = packed(values, type)
            decoded = torch.from_numpy(gguf.quants.dequantize(data, type).reshape(values.shape))
            tensor.copy_(decoded if type == Type.F16 or name.split(".")[-2] in JOINED else decoded.to(self.unpacked))
        self.file.add_tensor(name, data if heads is None else paired(data, heads), raw_dtype=type)


@pytest.fixture
def write_gguf() -> Callable[..., None]:
    """Writes a model of transformers: (path, model, architecture, types, metadata, unpacked).

    The model gets the weights that are read back, rounded to the type `unpacked`.
    """

    def write(
        path: Path,
        model: Any,
        architecture: str,
        types: Types,
        metadata: Mapping[str, Any] = {},
        unpacked: torch.dtype = torch.float32,
    ) -> None:
        Writer(path, model, architecture, types, unpacked).write(metadata)

    return write
