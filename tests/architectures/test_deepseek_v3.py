"""DeepSeek V3 against transformers: corrected sigmoids in groups, ropes in pairs and in halves, yarn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import DeepseekV3Config

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.architecture import read_spec
from maxserve.core.loading.location import ModelFolder
from maxserve.testing.architecture import ArchitectureCases, Case, QuirkChecks, run_step


def tiny(**changes: Any) -> DeepseekV3Config:
    sizes = {
        "vocab_size": 73,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "q_lora_rank": 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "first_k_dense_replace": 1,
    }
    return DeepseekV3Config(**{**sizes, **changes})


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32,
    "beta_slow": 1,
}


class Corrected(ArchitectureCases):
    architecture = "DeepseekV3ForCausalLM"

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        """With corrections large enough to matter: they are buffers, which are not made random as weights are."""
        model = super().reference(hf_config)
        generator = torch.Generator().manual_seed(1)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        return model


class TestDeepseekV3(Corrected, QuirkChecks):
    hf_configs: ClassVar = {
        "corrections": tiny(),
        "one group": tiny(n_group=1, topk_group=1),
        "weights as they are": tiny(norm_topk_prob=False, routed_scaling_factor=1.3),
        "yarn": tiny(rope_parameters=YARN),
        "halves, queries at once": tiny(rope_interleave=False, q_lora_rank=None),
        "biases, all layers sparse": tiny(attention_bias=True, first_k_dense_replace=0),
    }


class TestFurtherLayers(Corrected):
    hf_configs: ClassVar = {"plain": tiny()}

    @pytest.mark.parametrize(("count", "more"), [(None, [2]), (1, [2]), (2, [2, 3]), (0, [2])])
    def test_layers_that_predict_further_tokens_follow_the_models_own(
        self, case: Case, count: int | None, more: list[int], tmp_path: Path
    ) -> None:
        """However many layers the model has: not those of the one that was published first."""
        raw = json.loads((case.folder / "config.json").read_text())
        raw.pop("num_nextn_predict_layers", None)
        raw |= {} if count is None else {"num_nextn_predict_layers": count}
        (tmp_path / "config.json").write_text(json.dumps(raw))
        config = read_spec(case.host, case.entry, ModelFolder(path=str(tmp_path), config=raw))
        changed = replace(case, folder=tmp_path, config=config)
        tensors = {name: tensor for file in case.files for name, tensor in load_file(file).items()}
        further = {
            f"model.layers.{layer}.{end}": torch.ones(1) for layer in more for end in ("eh_proj.weight", "mlp.gate")
        }
        prompt = case.prompt(1)
        logits = run_step(changed.load_tensors(tensors | further), case.cache(), [(0, prompt)])
        self.check(logits, case.expected(prompt))
        with pytest.raises(ModelError, match=r"not in the model: model\.layers\.9"):
            changed.load_tensors({**tensors, "model.layers.9.eh_proj.weight": torch.ones(1)})
