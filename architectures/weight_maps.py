"""Names of the families' parameters in checkpoints."""

from __future__ import annotations

from dataclasses import replace

from maxserve.interfaces.architecture import WeightMap

FUSED = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    },
    ignored=(r".*\.rotary_emb\.inv_freq",),  # saved by old releases of transformers; computed here
)

EXPERTS = replace(
    FUSED,
    stacked=("experts",),
    # Some checkpoints have all experts in one tensor, which is no module's weight there.
    renames=((r"(\.experts\.(?:gate_up|down)_proj)$", r"\1.weight"), (r"(\.experts\..+_proj)_bias$", r"\1.bias")),
)
LATENT = replace(EXPERTS, fused={"gate_up_proj": FUSED.fused["gate_up_proj"]})  # q_proj has no k_proj beside it
OTHER_WAY_ROUND = (r"\.experts\.(gate_up|down)_proj\.weight$",)  # [experts, inputs, outputs] where unquantized

MIMO = replace(FUSED, ignored=(r"^model\.mtp_layers\.", *FUSED.ignored))  # which predict further tokens

EXAONE = replace(
    FUSED,
    renames=(
        (r"^transformer\.wte\.", "model.embed_tokens."),
        (r"^transformer\.ln_f\.", "model.norm."),
        (r"^transformer\.h\.", "model.layers."),
        (r"\.attn\.attention\.", ".self_attn."),
        (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
        (r"\.ln_1\.", ".input_layernorm."),
        (r"\.ln_2\.", ".post_attention_layernorm."),
        (r"\.mlp\.c_fc_0\.", ".mlp.gate_proj."),
        (r"\.mlp\.c_fc_1\.", ".mlp.up_proj."),
        (r"\.mlp\.c_proj\.", ".mlp.down_proj."),
    ),
)

# The text part goes by several names, and so do the modules beside it: those of transformers today come last.
VISION_LANGUAGE = WeightMap(
    fused=FUSED.fused,
    renames=(
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^(model\.language_model|language_model\.model|model\.text_model)\.", "model."),
        (r"^(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|connector)\.", r"tower.\2."),
        (r"^tower\.vision_tower\.vision_model\.", "tower.vision_tower."),
    ),
    ignored=(*FUSED.ignored, r"\.position_ids$"),
)

# InternVL as its authors write it. `vision_model.` and a number mark the tower's layers, as text has norms too.
INTERNVL_CHAT = WeightMap(
    fused=FUSED.fused,
    split={"qkv": ("q_proj", "k_proj", "v_proj")},
    renames=(
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^language_model\.model\.", "model."),
        (r"^mlp1\.0\.", "tower.multi_modal_projector.layer_norm."),
        (r"^mlp1\.1\.", "tower.multi_modal_projector.linear_1."),
        (r"^mlp1\.3\.", "tower.multi_modal_projector.linear_2."),
        (r"^vision_model\.embeddings\.class_embedding$", "tower.vision_tower.embeddings.cls_token"),
        (r"^vision_model\.embeddings\.position_embedding$", "tower.vision_tower.embeddings.position_embeddings"),
        (r"^vision_model\.embeddings\.patch_embedding\.", "tower.vision_tower.embeddings.patch_embeddings.projection."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.attn\.proj\.", r"vision_model.\1.attention.projection_layer."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.attn\.", r"vision_model.\1.attention."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.norm1\.", r"vision_model.\1.layernorm_before."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.norm2\.", r"vision_model.\1.layernorm_after."),
        (r"^vision_model\.encoder\.layers\.(\d+)\.ls([12])$", r"vision_model.\1.lambda_\2"),
        (r"^vision_model\.encoder\.layers\.(\d+)\.", r"vision_model.\1."),
        (r"^vision_model\.(\d+)\.", r"tower.vision_tower.encoder.layer.\1."),
    ),
    ignored=FUSED.ignored,
)
