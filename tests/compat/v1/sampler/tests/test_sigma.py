from __future__ import annotations

from sigma_sampler import TopNSigma

from maxserve.testing import SamplerChecks


class TestTopNSigma(SamplerChecks):
    sampler = "top_n_sigma"
    cases = (TopNSigma(0.0), TopNSigma(0.5), TopNSigma(2.0))
    bad = ({"top_n_sigma": -1.0}, {"top_n_sigma": 101.0})
