"""EXAONE 3 against transformers, which runs it as a Llama; checkpoints in EXAONE's own names and in the usual ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maxserve.core.testing.architecture import ArchitectureChecks, randomised, run_step

transformers: Any = pytest.importorskip("transformers")
if not hasattr(transformers, "ExaoneConfig"):
    pytest.skip("this transformers has no EXAONE 3 of its own", allow_module_level=True)


def tiny(**changes: Any) -> Any:
    sizes = {
        "vocab_size": 83,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    return transformers.ExaoneConfig(**{**sizes, **changes})


class TestExaone(ArchitectureChecks):
    architecture = "ExaoneForCausalLM"
    hf_configs: ClassVar = {
        "plain": tiny(),
        "tied, one key head": tiny(tie_word_embeddings=True, num_key_value_heads=1),
        "relu, large eps": tiny(activation_function="relu", layer_norm_epsilon=1e-2),
        "llama3": tiny(
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 1e6,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        ),
    }


OWN_NAMES = {
    "model.embed_tokens.": "transformer.wte.",
    "model.layers.": "transformer.h.",
    "model.norm.": "transformer.ln_f.",
    ".self_attn.o_proj.": ".attn.attention.out_proj.",
    ".self_attn.": ".attn.attention.",
    ".input_layernorm.": ".ln_1.",
    ".post_attention_layernorm.": ".ln_2.",
    ".mlp.gate_proj.": ".mlp.c_fc_0.",
    ".mlp.up_proj.": ".mlp.c_fc_1.",
    ".mlp.down_proj.": ".mlp.c_proj.",
}


@pytest.mark.parametrize("own", [False, True])
def test_names_of_the_weights(tmp_path: Path, own: bool) -> None:
    reference = randomised(TestExaone.reference(tiny()))
    reference.save_pretrained(tmp_path)  # type: ignore[operator]
    file = tmp_path / "model.safetensors"
    names = {key: key for key in load_file(file)}
    for usual, other in OWN_NAMES.items():
        before, after = (usual, other) if own else (other, usual)
        names = {key: name.replace(before, after) for key, name in names.items()}
    save_file({names[key]: tensor for key, tensor in load_file(file).items()}, file)
    with safe_open(file, framework="pt") as opened:
        assert any(key.startswith("transformer.") for key in opened.keys()) is own  # noqa: SIM118
    case = TestExaone.case_of(tmp_path, reference)
    prompt = case.prompt(1)
    torch.testing.assert_close(
        run_step(case.load(), case.cache(), [(0, prompt)]), case.expected(prompt), rtol=0, atol=1e-4
    )
