"""DeepSeek V3.2's layer that predicts further tokens, whose tokens choose few of those before them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from maxserve.testing.architecture import randomised
from maxserve.testing.draft_head import DraftHeadQuirkChecks
from tests.plugins.speculation.test_mtp import DeepseekV3, Exported, NextN

v32 = pytest.importorskip(
    "transformers.models.deepseek_v32.modeling_deepseek_v32", reason="this transformers has no DeepSeek V3.2"
)


class DeepseekV32(DeepseekV3):
    """Prompts are longer than `index_topk`, so that most tokens are not looked at."""

    family: ClassVar[str] = "DeepseekV32ForCausalLM"
    changes: ClassVar[dict[str, Any]] = {"layer_types": None, "mlp_layer_types": None}

    def head(self, config: Any) -> Any:
        layer = v32.DeepseekV32DecoderLayer(config, self.layers - 1)  # a mixture, as the one behind it
        return randomised(NextN(layer, v32.DeepseekV32RotaryEmbedding(config), config.hidden_size))


class TestDeepseekV32(DeepseekV32, DraftHeadQuirkChecks):
    pass


class TestDeepseekV32Exported(DeepseekV32, Exported, DraftHeadQuirkChecks):
    """Its config.json says of 2 layers which are mixtures, and has one."""

    exported: ClassVar[str] = "DeepseekV32ForCausalLMNextN"


class TestDeepseekV32ExportedAsV3(DeepseekV32, Exported, DraftHeadQuirkChecks):
    """Exported by the class that SGLang has for both."""

    exported: ClassVar[str] = "DeepseekV3ForCausalLMNextN"
