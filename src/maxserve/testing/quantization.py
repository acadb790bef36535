"""Checks of quantization formats; and a format of two nibbles a byte with a linear method: stubs for both seams.

class TestAcme(QuantizationFormatChecks):
    quantization_format = "acme4"
    config = {"quant_method": "acme4"}
    names = {"codes": "{}.codes", "scale": "{}.scale"}

    def quantize(self, weight):
        return {"codes": ..., "scale": ...}
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.codes import Codes, CodesLayout
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.linear import LinearContext, LinearMethod
from maxserve.core.interfaces.quantization import (
    BuiltQuantizationFormat,
    HasCodes,
    QuantizationContext,
    QuantizationFormat,
    ReadsContents,
    SeesOthers,
    Unpacks,
)
from maxserve.core.interfaces.weight_format import TensorInfo
from maxserve.core.loading.quantization import Checkpoint, quantization_of, rounding_to
from maxserve.core.registry.protocol import Host
from maxserve.testing.resolve import declaring, resolve

__all__ = [
    "NibbleFormat",
    "NibbleLinear",
    "NibbleMethod",
    "QuantizationFormatChecks",
    "nibble_plugin",
    "quantize_checkpoint",
]

NAME = "model.layers.0.self_attn.q_proj.weight"
TYPES = {  # as safetensors names them
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
PLAIN = frozenset({"F32", "F16", "BF16"})
# Projections of all sizes that `quantize` is given are multiples of 32.
SIZES: Mapping[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16}
ROLES = ("codes", "scale", "zero")


class QuantizationFormatChecks:
    """Subclass it and name a registered `quantization_format`, or give the `component` itself.

    `quantize` is to be written: the tensors of a weight [outputs, inputs] by role, as a checkpoint has them. `config`
    is the "quantization_config" of such a checkpoint, `names` are those of the tensors by role: {} in them stands for
    the name of the weight, {module} for that without ".weight". Roles in `optional` are of tensors that a weight may
    lack. An unpacked value may be off by the share `tolerance` of the largest. With `stacked`, the format also has
    stacks [n, outputs, inputs] of weights, whose tensors are stacks.
    """

    quantization_format: ClassVar[str] = ""
    component: ClassVar[QuantizationFormat | None] = None
    config: ClassVar[Mapping[str, Any]] = {}
    names: ClassVar[Mapping[str, str]] = {}
    optional: ClassVar[frozenset[str]] = frozenset()
    tolerance: ClassVar[float] = 0.1
    stacked: ClassVar[bool] = False

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        raise NotImplementedError(f"{type(self).__name__} has no quantize(weight)")

    @pytest.fixture
    def host(self, plugin_host: Callable[..., Host]) -> Host:
        return declaring(plugin_host, self.component)

    @pytest.fixture
    def built(self, host: Host) -> BuiltQuantizationFormat:
        return self.found(host).format

    def name(self, role: str, weight: str) -> str:
        """The name of a tensor of the weight."""
        return self.names[role].format(weight, module=weight.removesuffix(".weight"))

    def found(self, host: Host) -> Checkpoint:
        """What a checkpoint with the config is found to be."""
        found = quantization_of(host, {"quantization_config": dict(self.config)}, "the checkpoint")
        assert found is not None, f"no format takes a checkpoint with {dict(self.config)}"
        return found

    def test_its_checkpoints_are_known_and_no_others(self, host: Host) -> None:
        name = resolve(QuantizationFormat, self.quantization_format, self.component).name
        assert self.found(host).name == name
        assert quantization_of(host, {}, "the checkpoint") is None
        with pytest.raises(ModelError, match="which is not supported yet"):
            quantization_of(host, {"quantization_config": {"quant_method": "no such method"}}, "the checkpoint")

    def test_every_tensor_belongs_to_its_weight(self, built: BuiltQuantizationFormat) -> None:
        tensors = self.quantize(random(64, 96))
        assert set(self.names) == set(tensors), "names has other roles than quantize()"
        assert len(set(self.names.values())) == len(tensors), "two roles have one name"
        for role, tensor in tensors.items():
            name = self.name(role, NAME)
            assert built.part(name, TYPES[tensor.dtype]) == (NAME, role), f"{name} belongs to another weight or role"
        if isinstance(built, SeesOthers):
            types = {self.name(role, NAME): TYPES[tensor.dtype] for role, tensor in tensors.items()}
            for role in tensors:
                found = built.part_among(self.name(role, NAME), types)
                assert found == (NAME, role), f"part_among says {found} of {role}, and part does not"

    def test_tensors_that_are_not_packed_are_left_alone(self, built: BuiltQuantizationFormat) -> None:
        for name in ("model.norm.weight", "lm_head.weight", "model.layers.0.mlp.down_proj.bias"):
            for dtype in sorted(PLAIN):
                assert built.part(name, dtype) is None, f"{name} of {dtype} is no packed tensor"

    def test_types_are_those_of_packed_tensors(self, built: BuiltQuantizationFormat) -> None:
        stored = {TYPES[tensor.dtype] for tensor in self.quantize(random(64, 96)).values()}
        assert built.dtype in PLAIN, "dtype is the type of unpacked weights"
        assert stored - PLAIN <= built.types, f"types lack {sorted(stored - PLAIN - built.types)}"
        assert stored & built.types, "no tensor is of one of the types"

    @pytest.mark.parametrize("size", [(64, 96), (32, 64), (128, 32)], ids=str)
    def test_the_weight_comes_out(self, built: BuiltQuantizationFormat, size: tuple[int, int]) -> None:
        weight = random(*size)
        self.check(built, self.quantize(weight), weight)

    def test_a_stack_of_weights_has_a_shape(self, built: BuiltQuantizationFormat) -> None:
        if not self.stacked:
            return
        tensors = {role: torch.stack([each] * 3) for role, each in self.quantize(random(64, 96)).items()}
        assert tuple(built.shape(infos(tensors))) == (3, 64, 96)

    def check(self, built: BuiltQuantizationFormat, tensors: Mapping[str, Tensor], weight: Tensor) -> None:
        """The shape is known from those of the tensors, and what comes out has it."""
        described = self.described(built, tensors)
        assert tuple(built.shape(described)) == tuple(weight.shape)
        unpacked = values(built, {role: tensor.clone() for role, tensor in tensors.items()})
        assert unpacked.shape == weight.shape
        allowed = self.tolerance * float(weight.abs().max())
        torch.testing.assert_close(unpacked.float(), weight, atol=allowed, rtol=0)
        if isinstance(built, HasCodes):
            assert built.codes(tensors).layout == built.layout(described), "layout() says something else"

    def test_tensors_that_do_not_fit_are_refused(self, built: BuiltQuantizationFormat) -> None:
        tensors = self.described(built, self.quantize(random(64, 96)))
        for role, tensor in tensors.items():
            others = {name: info for name, info in tensors.items() if name != role}
            if others:
                rows = tensor.shape[0] // 2
                content = None if tensor.content is None else tensor.content[:rows]
                halved = replace(tensor, shape=(rows, *tensor.shape[1:]), content=content)
                for wrong in ({**others, role: halved}, *(() if role in self.optional else (others,))):
                    with pytest.raises(ModelError):
                        built.shape(wrong)

    def test_damaged_tensors_are_refused_or_read(self, built: BuiltQuantizationFormat) -> None:
        """Whatever shapes, types and bytes there are: a ModelError, or a weight of the shape that was said."""
        whole = self.quantize(random(64, 96))
        for role, tensor in whole.items():
            for change in _DAMAGES:
                damaged = {**whole, role: change(tensor).contiguous()}
                if not all(built.part(self.name(each, NAME), TYPES[own.dtype]) for each, own in damaged.items()):
                    continue
                with suppress(ModelError):
                    described = self.described(built, damaged)
                    shape = built.shape(described)
                    found = values(built, damaged)
                    assert tuple(found.shape) == tuple(shape)
                    if isinstance(built, HasCodes):
                        assert built.codes(damaged).layout == built.layout(described)

    def described(self, built: BuiltQuantizationFormat, tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
        """What the format gets to know of the tensors before they are read."""
        contents: frozenset[str] = built.contents if isinstance(built, ReadsContents) else frozenset()
        return {
            role: replace(info, content=tensors[role]) if role in contents else info
            for role, info in infos(tensors).items()
        }

    def test_plain_weights_are_rounded(self, host: Host) -> None:
        """To each of the encodings that the format declares: codes as they are announced, and each row by itself."""
        for encoding in resolve(QuantizationFormat, self.quantization_format, self.component).rounds:
            rounds, weight = rounding_to(host, encoding), random(64, 256)
            announced, tensors = rounds.rounded_tensors(64, 256), rounds.rounded(weight)
            assert {role: (each.shape[0], each.nbytes) for role, each in tensors.items()} == {
                role: (64, each.size) for role, each in announced.items()
            }, f"{encoding}: rounded_tensors() announces other tensors than rounded() makes"
            codes = rounds.codes(tensors)
            assert codes.layout == rounds.layout(announced), f"{encoding}: layout() says something else"
            allowed = self.tolerance * float(weight.abs().max())
            torch.testing.assert_close(codes.values(), weight, atol=allowed, rtol=0)
            alone = rounds.codes(rounds.rounded(weight[9:10].clone())).values()
            assert torch.equal(alone[0], codes.values()[9]), f"{encoding}: a row depends on those beside it"

    def test_a_model_in_the_format_computes_with_its_weights(self, host: Host, tmp_path: Path) -> None:
        """As a checkpoint does that has them: in float32, where the linear method takes codes, else unpacked; and two
        ranks that share it."""
        from maxserve.testing.ranks import assert_same_texts, served_in_ranks, texts
        from maxserve.testing.served import Served

        built, packed = self.found(host).format, tmp_path / "packed"
        tiny_llama(packed, "F32")  # so that nothing but the format rounds
        rounded = next(each for each, name in TYPES.items() if name == built.dtype)
        stored = load_file(packed / "model.safetensors")
        exact, unpacked = dict(stored), dict(stored)
        for name in [name for name in stored if name.endswith("_proj.weight")]:
            tensors = self.quantize(stored.pop(name).float())
            stored |= {self.name(role, name): each.contiguous() for role, each in tensors.items()}
            exact[name] = values(built, tensors)
            exact[name], unpacked[name] = exact[name].float(), exact[name].to(rounded).float()
        expected = []
        for folder, weights in ((tmp_path / "exact", exact), (tmp_path / "unpacked", unpacked)):
            shutil.copytree(packed, folder)
            save_file(weights, folder / "model.safetensors")
            expected.append(Served(folder, host).answers([PROMPT], 6)[0])
        save_file(stored, packed / "model.safetensors")
        config = packed / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": dict(self.config)}))
        answer = Served(packed, host).answers([PROMPT], 6)[0]
        assert any(
            answer.tokens == each.tokens and answer.logprobs == pytest.approx(each.logprobs, abs=1e-3)
            for each in expected
        )
        assert_same_texts(served_in_ranks(packed, host, 2, texts), texts(Served(packed, host)))


_DAMAGES: Sequence[Callable[[Tensor], Tensor]] = (
    lambda each: each[1:],
    lambda each: each[:0],
    lambda each: each[..., 1:] if each.dim() else each[None],
    lambda each: each.repeat(2, *(1 for _ in each.shape[1:])),
    lambda each: each[None],
    lambda each: each.flatten(),
    lambda each: each.flatten()[0] if each.numel() else each,
    lambda each: each.t() if each.dim() == 2 else each,
    lambda each: each.to(torch.float32),
    lambda each: each.to(torch.int32),
    lambda each: each.to(torch.int64),
    lambda each: each.to(torch.uint8),
    lambda each: torch.zeros_like(each),
    lambda each: torch.full(each.shape, 255, dtype=torch.uint8).to(each.dtype),
    lambda each: (each.flatten().view(torch.uint8) ^ 0xA5).view(each.dtype).view(each.shape),
)
PROMPT = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


def infos(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """How a file describes the tensors."""
    return {
        name: TensorInfo(dtype=TYPES[tensor.dtype], shape=tuple(tensor.shape), size=tensor.nbytes)
        for name, tensor in tensors.items()
    }


def values(built: BuiltQuantizationFormat, tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight of these tensors."""
    if isinstance(built, Unpacks):
        unpacked = built.unpack(tensors)
        assert TYPES[unpacked.dtype] == built.dtype
        return unpacked
    assert isinstance(built, HasCodes), "the format has neither codes nor unpack"
    return built.codes(tensors).values()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def tiny_llama(folder: Path, dtype: str) -> None:
    """Writes the checkpoint of a small model with random weights of a type, as safetensors names it."""
    from maxserve.testing.architecture import ArchitectureChecks, randomised
    from maxserve.testing.tiny_configs import tiny_config

    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"], **SIZES)
    kind = next(each for each, name in TYPES.items() if name == dtype)
    randomised(ArchitectureChecks.reference(config)).to(kind).save_pretrained(folder)  # type: ignore[operator]


def quantize(weight: Tensor) -> dict[str, Tensor]:
    """The tensors of a weight [outputs, inputs] by role: sixteen levels between the least and the most of each row."""
    zero, top = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    scale = ((top - zero) / 15).clamp(min=1e-9)
    levels = ((weight - zero) / scale).round().to(torch.uint8)
    return {"codes": levels[:, ::2] | levels[:, 1::2] << 4, "scale": scale, "zero": zero}


def dequantize(tensors: Mapping[str, Tensor]) -> Tensor:
    levels = torch.stack((tensors["codes"] & 15, tensors["codes"] >> 4), dim=-1).flatten(-2)
    return levels * tensors["scale"] + tensors["zero"]


def quantize_checkpoint(folder: Path, ending: str = "_proj.weight") -> dict[str, Tensor]:
    """Puts the weights of the checkpoint whose names end so in the format; returns what they are then."""
    file, config = folder / "model.safetensors", folder / "config.json"
    stored = load_file(file)
    meant = {}
    for name in [name for name in stored if name.endswith(ending)]:
        tensors = quantize(stored.pop(name).float())
        stored |= {f"{name}.{role}": tensor.contiguous() for role, tensor in tensors.items()}
        meant[name] = dequantize(tensors)
    save_file(stored, file)
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(raw | {"quantization_config": {"quant_method": "nibbles"}}))
    return meant


class NibbleFormat:
    """A BuiltQuantizationFormat that HasCodes: a weight is `NAME.codes`, `NAME.scale` and `NAME.zero`."""

    dtype = "F32"
    types = frozenset({"U8"})

    def __init__(self, context: QuantizationContext) -> None:
        pass

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        name, _, role = tensor.rpartition(".")
        return (name, role) if role in ROLES else None

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        shapes = {role: tuple(tensors[role].shape) for role in ROLES if role in tensors}
        rows, pairs = (*shapes.get("codes", ()), 0, 0)[:2]
        if shapes != {"codes": (rows, pairs), "scale": (rows, 1), "zero": (rows, 1)} or not rows * pairs:
            raise ModelError(f"the tensors of a weight in nibbles are {', '.join(ROLES)}, with as many rows: {shapes}")
        if tensors["codes"].dtype != "U8":
            raise ModelError("the codes of a weight in nibbles are bytes")
        return rows, 2 * pairs

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return CodesLayout(levels=16, group=2 * tensors["codes"].shape[1])

    def codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        levels = torch.stack((tensors["codes"] & 15, tensors["codes"] >> 4), dim=-1).flatten(-2)
        return Codes(
            codes=levels,
            table=torch.arange(16.0),
            group=levels.shape[1],
            scales=tensors["scale"],
            offsets=-tensors["zero"],
        )


class NibbleLinear:
    """A CodesLinear that decodes all it has for each product."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.codes: dict[int, Codes] = {}  # by first row

    def load_codes(self, codes: Codes, first: int) -> None:
        self.codes[first] = codes

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self._values(), bias)

    def embedding(self, ids: Tensor) -> Tensor:
        return self._values()[ids]

    def _values(self) -> Tensor:
        return torch.cat([codes.values() for _, codes in sorted(self.codes.items())])


class NibbleMethod:
    """A BuiltLinearMethod that stores weights only where they are codes of 16 levels in the checkpoint."""

    def __init__(self, context: LinearContext) -> None:
        self.created: list[NibbleLinear] = []

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        return torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        return None

    def create_codes(self, outputs: int, inputs: int, layouts: Sequence[CodesLayout]) -> NibbleLinear | None:
        if any(layout.levels != 16 for layout in layouts):
            return None
        self.created.append(NibbleLinear(outputs, inputs))
        return self.created[-1]

    def create_expert_codes(self, experts: int, outputs: int, inputs: int, layouts: Sequence[CodesLayout]) -> None:
        return None


def nibble_plugin(method: NibbleMethod | None = None) -> SimpleNamespace:
    """A plugin with the format, and with the linear method if one is given."""
    plugin = SimpleNamespace(
        maxserve_quantization_formats=hookimpl(lambda: [QuantizationFormat(name="nibbles", build=NibbleFormat)])
    )
    if method is not None:
        declared = LinearMethod(name="nibbles", build=lambda context: method, priority=99)
        plugin.maxserve_linear_methods = hookimpl(lambda: [declared])
    return plugin
