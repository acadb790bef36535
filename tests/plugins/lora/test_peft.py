"""What cannot be served of PEFT's folders is refused by name, and nothing changes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from maxserve.core.interfaces.adapter import Projection
from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.plugins.lora.peft import read_adapter, read_scales
from maxserve.testing import AdapterChecks

CONFIG: Mapping[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
LAYER = "base_model.model.model.layers.0."
Tensors = dict[str, Tensor]


def factors(module: str, inputs: int, outputs: int, rank: int = 4, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed + inputs)
    down, up = torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)
    return {f"{LAYER}{module}.lora_A.weight": down, f"{LAYER}{module}.lora_B.weight": up}


def of_tables(rank: int = 4, seed: int = 0) -> Tensors:
    """Factors of the embedding and of the head."""
    generator = torch.Generator().manual_seed(seed)
    table, head = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
    shapes = {
        f"{table}.lora_embedding_A": (rank, 160),
        f"{table}.lora_embedding_B": (64, rank),
        f"{head}.lora_A.weight": (rank, 64),
        f"{head}.lora_B.weight": (160, rank),
    }
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def usual(seed: int = 0) -> Tensors:
    return factors("self_attn.q_proj", 64, 64, seed=seed) | factors("mlp.down_proj", 96, 64, seed=seed)


def write(folder: Path, tensors: Mapping[str, Tensor] | None = None, **config: Any) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(dict(usual() if tensors is None else tensors), folder / "adapter_model.safetensors")
    return str(folder)


def with_tensor(name: str, tensor: Tensor) -> Tensors:
    return usual() | {name: tensor}


def without(name: str) -> Tensors:
    return {key: tensor for key, tensor in usual().items() if key != LAYER + name}


def changed(name: str, change: Callable[[Tensor], Tensor]) -> Tensors:
    return usual() | {LAYER + name: change(usual()[LAYER + name])}


def spoiled(value: float) -> Callable[[Tensor], Tensor]:
    def spoil(tensor: Tensor) -> Tensor:
        tensor[1, 1] = value
        return tensor

    return spoil


EXPERTS = "base_model.model.model.layers.1.mlp.experts"


def of_experts(experts: int = 4, rank: int = 4, outputs: int = 64, inner: str = "") -> Tensors:
    """Factors of down_proj of all experts, or of what the module is inside of another wrapper."""
    a, b = torch.ones(experts * rank, 32), torch.ones(outputs, experts * rank)
    return {f"{EXPERTS}{inner}.lora_A.weight": a, f"{EXPERTS}{inner}.lora_B.weight": b}


def of_expert(index: int, name: str, inputs: int, outputs: int) -> Tensors:
    a, b = torch.ones(4, inputs), torch.ones(outputs, 4)
    return {f"{EXPERTS}.{index}.{name}.lora_A.weight": a, f"{EXPERTS}.{index}.{name}.lora_B.weight": b}


A, B = "self_attn.q_proj.lora_A.weight", "self_attn.q_proj.lora_B.weight"
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "another kind": {"peft_type": "IA3"},
    "no kind": {"peft_type": None},
    "dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "bias of lora": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "modules_to_save": {"modules_to_save": ["lm_head"]},
    "trainable tokens": {"trainable_token_indices": [1, 2]},
    "trainable tokens by module": {"trainable_token_indices": {"embed_tokens": [1]}},
    "layer_replication": {"layer_replication": [[0, 2], [1, 3]]},
    "qalora": {"use_qalora": True},
    "bdlora": {"use_bdlora": {"target_modules_bd_a": ["q_proj"]}},
    "arrow": {"arrow_config": {"top_k": 2}},
    "alora": {"alora_invocation_tokens": [7]},
    "velora": {"velora_config": {"rank": 1}},
    "monteclora": {"monteclora_config": {"samples": 2}},
    "kasa": {"kasa_config": {"beta": 1}},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa with steps": {"init_lora_weights": "pissa_niter_16"},
    "olora": {"init_lora_weights": "olora"},
    "corda": {"init_lora_weights": "corda"},
    "loftq": {"init_lora_weights": "loftq"},
    "no rank": {"r": None},
    "rank 0": {"r": 0},
    "negative rank": {"r": -4},
    "rank of text": {"r": "4"},
    "rank of truth": {"r": True},
    "half a rank": {"r": 4.5},
    "alpha of text": {"lora_alpha": "8"},
    "alpha of nothing": {"lora_alpha": None},
    "alpha of hundreds of digits": {"lora_alpha": 10**400},
    "alpha beyond all factors": {"lora_alpha": 1e30},
    "rank of hundreds of digits": {"r": 10**400},
    "infinite alpha": {"lora_alpha": math.inf},
    "another rank": {"r": 8},
    "rank over the limit": {"r": 17},
    "pattern of ranks": {"rank_pattern": ["q_proj"]},
    "pattern of alphas": {"alpha_pattern": {"q_proj": "much"}},
    "pattern of another rank": {"rank_pattern": {"q_proj": 8}},
    "pattern that is no expression": {"rank_pattern": {"q_proj(": 4}},
    "pattern of many steps": {
        "rank_pattern": {"(" * 60 + ".*" + ")*" * 60 + "x" + ".*" * 9 + str(i): 4 for i in range(999)}
    },
    "pattern of counts": {"rank_pattern": {"((a?b?){999}){999}x": 4}},
    "pattern that looks ahead": {"rank_pattern": {"(?=q)q_proj": 4}},
    "long pattern": {"alpha_pattern": {"(q)" * 100: 4}},
}
TENSORS: Mapping[str, Callable[[], Tensors]] = {
    "nothing in it": dict,
    "not a number": lambda: changed(A, spoiled(math.nan)),
    "infinite": lambda: changed(B, spoiled(math.inf)),
    "one side": lambda: without(B),
    "the other side": lambda: without(A),
    "rank over the limit": lambda: factors("self_attn.q_proj", 64, 64, rank=32),
    "sides of two ranks": lambda: changed(A, lambda a: a[:3]),
    "inputs of another model": lambda: factors("self_attn.q_proj", 32, 64),
    "outputs of another model": lambda: factors("self_attn.q_proj", 64, 128),
    "whole weights": lambda: with_tensor(LAYER + "self_attn.q_proj.weight", torch.ones(64, 64)),
    "a bias": lambda: with_tensor(LAYER + "self_attn.q_proj.lora_B.bias", torch.ones(64)),
    "magnitudes": lambda: with_tensor(LAYER + "self_attn.q_proj.lora_magnitude_vector", torch.ones(64)),
    "a layer too many": lambda: {key.replace("layers.0", "layers.7"): value for key, value in usual().items()},
    "a module of another family": lambda: factors("attn.c_attn", 64, 192),
    "whole numbers": lambda: changed(A, lambda a: a.to(torch.int32)),
    "three axes": lambda: changed(A, lambda a: a[None]),
    "factors of an embedding for a projection": lambda: {
        LAYER + "self_attn.q_proj.lora_embedding_A": torch.ones(4, 64),
        LAYER + "self_attn.q_proj.lora_embedding_B": torch.ones(64, 4),
    },
    "factors of a projection for an embedding": lambda: {
        "base_model.model.model.embed_tokens.lora_A.weight": torch.ones(4, 160),
        "base_model.model.model.embed_tokens.lora_B.weight": torch.ones(64, 4),
    },
    "both kinds of factors": lambda: (
        usual()
        | {
            LAYER + "self_attn.q_proj.lora_embedding_A": torch.ones(4, 64),
            LAYER + "self_attn.q_proj.lora_embedding_B": torch.ones(64, 4),
        }
    ),
    "one side of an embedding": lambda: (
        usual() | {"base_model.model.model.embed_tokens.lora_embedding_B": torch.ones(64, 4)}
    ),
    "more tokens": lambda: of_tables() | {"base_model.model.model.embed_tokens.base_layer.weight": torch.ones(168, 64)},
    "more tokens in the factors": lambda: {
        name: torch.ones(4, 168) if name.endswith("embedding_A") else tensor for name, tensor in of_tables().items()
    },
    "a table without factors": lambda: with_tensor(
        "base_model.model.model.embed_tokens.base_layer.weight", torch.ones(160, 64)
    ),
    "a whole weight beside factors": lambda: with_tensor(
        LAYER + "self_attn.q_proj.base_layer.weight", torch.ones(64, 64)
    ),
    "experts of which nothing is said": of_experts,
    "experts within experts": lambda: (
        of_experts() | of_experts(inner=".base_layer") | of_experts(inner=2 * ".base_layer")
    ),
    "an expert too many": lambda: of_expert(4, "down_proj", 32, 64),
    "an expert of another size": lambda: of_expert(1, "down_proj", 64, 64),
    "a part that experts do not have": lambda: of_expert(1, "side_proj", 32, 64),
    "no rows": lambda: {LAYER + A: torch.empty(0, 64), LAYER + B: torch.empty(64, 0)},
    "one module twice": lambda: usual() | {key.replace("model.model.", "model."): v for key, v in usual().items()},
}


def no_folder(folder: Path) -> str:
    return str(folder / "not-there")


def a_file(folder: Path) -> str:
    folder.mkdir()
    (folder / "file").write_text("{}")
    return str(folder / "file")


def no_config(folder: Path) -> str:
    source = write(folder)
    (folder / "adapter_config.json").unlink()
    return source


def no_weights(folder: Path) -> str:
    source = write(folder)
    (folder / "adapter_model.safetensors").unlink()
    return source


def pickled(folder: Path) -> str:
    source = no_weights(folder)
    torch.save(usual(), folder / "adapter_model.bin")
    return source


def cut(folder: Path) -> str:
    source = write(folder)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return source


def cut_in_its_header(folder: Path) -> str:
    source = write(folder)
    (folder / "adapter_model.safetensors").write_bytes(save(usual())[:50])
    return source


def empty(folder: Path) -> str:
    source = write(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return source


def no_json(folder: Path) -> str:
    source = write(folder)
    (folder / "adapter_config.json").write_text("{'r': 4}")
    return source


def a_list(folder: Path) -> str:
    source = write(folder)
    (folder / "adapter_config.json").write_text("[]")
    return source


def dangling(folder: Path) -> str:
    source = no_weights(folder)
    (folder / "adapter_model.safetensors").symlink_to(folder / "gone")
    return source


def a_pipe(folder: Path) -> str:
    source = no_weights(folder)
    os.mkfifo(folder / "adapter_model.safetensors")
    return source


def linked(file: str) -> Callable[[Path], str]:
    """A folder with a file that is a link to that of another adapter."""

    def link(folder: Path) -> str:
        other, source = write(folder / "other"), write(folder / "own")
        (folder / "own" / file).unlink()
        (folder / "own" / file).symlink_to(os.path.join(other, file))
        return source

    link.__name__ = f"linked {file}"
    return link


def large_config(folder: Path) -> str:
    return write(folder, note="x" * (1 << 20))


def large_weights(folder: Path) -> str:
    return write(folder, with_tensor("more", torch.zeros(5 << 20)))


FOLDERS = (
    linked("adapter_config.json"),
    linked("adapter_model.safetensors"),
    large_config,
    large_weights,
    no_folder,
    a_file,
    no_config,
    no_weights,
    pickled,
    cut,
    cut_in_its_header,
    empty,
    no_json,
    a_list,
    dangling,
    a_pipe,
)


def broken_folders(folder: Path) -> dict[str, str]:
    made = {name: write(folder / f"config {name}", **config) for name, config in CONFIGS.items()}
    made |= {f"tensors {name}": write(folder / f"tensors {name}", make()) for name, make in TENSORS.items()}
    return made | {make.__name__: make(folder / make.__name__) for make in FOLDERS}


class TestLoRA(AdapterChecks):
    """Sixty and more broken adapters among it."""

    adapter = "lora"
    sections: ClassVar[dict[type[Any], Any]] = {LoRAOptions: LoRAOptions(enable_lora=True, max_num_loras=3)}
    tolerance = 2e-4  # of outcomes of about a hundred

    def adapters(self, folder: Path) -> Mapping[str, str]:
        if not (folder / "one").exists():
            write(folder / "one", usual(seed=1))
            others = factors("self_attn.k_proj", 64, 32, 8, 2) | factors("mlp.up_proj", 64, 96, 8, 2)
            write(folder / "other", others | of_tables(8, 2), r=8, use_rslora=True)
        return {name: str(folder / name) for name in ("one", "other")}

    def broken(self, folder: Path) -> Sequence[str]:
        made = list(broken_folders(folder / "broken").values())
        assert len(made) >= 60
        return made

    def expected(self, name: str, projection: Projection, x: Tensor, out: Tensor) -> Tensor | None:
        """The weights' changes, put together and multiplied."""
        tensors, scale = (usual(seed=1), 2.0) if name == "one" else ({}, 8 / math.sqrt(8))
        if name == "other":
            tensors = factors("self_attn.k_proj", 64, 32, 8, 2) | factors("mlp.up_proj", 64, 96, 8, 2) | of_tables(8, 2)
        if projection.kind in ("embedding", "head"):
            if name == "one":
                return out
            table, head = "base_model.model.model.embed_tokens.lora_embedding_", "base_model.model.lm_head.lora_"
            if projection.kind == "embedding":
                return out + scale * (tensors[f"{table}B"] @ tensors[f"{table}A"])[:, x].T
            return out + scale * (x @ tensors[f"{head}A.weight"].T @ tensors[f"{head}B.weight"].T)
        change, start = torch.zeros(projection.outputs, projection.inputs), 0
        module = projection.name.removeprefix("model.layers.0.")
        for part, size in (projection.parts or {module.rpartition(".")[2]: projection.outputs}).items():
            path = f"{LAYER}{module.rpartition('.')[0]}.{part}"
            if f"{path}.lora_A.weight" in tensors:
                change[start : start + size] = tensors[f"{path}.lora_B.weight"] @ tensors[f"{path}.lora_A.weight"]
            start += size
        return out + scale * (x @ change.T)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_refusal_names_the_key(name: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a", **CONFIGS[name])
    table = TestLoRA().table()
    with pytest.raises(RequestError) as raised:
        table.load("a", source)
    by_rank = ("another rank", "rank over the limit", "pattern of another rank")
    key = "rank" if name in by_rank else next(iter(CONFIGS[name]))
    assert key in str(raised.value), f"{raised.value} does not name {key}"
    assert raised.value.status == 400


@pytest.mark.parametrize(("base", "told"), [("acme/large", " (of acme/large)"), ("/home/me/large", ""), (None, "")])
def test_one_that_does_not_fit_says_which_model_it_is_for(base: str | None, told: str, tmp_path: Path) -> None:
    """Where that is a name: a path is one of the machine that it was trained on."""
    source = write(tmp_path / "a", factors("self_attn.q_proj", 32, 32), base_model_name_or_path=base)
    with pytest.raises(RequestError) as raised:
        TestLoRA().table().load("a", source)
    reason = "the factors of model.layers.0.self_attn.q_proj are for a weight [32, 32]; the model has [64, 64] there"
    assert str(raised.value) == f"the adapter {source!r}{told} cannot be served: {reason}"


def test_a_folder_that_is_not_there_is_404(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as raised:
        read_adapter(no_folder(tmp_path))
    assert raised.value.status == 404


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "lora_ga", None])
def test_inits_that_leave_the_base_model_alone_are_served(init: object) -> None:
    assert read_scales({**CONFIG, "init_lora_weights": init}).of("any.module") == (4, 2.0)


def test_patterns_hold_for_ends_of_names_and_for_expressions() -> None:
    patterns = {"rank_pattern": {"q_proj": 8, r"layers\.\d\.mlp\..*": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}}
    scales = read_scales({**CONFIG, **patterns})
    assert scales.of("model.layers.0.self_attn.q_proj") == (8, 1.0)
    assert scales.of("model.layers.1.mlp.up_proj") == (2, 16.0)
    assert scales.of("model.layers.0.self_attn.qq_proj") == (4, 2.0)


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", Path(write(tmp_path / "snapshots" / "abc"))
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    assert len(read_adapter(str(snapshot)).factors) == 2


def test_target_modules_are_not_matched(tmp_path: Path) -> None:
    """What was adapted is said by the tensors; an expression that takes years costs nothing."""
    source = write(tmp_path / "a", target_modules="(.*)*" * 20 + "x", exclude_modules="(a+)+b")
    assert len(read_adapter(source).factors) == 2


def test_a_pattern_that_is_no_expression_is_refused() -> None:
    with pytest.raises(ModelError, match="is no expression"):
        read_scales({**CONFIG, "rank_pattern": {"(": 2}}).of("x")


STACKED: Mapping[str, tuple[Tensors, list[str], str]] = {
    "too few experts": (of_experts(3), ["down_proj"], "factors for 3 weights; the model has 4"),
    "another size": (of_experts(outputs=48), ["experts.down_proj"], r"for a weight \[48, 32\]"),
    "biases": (of_experts(), ["experts.down_proj_bias"], "biases of experts stay as they are"),
    "more parameters than factors": (
        of_experts(),
        ["gate_up_proj", "down_proj"],
        "names down_proj, gate_up_proj of them",
    ),
    "parameters of another module": (of_experts(), ["other.down_proj"], "names none of them"),
    "a number of parameters": (of_experts(), 1, "target_parameters is 1; a list of names is expected"),
    "half an expert": (of_experts(1, 6), ["down_proj"], "are not of the rank 4"),
}


@pytest.mark.parametrize("name", STACKED)
def test_experts_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    tensors, parameters, reason = STACKED[name]
    source = write(tmp_path / "a", tensors, target_parameters=parameters)
    with pytest.raises(RequestError, match=reason):
        TestLoRA().table().load("a", source)


def test_experts_whose_weight_lies_the_other_way_round_are_known_by_its_sizes(tmp_path: Path) -> None:
    up, down = torch.randn(16, 64), torch.randn(32, 16)  # of [experts, inputs, outputs]
    tensors = {f"{EXPERTS}.lora_A.weight": up, f"{EXPERTS}.lora_B.weight": down}
    packed = TestLoRA().table().load("a", write(tmp_path / "a", tensors, target_parameters=["experts.down_proj"]))
    found = packed["model.layers.1.mlp.experts.down_proj"]
    change = torch.einsum("ire,ero->eio", down.view(32, 4, 4), up.view(4, 4, 64)) * 2
    torch.testing.assert_close(found.down[:, :, 0] @ found.up, change)
