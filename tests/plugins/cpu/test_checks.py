"""The compiled kernels pass what every plugin of their kinds passes."""

from __future__ import annotations

import pytest

from maxserve.testing import AttentionChecks, LayerCompilerChecks, LinearMethodChecks
from maxserve.testing.layers import CONFIGS, OTHERS

pytestmark = pytest.mark.compiler


class TestAttention(AttentionChecks):
    attention = "native"


class TestLinear(LinearMethodChecks):
    method = "native"


class TestLayers(LayerCompilerChecks):
    compiler = "native"
    attention = "native"
    method = "native"
    must_compile = frozenset({*CONFIGS, *OTHERS} - {"olmo"})  # whose norms have no weight
