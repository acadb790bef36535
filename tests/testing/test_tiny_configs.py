"""Whatever model class is named, its tiny config is small, whole, and of its kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maxserve.testing.tiny_configs import EXPERTS, VOCAB, model_class, tiny_config

CLASSES = (
    "LlamaForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",
    "Phi3ForCausalLM",
    "GptOssForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV2ForCausalLM",
    "Llama4ForCausalLM",
    "Cohere2ForCausalLM",
    "OPTForCausalLM",
    "GPT2LMHeadModel",
    "NemotronForCausalLM",
    "BertModel",
)


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_small_and_can_be_built(name: str) -> None:
    with torch.device("meta"):
        model: Any = model_class(name)._from_config(tiny_config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_500_000
    assert model.get_input_embeddings().weight.shape[0] == VOCAB
    text = model.config.get_text_config()
    ids = [getattr(text, f"{which}_token_id", None) for which in ("bos", "eos", "pad")]
    assert all(id < VOCAB for id in ids if isinstance(id, int))


def test_one_layer_of_each_sort_stays() -> None:
    gemma = tiny_config("Gemma3ForCausalLM")
    assert gemma.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert (gemma.num_hidden_layers, gemma.sliding_window) == (3, 16)
    llama = tiny_config("Llama4ForCausalLM")
    assert set(llama.layer_types) == {"chunked_attention", "full_attention"}
    assert [bool(each) for each in llama.no_rope_layers] == [kind != "full_attention" for kind in llama.layer_types]
    assert llama.moe_layers == list(range(llama.num_hidden_layers))
    deepseek = tiny_config("DeepseekV3ForCausalLM")
    assert 0 < deepseek.first_k_dense_replace < deepseek.num_hidden_layers
    assert (deepseek.n_routed_experts, deepseek.num_key_value_heads) == (EXPERTS, deepseek.num_attention_heads)


def test_nothing_else_changes_but_what_is_said() -> None:
    kept = tiny_config("Gemma2ForCausalLM")
    assert (kept.final_logit_softcapping, kept.attn_logit_softcapping) == (30.0, 50.0)
    changed = tiny_config("Gemma2ForCausalLM", num_hidden_layers=2, layer_types=["full_attention"] * 2, vocab_size=11)
    assert (changed.num_hidden_layers, changed.vocab_size, changed.hidden_size) == (2, 11, kept.hidden_size)
    rope = tiny_config("GptOssForCausalLM").rope_parameters
    assert (rope["rope_type"], rope["original_max_position_embeddings"]) == ("yarn", 64)


def test_config_classes_will_do_and_unknown_names_will_not() -> None:
    from transformers import LlamaConfig

    assert tiny_config(LlamaConfig).to_dict() == tiny_config("LlamaForCausalLM").to_dict()
    for name in ("AcmeForCausalLM", "LlamaConfig", "pipeline"):
        with pytest.raises(LookupError, match=f"has no model class '{name}'"):
            tiny_config(name)
