"""The time of experts on a CPU, beside loops over them. Run: python benchmarks/moe.py [--dim 1024 --ffn 512]

Random weights, float32 everywhere, 64 experts of which each token uses 8 unless said otherwise. Four ways, in turns in
one process, each the best of some rounds:

- "every expert": a loop over all experts, each of which computes all tokens, weighed with 0 where not chosen
- "chosen tokens": a loop over the experts that were chosen, each of which gathers its tokens (as transformers does it)
- "brick": architectures/layers/moe.py as it is on any device
- "native": the same with weights stored by plugins/cpu, in float32 and in bfloat16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.architectures.layers.expert_linear import ExpertLinear
from maxserve.architectures.layers.moe import Experts, gated
from maxserve.architectures.layers.routing import Choice, softmax_top_k
from maxserve.core.interfaces.linear import LinearContext, SupportsExperts
from maxserve.core.registry.host import PluginHost, PluginOptions

TOKENS = (1, 8, 32, 128, 512)  # decode batches, then prompts


def every_expert(experts: Experts, x: Tensor, choice: Choice) -> Tensor:
    weights = x.new_zeros(len(x), experts.experts).scatter_(1, choice.experts, choice.weights)
    out = torch.zeros_like(x)
    for expert in range(experts.experts):
        out += _expert(experts, x, expert) * weights[:, expert, None]
    return out


def chosen_tokens(experts: Experts, x: Tensor, choice: Choice) -> Tensor:
    out = torch.zeros_like(x)
    masks = F.one_hot(choice.experts, num_classes=experts.experts).permute(2, 1, 0)
    for expert in masks.sum(dim=(1, 2)).nonzero().flatten().tolist():
        rank, token = torch.where(masks[expert])
        out.index_add_(0, token, _expert(experts, x[token], expert) * choice.weights[token, rank, None])
    return out


def _expert(experts: Experts, x: Tensor, expert: int) -> Tensor:
    up, down = experts.gate_up_proj.weight, experts.down_proj.weight
    assert up is not None
    assert down is not None
    return F.linear(experts.activation(F.linear(x, up[expert])), down[expert])


def packed(experts: Experts, method: SupportsExperts, dtype: torch.dtype) -> Experts:
    """The same experts with their weights in the storage of a linear method."""
    made = Experts(experts.experts, experts.gate_up_proj.inputs, experts.down_proj.inputs, experts.activation)
    for module, source in ((made.gate_up_proj, experts.gate_up_proj), (made.down_proj, experts.down_proj)):
        _give(module, source, method, dtype)
    return made


def _give(module: ExpertLinear, source: ExpertLinear, method: SupportsExperts, dtype: torch.dtype) -> None:
    made = method.create_experts(module.experts, module.outputs, module.inputs, dtype)
    assert made is not None
    assert source.weight is not None
    for expert, weight in enumerate(source.weight):
        made.load_rows(expert, weight.to(dtype), 0)
    module.set_packed(made)


def best(call: Callable[[], Tensor], rounds: int) -> float:
    """Milliseconds of the quickest of so many calls, after one to warm up."""
    call()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return 1000 * min(times)


def measure(ways: Mapping[str, Callable[[Tensor, Choice], Tensor]], dim: int, choose: Callable[[int], Choice]) -> None:
    print("| tokens | " + " | ".join(ways) + " | every expert / native | chosen tokens / native |")
    print("|---" * (len(ways) + 3) + "|")
    for tokens in TOKENS:
        x, choice = torch.randn(tokens, dim), choose(tokens)
        rounds = 3 if tokens > 100 else 7
        took = {name: best(partial(way, x, choice), rounds) for name, way in ways.items()}
        figures = " | ".join(f"{value:.1f}" for value in took.values())
        native = took["native, float32"]
        print(
            f"| {tokens} | {figures} | {took['every expert'] / native:.1f} | {took['chosen tokens'] / native:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--ffn", type=int, default=512)
    given = parser.parse_args()
    torch.manual_seed(0)
    experts = Experts(given.experts, given.dim, given.ffn, gated(F.silu))
    for module in (experts.gate_up_proj, experts.down_proj):
        assert module.weight is not None
        torch.nn.init.normal_(module.weight, std=0.03)
    host = PluginHost.discover(PluginOptions(), strict=True)
    context = LinearContext(compute=torch.float32, device=torch.device("cpu"))
    method = host.build(host.linear_methods.get("native"), context)
    ways = {
        "every expert": lambda x, choice: every_expert(experts, x, choice),
        "chosen tokens": lambda x, choice: chosen_tokens(experts, x, choice),
        "brick": experts,
        "native, float32": packed(experts, method, torch.float32),
        "native, bfloat16": packed(experts, method, torch.bfloat16),
    }
    print(
        f"{given.experts} experts, top {given.top_k}, {given.dim} x {given.ffn}, {torch.get_num_threads()} threads, ms"
    )
    with torch.inference_mode():
        measure(
            ways,
            given.dim,
            lambda tokens: softmax_top_k(torch.randn(tokens, given.experts), given.top_k, normalised=True),
        )


if __name__ == "__main__":
    main()
