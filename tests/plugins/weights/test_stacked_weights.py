"""Experts of a checkpoint, one by one or all in one tensor, become one parameter; what does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from maxserve.architectures.layers import Experts
from maxserve.architectures.layers.moe import gated
from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.loading.linear import weight
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.storage import LinearStorage
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.cpu import Config
from maxserve.plugins.safetensors.files import SafetensorsFile
from maxserve.plugins.weights.weights import load_weights

EXPERTS, DIM, INNER = 3, 4, 6
MAP = WeightMap(
    stacked=("experts",),
    fused={"gate_up_proj": ("gate_proj", "up_proj")},
    renames=((r"(experts\.(?:gate_up|down)_proj)$", r"\1.weight"),),
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = Experts(EXPERTS, DIM, INNER, gated(torch.relu))
        self.correction = weight(EXPERTS)


def tensors(experts: int = EXPERTS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {"correction": torch.randn(EXPERTS, generator=generator)}
    for i in reversed(range(experts)):
        for name, shape in (("gate", (INNER, DIM)), ("up", (INNER, DIM)), ("down", (DIM, INNER))):
            made[f"experts.{i}.{name}_proj.weight"] = torch.randn(*shape, generator=generator)
    return made


def stacked(made: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What gate_up_proj and down_proj must become."""

    def all_of(name: str) -> Tensor:
        return torch.stack([made[f"experts.{i}.{name}_proj.weight"] for i in range(EXPERTS)])

    return torch.cat((all_of("gate"), all_of("up")), dim=1), all_of("down")


Load = Callable[..., Model]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a model from the tensors of one file each."""

    def loaded(
        *files: dict[str, Tensor],
        weight_map: WeightMap = MAP,
        dtype: torch.dtype = torch.float32,
        storage: LinearStorage | None = None,
    ) -> Model:
        with torch.device("meta"):
            model = Model()
        paths = [str(tmp_path / f"{i}.safetensors") for i in range(len(files))]
        for path, content in zip(paths, files, strict=True):
            save_file({name: tensor.contiguous() for name, tensor in content.items()}, path)
        opened = [SafetensorsFile(path) for path in paths]
        load_weights(model, opened, weight_map, dtype=dtype, device="cpu", progress=NullProgress(), storage=storage)
        return model

    return loaded


def check(model: Model, expected: tuple[Tensor, Tensor]) -> None:
    for module, wanted in zip((model.experts.gate_up_proj, model.experts.down_proj), expected, strict=True):
        assert module.weight is not None
        assert torch.equal(module.weight, wanted.to(module.weight.dtype))


def test_one_by_one_over_several_files(load: Load) -> None:
    made = tensors()
    names = list(made)
    files = [{name: made[name] for name in names[i::3]} for i in range(3)]
    check(load(*files), stacked(made))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_in_one_tensor(load: Load, dtype: torch.dtype) -> None:
    made = tensors()
    gate_up, down = stacked(made)
    given = {"correction": made["correction"], "experts.gate_up_proj": gate_up, "experts.down_proj": down}
    check(load(given, dtype=dtype), (gate_up, down))
    transposed = {**given, "experts.gate_up_proj": gate_up.mT, "experts.down_proj": down.mT}
    other_way_round = replace(MAP, transposed=(r"_proj\.weight$",))
    check(load(transposed, weight_map=other_way_round, dtype=dtype), (gate_up, down))


def test_a_shape_tells_which_way_round_a_tensor_is(load: Load) -> None:
    made = tensors()
    gate_up, down = stacked(made)
    either = replace(MAP, either_way=(r"_proj\.weight$",))
    given = {"correction": made["correction"], "experts.gate_up_proj": gate_up, "experts.down_proj": down.mT}
    check(load(given, weight_map=either), (gate_up, down))
    check(load(made, weight_map=either), (gate_up, down))
    with pytest.raises(ModelError, match=r"experts\.down_proj has the shape \[3, 6, 5\]"):
        load({**given, "experts.down_proj": torch.zeros(3, INNER, DIM + 1)}, weight_map=either)


def test_exact_parameters_keep_their_digits(load: Load) -> None:
    made = tensors()
    model = load(made, weight_map=replace(MAP, exact=("^correction$",)), dtype=torch.bfloat16)
    assert model.correction.dtype == torch.float32
    assert torch.equal(model.correction, made["correction"])
    assert load(made, dtype=torch.bfloat16).correction.dtype == torch.bfloat16


@pytest.mark.compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["one by one", "in one tensor", "the other way round"])
def test_a_linear_method_may_store_them(load: Load, dtype: torch.dtype, form: str) -> None:
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    exact = {Config: Config(precision="exact")}
    context = LinearContext(compute=torch.float32, device=torch.device("cpu"), sections=exact)
    method = host.build(host.linear_methods.get("native"), context)
    made = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    gate_up, down = stacked(made)
    whole = {"correction": made["correction"], "experts.gate_up_proj": gate_up, "experts.down_proj": down}
    transposed = {name: tensor.mT if tensor.dim() == 3 else tensor for name, tensor in whole.items()}
    given = {"one by one": made, "in one tensor": whole, "the other way round": transposed}[form]
    weight_map = replace(MAP, transposed=(r"_proj\.weight$",)) if form == "the other way round" else MAP
    model = load(given, weight_map=weight_map, storage=LinearStorage(method=method))
    assert model.experts.gate_up_proj.weight is None
    x, ends = torch.randn(5, DIM), torch.tensor([2, 2, 5])
    owners = torch.tensor([0, 0, 2, 2, 2])
    expected = torch.einsum("ni,noi->no", x, gate_up.float()[owners])
    torch.testing.assert_close(model.experts.gate_up_proj(x, ends), expected, atol=1e-5, rtol=0)


def test_what_is_missing_is_named(load: Load) -> None:
    made = tensors()
    del made["experts.1.up_proj.weight"]
    with pytest.raises(ModelError, match=r"1 missing from the checkpoint: experts\.gate_up_proj\.weight \(number 1 up"):
        load(made)
    with pytest.raises(ModelError, match=r"3 missing from the checkpoint: experts\.down_proj\.weight \(number 2\)"):
        load(tensors(EXPERTS - 1))


def test_one_expert_too_many(load: Load) -> None:
    with pytest.raises(ModelError, match=r"experts\.3\.\w+_proj\.weight is one too many.* in the model is 2"):
        load(tensors(EXPERTS + 1))


def test_experts_of_another_size(load: Load) -> None:
    made = tensors()
    made["experts.2.down_proj.weight"] = torch.zeros(DIM, INNER + 1)
    with pytest.raises(ModelError, match=r"experts\.2\.down_proj\.weight has the shape \[4, 7\].*and \[4, 6\] in the"):
        load(made)
    made = tensors()
    made["experts.2.up_proj.weight"] = torch.zeros(INNER + 1, DIM)
    with pytest.raises(ModelError, match=r"do not make up experts\.gate_up_proj\.weight.*\[12, 4\]"):
        load(made)


def test_twice(load: Load) -> None:
    made = tensors()
    both = {**made, "experts.down_proj": stacked(made)[1]}
    with pytest.raises(ModelError, match="are the same parameter"):
        load(both)
    with pytest.raises(ModelError, match="are the same parameter"):
        load(made, {"experts.0.down_proj.weight": made["experts.0.down_proj.weight"]})
