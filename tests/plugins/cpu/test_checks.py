"""The compiled kernels pass what every plugin of their kinds passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maxserve.interfaces.component import Context
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.library import library_for
from maxserve.testing import AttentionChecks, LayerCompilerChecks, LinearMethodChecks
from maxserve.testing.layers import CONFIGS, OTHERS

pytestmark = pytest.mark.compiler


EXACT: dict[type[Any], Any] = {Config: Config(precision="exact")}
ROUNDED: dict[type[Any], Any] = {Config: Config(precision="fast")}


class TestAttention(AttentionChecks):
    attention = "native"
    sections = EXACT


class TestAttentionOverBfloat16(AttentionChecks):
    """With queries and weights that are rounded to 8 bits, where the processor multiplies such."""

    attention = "native"
    bfloat16_tolerance = 2e-2
    format_tolerance = 2e-2


class TestLinear(LinearMethodChecks):
    method = "native"
    sections = EXACT


class TestLinearAsTheProcessorIs(LinearMethodChecks):
    """With the precision that is the default: where rows are rounded, to 8 bits."""

    method = "native"
    tolerance = 1e-2


class TestLinearThatRounds(LinearMethodChecks):
    """With rows that are rounded for codes, too, where the processor multiplies such."""

    method = "native"
    sections = ROUNDED
    tolerance = 1e-2

    @pytest.fixture(autouse=True)
    def there_is_something_to_gain(self) -> None:
        library = library_for(Context())
        if not (library.ms_matrix_units() or library.ms_dot_units()):
            pytest.skip("this processor has no products of bfloat16")


class TestLayers(LayerCompilerChecks):
    compiler = "native"
    attention = "native"
    method = "native"
    must_stack = True
    must_compile = frozenset({*CONFIGS, *OTHERS} - {"olmo"})  # whose norms have no weight


class TestLayersOfBfloat16(TestLayers):
    """With rows that are rounded to 8 bits, where the processor multiplies such."""

    weights = torch.bfloat16
    tolerance = 3e-2
