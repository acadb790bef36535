from __future__ import annotations

from maxserve.testing import SpeculatorChecks


class TestPairLookup(SpeculatorChecks):
    speculator = "pair-lookup"
