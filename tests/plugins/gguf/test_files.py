"""Which GGUF files are read, alone, split, of several, beside a config.json; and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFWriter
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from maxserve.core.config import resolve
from maxserve.core.interfaces.errors import MaxserveError, ModelError
from maxserve.core.interfaces.weight_format import WeightQuery
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.gguf.files import Gguf
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config

PROMPT = list(range(5, 25))


@pytest.fixture(scope="module")
def model() -> Any:
    return randomised(ArchitectureChecks.reference(tiny_config("LlamaForCausalLM", num_hidden_layers=2)))


@pytest.fixture
def host() -> PluginHost:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def plain(name: str) -> Type:
    return Type.F32


@pytest.fixture
def tiny(model: Any, write_gguf: Callable[..., None], tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    write_gguf(tmp_path / "model" / "tiny.gguf", model, "llama", plain)
    return tmp_path / "model" / "tiny.gguf"


def tokens(served: Served) -> list[int]:
    return served.answers([PROMPT], 8)[0].tokens


def test_a_file_its_folder_and_its_weights_are_one_model(
    tiny: Path, model: Any, host: PluginHost, tmp_path: Path
) -> None:
    expected = continuation(model, PROMPT, 8).tokens
    assert tokens(Served(tiny, host)) == expected
    assert tokens(Served(tiny.parent, host)) == expected
    model.save_pretrained(tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    assert tokens(Served(tmp_path / "own", host, weight_path=(str(tiny),))) == expected


def test_weights_alone_name_their_model(tiny: Path, host: PluginHost) -> None:
    settings = resolve({"weight_path": (str(tiny),), "devices": "cpu"}, environ={}, sections=host.plugin_sections())
    files = resolve_model(settings.model, host, progress=NullProgress())
    assert files.weights == (str(tiny),)
    assert files.architecture == "LlamaForCausalLM"


def split(path: Path, folder: Path, parts: int) -> list[Path]:
    """The file in several, of which the first has the metadata."""
    reader = GGUFReader(path)
    files = [folder / f"tiny-{i + 1:05}-of-{parts:05}.gguf" for i in range(parts)]
    for i, file in enumerate(files):
        writer = GGUFWriter(file, "llama")
        if i:
            writer.kv_data[0].pop("general.architecture")
        else:
            for field in reader.fields.values():
                if not field.name.startswith(("GGUF.", "general.architecture")):
                    kind = field.types[0]
                    sub = field.types[-1] if len(field.types) > 1 else None
                    writer.add_key_value(field.name, field.contents(), kind, sub)
        for tensor in reader.tensors[i::parts]:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return files


def test_a_split_model_is_one_model(tiny: Path, model: Any, host: PluginHost, tmp_path: Path) -> None:
    (folder := tmp_path / "split").mkdir()
    files = split(tiny, folder, 3)
    expected = continuation(model, PROMPT, 8).tokens
    for named in (folder, files[0], files[1]):
        assert tokens(Served(named, host)) == expected
    files[2].unlink()
    for named in (folder, files[0]):
        with pytest.raises(ModelError, match=r"lacks tiny-00003-of-00003.gguf of the 3 files of a model"):
            Served(named, host)


def chosen(names: list[str], encoding: str | None = None) -> list[str]:
    query = WeightQuery(ref="org/repo", names=names, fetch=lambda name: name, encoding=encoding)
    return list(Gguf().choose(query))


def test_of_several_models_the_encoding_chooses() -> None:
    names = ["m-Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-F16.gguf", "imatrix.gguf", "README.md"]
    assert chosen(names, "q8_0") == ["m-Q8_0.gguf"]
    assert chosen(names, "q4_k") == ["m-Q4_K_M.gguf"]
    assert chosen(["m.gguf", "mmproj-m.gguf", "README.md"]) == ["m.gguf"]
    assert chosen(["README.md"]) == []
    with pytest.raises(ModelError, match=r"several models in GGUF files: m-Q4_K_M.gguf, m-Q4_K_S.gguf, m-Q8_0.gguf"):
        chosen(names)


def test_safetensors_come_first(tiny: Path, model: Any, host: PluginHost) -> None:
    model.save_pretrained(tiny.parent)
    settings = resolve({"model_path": str(tiny.parent), "devices": "cpu"}, environ={}, sections=host.plugin_sections())
    files = resolve_model(settings.model, host, progress=NullProgress())
    assert [Path(file).name for file in files.weights] == ["model.safetensors"]


def test_the_encoding_is_that_of_the_file(
    model: Any, write_gguf: Callable[..., None], host: PluginHost, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model, "llama", lambda name: Type.Q8_0)
    options = {"model_path": str(path), "devices": "cpu"}

    def found(encoding: str | None) -> Any:
        typed = options if encoding is None else {**options, "quantization_encoding": encoding}
        settings = resolve(typed, environ={}, sections=host.plugin_sections())
        return resolve_model(settings.model, host, progress=NullProgress())

    assert found(None).config["quantization_config"] == {"quant_method": "gguf", "encoding": "q8_0"}
    for other in ("q4_k", "bfloat16"):
        with pytest.raises(ModelError, match=rf"is stored as q8_0, not as the {other} of --quantization-encoding"):
            found(other)


def metadata_written(path: Path, metadata: Mapping[str, Any], model: Any, write_gguf: Callable[..., None]) -> Any:
    write_gguf(path, model, "llama", plain, metadata)
    return json.loads(Gguf().model_files(str(path))["config.json"])


def with_tensor(path: Path, target: Path, name: str, numbers: Any) -> None:
    """A copy of the file with one more tensor of float32."""
    reader = GGUFReader(path)
    writer = GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.add_tensor(name, np.array(numbers, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_factors_of_llama_3_are_its_scaling(tiny: Path, factor: float, tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    shape = {"hidden_size": 64, "num_attention_heads": 1, "head_dim": 64, "rope_theta": 10000.0}
    config = AutoConfig.for_model("llama", **shape, rope_parameters={**scaling, "rope_theta": 10000.0})
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    base = 1 / 10000.0 ** (torch.arange(0, 64, 2) / 64)
    with_tensor(tiny, tmp_path / "long.gguf", "rope_freqs.weight", (base / stretched).numpy())
    given = json.loads(Gguf().model_files(str(tmp_path / "long.gguf"))["config.json"])
    assert given["rope_scaling"] == scaling
    steep = {**scaling, "high_freq_factor": 1.0}  # as Llama 4 has it
    divisors = [factor if 2 * math.pi * 10000.0 ** (i / 32) > 8192 else 1.0 for i in range(32)]
    with_tensor(tiny, tmp_path / "steep.gguf", "rope_freqs.weight", divisors)
    assert json.loads(Gguf().model_files(str(tmp_path / "steep.gguf"))["config.json"])["rope_scaling"] == steep
    with_tensor(tiny, tmp_path / "other.gguf", "rope_freqs.weight", np.linspace(1, 3, 32))
    with pytest.raises(ModelError, match=r"rope_freqs.weight is not how Llama 3 stretches its rope"):
        Gguf().model_files(str(tmp_path / "other.gguf"))


def test_scalings_by_keys(model: Any, write_gguf: Callable[..., None], tmp_path: Path) -> None:
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    config = metadata_written(tmp_path / "a.gguf", linear, model, write_gguf)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    with pytest.raises(ModelError, match=r"rope.scaling.type 'odd' is not known"):
        metadata_written(tmp_path / "b.gguf", {"rope.scaling.type": "odd"}, model, write_gguf)


def test_numbers_are_those_of_the_model(tiny: Path, model: Any) -> None:
    config = json.loads(Gguf().model_files(str(tiny))["config.json"])
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
        assert config[key] == getattr(model.config, key)
    assert config["tie_word_embeddings"] is False
    assert math.isclose(config["rms_norm_eps"], model.config.rms_norm_eps, rel_tol=1e-6)


def test_what_is_no_model_is_named(tiny: Path, host: PluginHost, tmp_path: Path) -> None:
    def written(name: str, architecture: str, **strings: str) -> Path:
        writer = GGUFWriter(tmp_path / name, architecture)
        for key, value in strings.items():
            writer.add_string(key.replace("_", "."), value)
        writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    with pytest.raises(
        MaxserveError, match=r"architecture 'mamba' are not read from GGUF files; read are bert, deepseek2"
    ):
        Served(written("mamba.gguf", "mamba"), host)
    with pytest.raises(MaxserveError, match=r"is of general.type 'adapter', no model"):
        Served(written("adapter.gguf", "llama", general_type="adapter"), host)
    with pytest.raises(MaxserveError, match=r"llama.block_count is missing"):
        Served(written("empty.gguf", "llama"), host)
    with_tensor(tiny, tmp_path / "more.gguf", "blk.0.attn_gate.weight", np.zeros((4, 4)))
    with pytest.raises(ModelError, match=r"a model of architecture llama has no blk.0.attn_gate.weight"):
        Served(tmp_path / "more.gguf", host)


def test_a_type_that_is_not_read_is_named(tiny: Path, host: PluginHost, tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "iq.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.zeros((2, 66), dtype=np.uint8), raw_dtype=Type.IQ2_XXS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert gguf.GGML_QUANT_SIZES[Type.IQ2_XXS] == (256, 66)
    with pytest.raises(ModelError, match=r"token_embd.weight is of type IQ2_XXS, which is not read; read are BF16"):
        Gguf().open(str(tmp_path / "iq.gguf"), {})
