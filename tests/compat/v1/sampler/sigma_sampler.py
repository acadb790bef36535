"""Top-n-sigma (arXiv:2411.07641): keep the tokens whose logit is at most n standard deviations below the best."""

import math
from typing import Annotated

from pydantic import Field

from maxserve import by_row, hookimpl


def top_n_sigma(logits, top_n_sigma: Annotated[float, Field(ge=0, le=100)] = 0.0):
    """Drop tokens far below the best; 0 drops none."""
    known = logits.where(logits.isfinite(), math.nan)  # -inf: dropped by another sampler
    spread = (known - known.nanmean(-1, keepdim=True)).square().nanmean(-1, keepdim=True).sqrt()
    far = logits < logits.amax(-1, keepdim=True) - top_n_sigma * spread
    return logits.masked_fill(far & (top_n_sigma > 0), -math.inf)


@hookimpl
def maxserve_samplers():
    yield by_row(top_n_sigma, keeps_argmax=True)
