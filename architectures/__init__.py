"""Which model families come with maxserve? Declared here, one file each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maxserve.core.components import Architecture, WeightMap
from maxserve.core.hookspecs import hookimpl

FUSED = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    },
    ignored=(r".*\.rotary_emb\.inv_freq",),  # saved by old releases of transformers; computed here
)

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


@hookimpl
def maxserve_architectures() -> Iterable[Architecture]:
    yield Architecture(
        name="LlamaForCausalLM",
        build="maxserve.architectures.llama:Model",
        weights=FUSED,
        summary="Llama 1 to 3 and what shares its shape",
        example_repos=("meta-llama/Llama-3.2-1B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    )
    yield Architecture(
        name="Qwen3ForCausalLM",
        build="maxserve.architectures.qwen3:Model",
        config="maxserve.architectures.qwen3:config",
        weights=FUSED,
        summary="Qwen 3, dense",
        example_repos=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B"),
    )
    yield from _encoders()


def _encoders() -> Iterable[Architecture]:
    """Models for embeddings and for scores of pairs."""
    yield Architecture(
        name="Qwen3Model",
        aliases=("Qwen3ForCausalLM",),
        task="embeddings_generation",
        build="maxserve.architectures.qwen3:EmbeddingModel",
        config="maxserve.architectures.qwen3:config",
        weights=replace(
            FUSED,
            renames=((r"^(embed_tokens|layers|norm)\.", r"model.\1."),),
            ignored=(*FUSED.ignored, r"^lm_head\."),
        ),
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
        example_repos=("BAAI/bge-m3", "intfloat/multilingual-e5-small"),
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
