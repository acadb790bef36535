"""The model families for embeddings and scores that come with maxserve. Declared here, one file each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maxserve.interfaces.architecture import Architecture, WeightMap

ENCODER = WeightMap(
    fused={"qkv": ("query", "key", "value")},
    renames=(
        (r"^(bert|roberta|mpnet)\.", ""),
        (r"\.gamma$", ".weight"),  # what old releases of transformers called those of norms
        (r"\.beta$", ".bias"),
        (r"\.attention\.attn\.q\.", ".attention.self.query."),  # MPNet's names, from here on
        (r"\.attention\.attn\.k\.", ".attention.self.key."),
        (r"\.attention\.attn\.v\.", ".attention.self.value."),
        (r"\.attention\.attn\.o\.", ".attention.output.dense."),
        (r"\.attention\.LayerNorm\.", ".attention.output.LayerNorm."),
    ),
    ignored=(r"^cls\.", r"^lm_head\.", r"\.position_ids$", r"\.token_type_ids$"),
)
HEADLESS = replace(ENCODER, ignored=(*ENCODER.ignored, r"^((bert|roberta|mpnet)\.)?pooler\."))
QWEN3 = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    },
    renames=((r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
    ignored=(r".*\.rotary_emb\.inv_freq", r"^lm_head\."),
)


def encoders() -> Iterable[Architecture]:
    """Models for embeddings and for scores of pairs."""
    yield Architecture(
        name="Qwen3Model",
        aliases=("Qwen3ForCausalLM",),
        task="embeddings_generation",
        build="maxserve.architectures.qwen3:EmbeddingModel",
        config="maxserve.architectures.qwen3:config",
        weights=QWEN3,
        matryoshka=True,
        summary="Qwen 3 for embeddings",
        example_repos=("Qwen/Qwen3-Embedding-0.6B",),
    )
    yield Architecture(
        name="BertModel",
        aliases=("BertForMaskedLM",),
        task="embeddings_generation",
        build="maxserve.architectures.bert:Model",
        config="maxserve.architectures.bert:config",
        weights=HEADLESS,
        summary="BERT for embeddings",
        example_repos=("sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"),
    )
    yield Architecture(
        name="RobertaModel",
        aliases=("RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM"),
        task="embeddings_generation",
        build="maxserve.architectures.roberta:Model",
        config="maxserve.architectures.roberta:config",
        weights=HEADLESS,
        summary="RoBERTa and XLM-RoBERTa for embeddings",
        example_repos=("intfloat/multilingual-e5-base", "sentence-transformers/all-roberta-large-v1"),
    )
    yield Architecture(
        name="MPNetModel",
        aliases=("MPNetForMaskedLM",),
        task="embeddings_generation",
        build="maxserve.architectures.mpnet:Model",
        config="maxserve.architectures.mpnet:config",
        weights=HEADLESS,
        summary="MPNet for embeddings",
        example_repos=("sentence-transformers/all-mpnet-base-v2",),
    )
    yield Architecture(
        name="BertForSequenceClassification",
        task="scoring",
        build="maxserve.architectures.bert:ScoringModel",
        config="maxserve.architectures.bert:scoring_config",
        weights=ENCODER,
        summary="BERT as a cross-encoder",
        example_repos=("cross-encoder/ms-marco-MiniLM-L6-v2",),
    )
    yield Architecture(
        name="RobertaForSequenceClassification",
        aliases=("XLMRobertaForSequenceClassification",),
        task="scoring",
        build="maxserve.architectures.roberta:ScoringModel",
        config="maxserve.architectures.roberta:scoring_config",
        weights=HEADLESS,
        summary="RoBERTa and XLM-RoBERTa as cross-encoders",
        example_repos=("BAAI/bge-reranker-v2-m3",),
    )
