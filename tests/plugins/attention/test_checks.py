"""torch's own operations pass what every attention back end passes."""

from __future__ import annotations

from maxserve.testing import AttentionChecks


class TestTorch(AttentionChecks):
    attention = "torch"
