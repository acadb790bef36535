"""A writer of Llama and Qwen3 folders as GGUF files, in their own precision, for peers that read no other format.

`PYTHON benchmarks/gguf_file.py FOLDER FILE`, where PYTHON has the packages gguf and numpy; maxserve is not needed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

KINDS = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen3": gguf.MODEL_ARCH.QWEN3}


def tensors(file: Path) -> Iterator[tuple[str, str, np.ndarray[Any, Any]]]:
    """Name, kind and data of everything in a safetensors file; 16-bit data as uint16."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, np.uint8, "r", offset=8 + length)
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            dtype = np.float32 if entry["dtype"] == "F32" else np.uint16
            yield name, entry["dtype"], data[begin:end].view(dtype).reshape(entry["shape"])


def interleaved(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of a query or key projection in the order in which Llama's GGUF keeps rotary pairs: side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def write_tokenizer(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    """A byte-level BPE; the split into words is GPT-2's."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    special = {entry["id"]: entry["content"] for entry in tokenizer["added_tokens"]}
    by_id = {id: token for token, id in tokenizer["model"]["vocab"].items()} | special
    ids = range(config["vocab_size"])
    unused, normal, control = gguf.TokenType.UNUSED, gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id.get(id, f"[unused{id}]") for id in ids])
    writer.add_token_types([control if id in special else normal if id in by_id else unused for id in ids])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    eos = config["eos_token_id"]
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(eos[0] if isinstance(eos, list) else eos)
    writer.add_add_bos_token(False)


def write_weights(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any], arch: gguf.MODEL_ARCH) -> None:
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for file in sorted(folder.glob("*.safetensors")):
        for name, kind, data in tensors(file):
            new = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if new is None:
                raise SystemExit(f"{file} holds {name}, which has no place in a GGUF of {config['model_type']}")
            part = name.split(".")[-2]
            if config["model_type"] == "llama" and part in heads:
                data = interleaved(data, heads[part])
            if data.ndim == 1 and kind == "BF16":  # norms are read as float32
                kind, data = "F32", (data.astype(np.uint32) << 16).view(np.float32)
            shape = data.shape if kind == "F32" else (*data.shape[:-1], data.shape[-1] * 2)
            raw = data if kind == "F32" else np.ascontiguousarray(data).view(np.uint8).reshape(shape)
            writer.add_tensor(new, np.ascontiguousarray(raw), raw_dtype=KINDS[kind])


def main() -> None:
    folder, file = Path(sys.argv[1]), sys.argv[2]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in ARCHITECTURES:
        raise SystemExit(f"{folder}: {config['model_type']} is not among {', '.join(ARCHITECTURES)}")
    writer = gguf.GGUFWriter(file, config["model_type"])
    write_shape(writer, config)
    write_tokenizer(writer, folder, config)
    write_weights(writer, folder, config, ARCHITECTURES[config["model_type"]])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
