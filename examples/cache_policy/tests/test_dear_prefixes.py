from __future__ import annotations

from maxserve.testing import EvictionPolicyChecks


class TestDearPrefixes(EvictionPolicyChecks):
    policy = "dear-prefixes"
