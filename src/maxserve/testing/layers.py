"""Checks of layer compilers.

class TestAcme(LayerCompilerChecks):
    compiler, attention, method = "acme", "acme", "acme"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maxserve.architectures.layers import Linear, RMSNorm
from maxserve.architectures.layers.config import ModelConfig, from_transformers
from maxserve.core.interfaces.layer_compiler import CompilesStacks, LayerContext
from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.testing.architecture import randomised
from maxserve.testing.tiny_cache import TinyCache, make_step, run_step

__all__ = ["LayerCompilerChecks"]

SIZES: Mapping[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "whole lines": {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 8},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "odd heads": {"head_dim": 10, "num_attention_heads": 5, "num_key_value_heads": 1},
    "half rotated": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
}
OTHERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {  # families that are no Llama
    "qwen3": ("Qwen3ForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 9}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {"partial_rotary_factor": 0.75, "sliding_window": 9}),
    "gemma2": ("Gemma2ForCausalLM", {"attn_logit_softcapping": 2.0, "sliding_window": 9}),
    "gemma3": ("Gemma3ForCausalLM", {"sliding_window_pattern": 2, "sliding_window": 9}),
    "granite": ("GraniteForCausalLM", {"residual_multiplier": 0.22, "attention_multiplier": 0.0625}),
    "olmo": ("OlmoForCausalLM", {"clip_qkv": 1.0}),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "olmo3": ("Olmo3ForCausalLM", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 9}),
    "exaone4": ("Exaone4ForCausalLM", {"sliding_window_pattern": 2, "sliding_window": 9}),
}
STEPS = [[(0, 40), (2, 8)], [(1, 33), (2, 1), (0, 1)], [(3, 1)], [(0, 39), (3, 50), (1, 1)], [(0, 1), (1, 1), (3, 1)]]


class LayerCompilerChecks:
    """What every compiler must pass on a CPU, beside the attention and the linear method that it needs.

    `must_compile` are the names of `CONFIGS` and `OTHERS` whose layers, all of them, it is expected to compile; any
    other may run as it was written.
    """

    compiler: ClassVar[str]
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    attention: ClassVar[str] = "torch"
    method: ClassVar[str | None] = None
    must_stack: ClassVar[bool] = False  # whether layers that all compile become one call
    weights: ClassVar[torch.dtype] = torch.float32  # in which the method is given them
    must_compile: ClassVar[frozenset[str]] = frozenset()
    plugins: ClassVar[PluginOptions] = PluginOptions()
    tolerance: ClassVar[float] = 2e-5
    row_independent: ClassVar[bool] = True  # to the bit

    @pytest.mark.parametrize("name", [*CONFIGS, *OTHERS])
    def test_computes_what_the_layer_computes(self, name: str) -> None:
        host = PluginHost.discover(self.plugins, strict=True)
        kind, own = OTHERS.get(name, ("LlamaForCausalLM", {}))
        if name in OTHERS:
            config = host.load(entry := host.architectures.get(kind), entry.component.config)({**SIZES, **own})
        else:
            config = from_transformers({"model_type": "llama", **SIZES, **CONFIGS[name]})
        written, compiled, fused = (self._model(host, kind, config) for _ in range(3))
        attentions = (None, self._build, self._build)
        caches = [TinyCache(config.cache_layers, max_length=100, scatter=1, attention=a) for a in attentions]
        count = self._compile(host, compiled, caches[1].attention)
        self._compile(host, fused, caches[2].attention, stack=True)
        if name in self.must_compile:
            assert count == config.layers, (
                f"{self.compiler} compiles {count} layers of {name}, which has {config.layers}"
            )
        tokens = np.random.default_rng(1).integers(50, size=100)
        for step in STEPS:
            parts = [(row, tokens[:n].tolist()) for row, n in step]
            models = zip((written, compiled, fused), caches, strict=True)
            expected, result, together = (run_step(model, cache, parts) for model, cache in models)
            self.check(result, expected)
            assert torch.equal(together, result), "all layers in one call compute something else than one by one"
        parts = [(0, tokens[:7].tolist()), (3, tokens[:1].tolist())]
        result, together = (
            _outputs(model, cache, parts) for model, cache in zip((compiled, fused), caches[1:], strict=True)
        )
        assert torch.equal(together, result), (
            "one call of all layers gives other outputs of single ones than these have"
        )

    @pytest.mark.parametrize("name", ["plain", "whole lines"])
    def test_a_sequence_does_not_depend_on_the_others(self, name: str) -> None:
        """Neither its prompt nor what it decodes, whatever is before it in the batch or after it."""
        if not self.row_independent:
            pytest.skip(f"{self.compiler} says that it does not promise this")
        host = PluginHost.discover(self.plugins, strict=True)
        config = from_transformers({"model_type": "llama", **SIZES, **CONFIGS[name]})
        tokens = np.random.default_rng(1).integers(50, size=100).tolist()
        seen: list[list[Tensor]] = []
        for steps in ([[(0, 40)], [(0, 1)]], [[(2, 1), (0, 40), (1, 33)], [(1, 1), (0, 1), (3, 50), (2, 1)]]):
            model = self._model(host, "LlamaForCausalLM", config)
            cache = TinyCache(config.cache_layers, max_length=100, scatter=1, attention=self._build)
            self._compile(host, model, cache.attention, stack=True)
            seen.append([_of_first(run_step(model, cache, [(row, tokens[:n]) for row, n in s]), s) for s in steps])
        for one, other in zip(*seen, strict=True):
            assert torch.equal(one, other)

    @pytest.mark.parametrize("name", ["biases", "half rotated", "gemma2", "olmo2"])
    def test_long_prompts(self, name: str) -> None:
        """Steps of so many rows that a compiler may take them some at a time."""
        host = PluginHost.discover(self.plugins, strict=True)
        kind, own = OTHERS.get(name, ("LlamaForCausalLM", CONFIGS.get(name, {})))
        sizes = {**SIZES, "max_position_embeddings": 512, **own}
        config = from_transformers({"model_type": "llama", **sizes})
        if name in OTHERS:
            config = host.load(entry := host.architectures.get(kind), entry.component.config)(sizes)
        tokens = np.random.default_rng(1).integers(50, size=400).tolist()
        steps = [[(0, 99)], [(0, 1)]], [[(1, 400), (0, 99), (2, 387)], [(2, 1), (3, 400), (0, 1), (1, 1)]]
        made: list[list[Tensor]] = []
        for attention, stack in ((None, False), (self._build, False), (self._build, True)):
            seen: list[list[Tensor]] = []
            results: list[Tensor] = []
            for some in steps:
                model = self._model(host, kind, config)
                cache = TinyCache(config.cache_layers, max_length=401, scatter=1, attention=attention)
                if attention is not None:
                    self._compile(host, model, cache.attention, stack=stack)
                results = [run_step(model, cache, [(row, tokens[:n]) for row, n in step]) for step in some]
                seen.append([_of_first(result, step) for result, step in zip(results, some, strict=True)])
            made.append(results)
            for alone, beside in zip(*seen, strict=True):
                assert not self.row_independent or attention is None or torch.equal(alone, beside)
        for expected, result, together in zip(*made, strict=True):
            self.check(result, expected)
            assert torch.equal(together, result), "all layers in one call compute something else than one by one"

    def test_leaves_alone_what_it_does_not_understand(self) -> None:
        """A layer that does something odd must run as it was written, not nearly so."""
        host = PluginHost.discover(self.plugins, strict=True)
        cache = TinyCache(from_transformers({"model_type": "llama", **SIZES}).cache_layers, attention=self._build)
        for odd in (_Doubling(), _Sorting(), _Nothing(), _Uneven(), _Beginning()):
            for parameter in odd.parameters():  # whose memory may hold anything
                nn.init.normal_(parameter)
            call = self._compiler(host).compile(odd, cache.attention)
            if call is not None:
                x = torch.randn(3, 8)
                torch.testing.assert_close(call(x, None), odd(x, None))

    def check(self, result: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(result, expected, atol=self.tolerance * float(expected.abs().max()), rtol=0)

    def _model(self, host: Host, kind: str, config: ModelConfig) -> Any:
        model = randomised(host.build(host.architectures.get(kind), config))
        for module in [m for m in model.modules() if isinstance(m, Linear)]:
            assert module.weight is not None
            module.weight.data = module.weight.data.to(self.weights).float()
        model.prepare()  # type: ignore[operator]
        return model

    def _build(self, context: Any) -> Any:
        host = PluginHost.discover(self.plugins, strict=True)
        return host.build(host.attention_backends.get(self.attention), context)

    def _compiler(self, host: Host) -> Any:
        context = LayerContext(compute=torch.float32, device=torch.device("cpu"), sections=self.sections)
        return host.build(host.layer_compilers.get(self.compiler), context)

    def _compile(self, host: Host, model: Any, attention: Any, *, stack: bool = False) -> int:
        """Gives the projections to the method, then replaces the layers that compile; returns how many did.

        `stack`: all of them by one call, where the compiler makes one.
        """
        if self.method is not None:
            context = LinearContext(compute=torch.float32, device=torch.device("cpu"), sections=self.sections)
            method = host.build(host.linear_methods.get(self.method), context)
            for module in [m for m in model.modules() if isinstance(m, Linear)]:
                assert module.weight is not None
                packed = method.create(module.outputs, module.inputs, self.weights)
                packed.load_rows(module.weight.data.to(self.weights), 0)
                module.set_packed(packed)
        compiler, layers = self._compiler(host), model.model.layers
        calls = [compiler.compile(layer, attention) for layer in layers]
        for index, call in enumerate(calls):
            if call is not None:
                layers[index] = _Called(call)
        if stack and isinstance(compiler, CompilesStacks) and None not in calls:
            layers.fuse = lambda start, stop: compiler.compile_stack(calls[start:stop])
            joined = layers.fuse(0, len(calls)) is not None
            assert joined or not self.must_stack, f"{self.compiler} makes no one call of all layers"
        return len(calls) - calls.count(None)


def _outputs(model: Any, cache: TinyCache, parts: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
    """The outputs of all layers in one step, [layers, T, dim]."""
    with torch.inference_mode():
        step = make_step(cache, parts)
        step.aux_layers = tuple(range(len(model.model.layers)))
        model.forward(step)
        return torch.stack(step.aux_hidden)


def _of_first(logits: Tensor, step: Sequence[tuple[int, int]]) -> Tensor:
    """Those of row 0, of the logits of a step's (row, tokens)."""
    before = [row for row, _ in step].index(0)
    start = sum(count for _, count in step[:before])
    return logits[start : start + step[before][1]]


class _Called(nn.Module):
    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.forward = call


class _Doubling(nn.Module):
    def forward(self, x: Tensor, step: Any) -> Tensor:
        return x * 2


class _Sorting(nn.Module):
    def forward(self, x: Tensor, step: Any) -> Tensor:
        return x.sort(dim=0).values


class _Nothing(nn.Module):
    def forward(self, x: Tensor, step: Any) -> Tensor:
        return x


class _Uneven(nn.Module):
    """Of 8 values, chunks of 3, 3 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RMSNorm(3, 1e-5)

    def forward(self, x: Tensor, step: Any) -> Tensor:
        return cast("Tensor", self.norm(x.chunk(3, dim=-1)[0]))


class _Beginning(nn.Module):
    """Reads the first 4 of 8 values."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RMSNorm(4, 1e-5)

    def forward(self, x: Tensor, step: Any) -> Tensor:
        return cast("Tensor", self.norm(x[:, :4]))
