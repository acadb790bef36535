"""Top-n-sigma (arXiv:2411.07641): keep the tokens whose logit is at most n standard deviations below the best."""

import math
from dataclasses import dataclass

from maxserve import Sampler, hookimpl


@dataclass(frozen=True)
class TopNSigma:
    top_n_sigma: float = 0.0  # the request field; 0 drops no token

    def __post_init__(self):
        if not 0 <= self.top_n_sigma <= 100:
            raise ValueError(f"top_n_sigma must be between 0 and 100, got {self.top_n_sigma}")


class TopNSigmaTransform:
    def prepare(self, rows):
        return rows.tensor([p.top_n_sigma or math.inf for p in rows.params(TopNSigma)])[:, None]

    def apply(self, logits, n):
        known = logits.where(logits.isfinite(), math.nan)  # -inf: dropped by another sampler
        spread = (known - known.nanmean(-1, keepdim=True)).square().nanmean(-1, keepdim=True).sqrt()
        return logits.masked_fill(logits < logits.amax(-1, keepdim=True) - n * spread, -math.inf)


@hookimpl
def maxserve_samplers():
    yield Sampler(name="top_n_sigma", params=TopNSigma, build=lambda ctx: TopNSigmaTransform(), keeps_argmax=True)
