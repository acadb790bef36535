"""The frequencies of rotary positions: one function per scaling, as transformers defines them.

Two scalings depend on a length, for which transformers takes that of the text up to the last token of each forward
call. `longrope` has a set of frequencies for lengths up to the original one and a set for longer ones. Which of them
rotates a token is decided by the longer of its sequence's prompt and the text up to the token itself (rotary.py): what
transformers gives for a prompt in one call and then a call for each generated token, but here in every chunking, batch
and recomputation. Keys of a generated text that outgrew the original length are therefore of both sets, as there;
those of a prompt that repeats it are not, which is why `ModelConfig.prompt_regimes` keeps their prefixes apart.

`dynamic` stretches texts longer than `max_position_embeddings`. No text here is: its frequencies are the plain ones,
as those of transformers are up to that length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from maxserve.architectures.layers.config import RopeConfig

Frequencies = tuple[Tensor, float]


def frequencies(rope: RopeConfig, head_dim: int, length: int) -> Frequencies:
    """Radians per position [width / 2] in texts of `length`, float32 on the CPU, and the factor for cosine and sine."""
    with torch.device("cpu"):  # also where the model around it is being built on the meta device
        return _KINDS[rope.kind](rope, rope.share(head_dim), length)


def _exponents(width: int) -> Tensor:
    return torch.arange(0, width, 2, dtype=torch.int64).float() / width


def _default(rope: RopeConfig, width: int, length: int) -> Frequencies:
    return 1.0 / (rope.theta ** _exponents(width)), 1.0


def _linear(rope: RopeConfig, width: int, length: int) -> Frequencies:
    return _default(rope, width, length)[0] / rope.factor, 1.0


def _dynamic(rope: RopeConfig, width: int, length: int) -> Frequencies:
    stretch = rope.factor * max(length, rope.original_length) / rope.original_length - (rope.factor - 1)
    theta = rope.theta * stretch ** (width / (width - 2))
    return 1.0 / (theta ** _exponents(width)), 1.0


def _proportional(rope: RopeConfig, width: int, length: int) -> Frequencies:
    rotated = int(rope.partial * width // 2)
    still = torch.zeros(width // 2 - rotated, dtype=torch.float32)
    return torch.cat((1.0 / (rope.theta ** _exponents(width)[:rotated]), still)) / rope.factor, 1.0


def _llama3(rope: RopeConfig, width: int, length: int) -> Frequencies:
    """Keeps short waves, stretches long ones, blends between."""
    plain = _default(rope, width, length)[0]
    rotations = rope.original_length * plain / (2 * math.pi)  # of each frequency within the original length
    blend = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * plain / rope.factor + blend * plain, 1.0


def _longrope(rope: RopeConfig, width: int, length: int) -> Frequencies:
    chosen = rope.long_factor if length > rope.original_length else rope.short_factor
    factors = torch.tensor(chosen, dtype=torch.float32)
    scale = rope.attention_factor
    if scale is None:
        spread = math.log(rope.factor) / math.log(rope.original_length)
        scale = math.sqrt(1 + spread) if rope.factor > 1.0 else 1.0
    return 1.0 / (factors * rope.theta ** _exponents(width)), scale


def _yarn(rope: RopeConfig, width: int, length: int) -> Frequencies:
    """Keeps the frequencies that rotate often within the original length, stretches the others, with a ramp between."""
    plain = _default(rope, width, length)[0]
    low, high = _yarn_range(rope, width)
    ramp = ((torch.arange(width // 2).float() - low) / (high - low)).clamp(0.0, 1.0)
    return plain / rope.factor * ramp + plain * (1 - ramp), _yarn_scale(rope)


def _yarn_range(rope: RopeConfig, width: int) -> tuple[float, float]:
    def index(rotations: float) -> float:
        return width * math.log(rope.original_length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = index(rope.beta_fast), index(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    return low, high if low != high else high + 0.001


def _yarn_scale(rope: RopeConfig) -> float:
    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1.0 if rope.factor > 1.0 else 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


_KINDS: Mapping[str, Callable[[RopeConfig, int, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "proportional": _proportional,
    "llama3": _llama3,
    "longrope": _longrope,
    "yarn": _yarn,
}
