"""Top-n-sigma (arXiv:2411.07641): keep the tokens whose logit is at most n standard deviations below the best."""

from __future__ import annotations

from dataclasses import dataclass

from maxserve import Sampler, hookimpl


@dataclass(frozen=True, slots=True)
class TopNSigma:
    """Drop tokens whose logit lies more than this many standard deviations below the best; 0 drops none."""

    top_n_sigma: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.top_n_sigma <= 100.0:
            raise ValueError(f"top_n_sigma must be between 0 and 100, got {self.top_n_sigma}")


class TopNSigmaTransform:
    def prepare(self, rows):
        wanted = [p.top_n_sigma for p in rows.params(TopNSigma)]
        return rows.tensor([n or float("inf") for n in wanted])[:, None] if any(wanted) else None

    def apply(self, logits, deviations):
        finite = logits.isfinite()
        count = finite.sum(dim=-1, keepdim=True)
        values = logits.masked_fill(~finite, 0.0)
        mean = values.sum(dim=-1, keepdim=True) / count
        spread = ((values - mean).square() * finite).sum(dim=-1, keepdim=True).div(count).sqrt()
        floor = logits.amax(dim=-1, keepdim=True) - deviations * spread.clamp(min=1e-12)
        return logits.masked_fill(logits < floor, float("-inf"))


@hookimpl
def maxserve_samplers():
    yield Sampler(
        name="top_n_sigma",
        params=TopNSigma,
        build=lambda ctx: TopNSigmaTransform(),
        summary="keeps tokens within n standard deviations of the best",
        stage=30,
        keeps_argmax=True,
    )
