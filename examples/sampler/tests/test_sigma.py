from __future__ import annotations

from maxserve.testing import SamplerChecks


class TestTopNSigma(SamplerChecks):
    sampler = "top_n_sigma"
    cases = ({"top_n_sigma": 0.0}, {"top_n_sigma": 0.5}, {"top_n_sigma": 2.0})
    bad = ({"top_n_sigma": -1.0}, {"top_n_sigma": 101.0})
