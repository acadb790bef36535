"""Families that are wrong, each in one way that one of the checks must find."""

import torch

from maxserve import Architecture, WeightMap
from maxserve.architectures.layers import PreNormBlock
from maxserve.architectures.llama import Model
from maxserve.architectures.weight_maps import FUSED


class TwistedBlock(PreNormBlock):
    def forward(self, x, step):
        x = x + self.self_attn(self.input_layernorm(x), step)
        return x + 1.001 * self.mlp(self.post_attention_layernorm(x))


class LeakyBlock(PreNormBlock):
    """Lets every token see a bit of the rest of its step."""

    def forward(self, x, step):
        return super().forward(x, step) + 0.01 * x.mean(dim=0)


class ForgetfulBlock(PreNormBlock):
    """Is right as long as a sequence starts with its step."""

    def forward(self, x, step):
        first = int(step.inputs.positions[0])
        if first:
            step.rotations = torch.ones_like(step.rotations)
            step.rotations[:, step.rotations.shape[1] // 2 :] = 0
        return super().forward(x, step)


class Shortsighted(Model):
    """Takes every chunk's end for the prompt's, as who reads the lengths of a call does."""

    def forward(self, step):
        step.inputs.prompt_lens = step.inputs.seq_lens
        return super().forward(step)


def model(block):
    return type("Wrong", (Model,), {"Block": block})


class Eager(Model):
    """Allocates while it is built."""

    def __init__(self, config):
        super().__init__(config)
        self.model.norm.weight = torch.nn.Parameter(torch.ones(config.dim, device="cpu"), requires_grad=False)


SWAPPED = WeightMap(fused={**FUSED.fused, "gate_up_proj": ("up_proj", "gate_proj")})
UNFUSED = WeightMap(fused={"qkv_proj": ("q_proj", "k_proj", "v_proj")})

ARCHITECTURES = [
    Architecture(name="Twisted", build=model(TwistedBlock), weights=FUSED),
    Architecture(name="Leaky", build=model(LeakyBlock), weights=FUSED),
    Architecture(name="Forgetful", build=model(ForgetfulBlock), weights=FUSED),
    Architecture(name="Eager", build=Eager, weights=FUSED),
    Architecture(name="Shortsighted", build=Shortsighted, weights=FUSED),
    Architecture(name="Swapped", build=Model, weights=SWAPPED),
    Architecture(name="Unfused", build=Model, weights=UNFUSED),
]
