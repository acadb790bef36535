"""Encoders in GGUF files give the vectors, and the scores, of the models of transformers that they were made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from maxserve.core.config import resolve
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.request import EncodeRequest
from maxserve.core.loading.model_loader import engine_context
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.embeddings import assemble
from maxserve.plugins.gguf.container import Container
from maxserve.plugins.gguf.tokenizer import tokenizer_of
from maxserve.testing.architecture import randomised

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it's 2024; we've 123456 things & more...",
    "na\u00efve caf\u00e9 \u4f60\u597d\uff0c\u4e16\u754c\u3002 the words of the world return to spaces",
]
TEXTS = [
    "The naive Fox jumps.",
    "  two  spaces, a\ttab\nand a line ",
    "caf\u00e9 CAFE\u0301 \u4f60\u597d 3.14 $5 x\u00b2",
    "unknown \U0001f44d\U0001f3fd \u0430",
    "the [MASK] <mask> of it</s>",
    "",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CONTROLS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def word_pieces(*, lowercase: bool) -> tuple[Tokenizer, dict[str, Any]]:
    """A trained WordPiece as BERT's, and what llama.cpp's converter makes of it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])

    def stored(token: str) -> str:
        if token in SPECIAL:
            return token
        return token[2:] if token.startswith("##") else "\u2581" + token

    given = {
        "model": "bert",
        "tokens": [stored(token) for token in tokens],
        "token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "unknown_token_id": 1,
        "cls_token_id": 2,
        "seperator_token_id": 3,
        "padding_token_id": 0,
    }
    return tokenizer, {f"tokenizer.ggml.{key}": value for key, value in given.items()}


def unigrams() -> tuple[Tokenizer, dict[str, Any]]:
    """A trained Unigram with the special tokens of XLM-RoBERTa, and what llama.cpp's converter makes of it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(vocab_size=140, special_tokens=CONTROLS, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROLS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    pieces = json.loads(tokenizer.to_str())["model"]["vocab"]
    given = {
        "model": "t5",
        "tokens": [piece for piece, _ in pieces],
        "scores": [score for _, score in pieces],
        "token_type": [2 if piece == "<unk>" else 3 if piece in CONTROLS else 1 for piece, _ in pieces],
        "unknown_token_id": 3,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    return tokenizer, {f"tokenizer.ggml.{key}": value for key, value in given.items()}


def read(metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer_of(Container(path="a.gguf", metadata=metadata, tensors={}))))


@pytest.mark.parametrize("kind", ["small letters", "letters", "unigrams"])
def test_texts_and_pairs_have_the_same_ids(kind: str) -> None:
    tokenizer, metadata = unigrams() if kind == "unigrams" else word_pieces(lowercase=kind == "small letters")
    again = read(metadata)
    for text in TEXTS:
        for encoded in [(text,), (text, TEXTS[0])]:
            expected, found = tokenizer.encode(*encoded), again.encode(*encoded)
            assert (found.ids, found.type_ids) == (expected.ids, expected.type_ids)
        assert again.encode(text, add_special_tokens=False).ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_what_a_file_says_of_letters_holds() -> None:
    tokenizer, metadata = word_pieces(lowercase=True)
    keys = {"tokenizer.ggml.normalizer.lowercase": True, "tokenizer.ggml.normalizer.strip_accents": False}
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    for text in TEXTS:
        assert read({**metadata, **keys}).encode(text).ids == tokenizer.encode(text).ids


def test_spaces_are_kept_where_pieces_have_several() -> None:
    _, metadata = unigrams()
    metadata["tokenizer.ggml.remove_extra_whitespaces"] = False
    assert read(metadata).encode("the  fox ").ids == read(metadata).encode("the fox").ids
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "\u2581\u2581\u2581"]
    metadata["tokenizer.ggml.scores"] = [*metadata["tokenizer.ggml.scores"], -1.0]
    assert "\u2581\u2581\u2581" in read(metadata).encode("the   fox").tokens
    assert "\u2581\u2581\u2581" in read(metadata).encode("  fox").tokens  # one is put in front


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [1.0]}, r"has no tokenizer.ggml.scores of its \d+ tokens"),
        ({"unknown_token_id": 10**6}, r"unknown_token_id is 1000000, and there are \d+ tokens"),
        ({"precompiled_charsmap": "abc"}, r"precompiled_charsmap is no list of bytes"),
        ({"precompiled_charsmap": [1, 999]}, r"precompiled_charsmap is no list of bytes"),
    ],
)
def test_damage_is_named(changes: Mapping[str, Any], message: str) -> None:
    metadata = unigrams()[1] | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(ModelError, match=message):
        tokenizer_of(Container(path="a.gguf", metadata=metadata, tensors={}))


DISTILLED = {"dim": 256, "hidden_dim": 512, "n_layers": 2, "n_heads": 4}


def tiny(kind: str, size: int, labels: int = 0, **more: Any) -> Any:
    sizes = {
        "vocab_size": size,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        **(DISTILLED if kind == "distilbert" else {}),
        **({"num_labels": labels} if labels else {}),
        **more,
    }
    config = AutoConfig.for_model(kind, **sizes)
    auto: Any = AutoModelForSequenceClassification if labels else AutoModel
    return randomised(auto.from_config(config, attn_implementation="eager").eval())


def write(
    path: Path, model: Any, metadata: Mapping[str, Any], *, types: Mapping[str, Type] = {}, skip: int = 0
) -> None:
    """The model as llama.cpp's converter writes it, without the first positions; it gets what is read back."""
    config = model.config
    writer = GGUFWriter(path, "bert")
    writer.add_context_length(config.max_position_embeddings - skip)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(512)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(1e-12 if config.model_type == "distilbert" else config.layer_norm_eps)
    writer.add_causal_attention(False)
    for key, value in metadata.items():
        add: dict[type, Any] = {
            str: writer.add_string,
            bool: writer.add_bool,
            list: writer.add_array,
            int: writer.add_uint32,
        }
        add[type(value)](key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pooler" in name:
                continue
            new = names.get_name(name.removeprefix("roberta."), try_suffixes=(".weight", ".bias"))
            assert new is not None, name
            kept = parameter[skip:] if "position_embeddings" in name else parameter
            values = np.ascontiguousarray(kept.numpy())
            form = types.get(new.split(".")[-2], Type.F32) if values.ndim > 1 else Type.F32
            data = values if form == Type.F32 else gguf.quants.quantize(values, form)
            if form != Type.F32:
                kept.copy_(torch.from_numpy(gguf.quants.dequantize(data, form).reshape(values.shape)))
            writer.add_tensor(new, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def engine(path: Path, **options: Any) -> Any:
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    settings = resolve({"model_path": str(path), **options}, environ={})
    files = resolve_model(settings.model, host, progress=NullProgress())
    return assemble.build(engine_context(settings, host, files, NullProgress()))


def encoded(built: Any, texts: list[tuple[int, ...]], *, activation: bool = True) -> list[torch.Tensor]:
    """The vector, or the score, of each text."""
    built.add(EncodeRequest(id="a", texts=tuple(texts), activation=activation))
    found: dict[int, torch.Tensor] = {}
    while built.busy:
        for result in built.step():
            assert result.error is None
            vectors = np.frombuffer(result.data, dtype=np.float32).reshape(len(result.indices), -1).copy()
            found |= dict(zip(result.indices, torch.from_numpy(vectors), strict=True))
    return [found[index] for index in range(len(texts))]


POOLINGS: Mapping[int, Callable[[torch.Tensor], torch.Tensor]] = {
    1: lambda hidden: hidden.mean(0),
    2: lambda hidden: hidden[0],
    3: lambda hidden: hidden[-1],
}
PACKED = {
    "attn_q": Type.Q8_0,
    "attn_k": Type.Q4_0,
    "attn_output": Type.Q8_0,
    "attn_v": Type.Q5_0,
    "ffn_up": Type.Q4_0,
    "ffn_down": Type.Q4_1,
    "token_embd": Type.Q8_0,
}


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", 1), ("bert", 2), ("distilbert", 1), ("xlm-roberta", 1), ("xlm-roberta", 3)]
)
def test_vectors_of_texts(kind: str, pooling: int, tmp_path: Path) -> None:
    """Pooled as the file says, and normalized as llama.cpp does. Some are packed, all of a fused weight or a part."""
    berts = kind != "xlm-roberta"
    tokenizer, metadata = word_pieces(lowercase=True) if berts else unigrams()
    model = tiny(kind, tokenizer.get_vocab_size(), **({} if berts else {"pad_token_id": 1, "type_vocab_size": 1}))
    path = tmp_path / "tiny.gguf"
    packed = {1: {}, 2: PACKED, 3: {**PACKED, "attn_k": Type.F32}}[pooling]
    write(path, model, {**metadata, "bert.pooling_type": pooling}, types=packed, skip=0 if berts else 2)
    texts = [tuple(read(metadata).encode(text).ids) for text in TEXTS]
    built = engine(path)
    assert (built.info.task, built.info.max_length) == ("embeddings_generation", 64 if berts else 62)
    for text, vector in zip(texts, encoded(built, texts), strict=True):
        with torch.inference_mode():
            expected = POOLINGS[pooling](model(torch.tensor([text])).last_hidden_state[0])
        torch.testing.assert_close(vector, expected / expected.norm(), atol=1e-5, rtol=1e-4)


def test_scores_of_pairs(tmp_path: Path) -> None:
    """A cross-encoder, as bge-reranker-v2-m3 is one."""
    tokenizer, metadata = unigrams()
    model = tiny("xlm-roberta", tokenizer.get_vocab_size(), 1, pad_token_id=1, type_vocab_size=1)
    write(tmp_path / "tiny.gguf", model, {**metadata, "bert.pooling_type": 4}, skip=2)
    pairs = [tuple(read(metadata).encode(text, TEXTS[0]).ids) for text in TEXTS]
    built = engine(tmp_path / "tiny.gguf")
    assert built.info.task == "scoring"
    for pair, score in zip(pairs, encoded(built, pairs, activation=False), strict=True):
        with torch.inference_mode():
            torch.testing.assert_close(score, model(torch.tensor([pair])).logits[0], atol=1e-5, rtol=1e-4)


def test_a_classifier_without_its_pooler_is_refused(tmp_path: Path) -> None:
    tokenizer, metadata = unigrams()
    model = tiny("xlm-roberta", tokenizer.get_vocab_size(), 1)
    model.classifier.dense = None
    write(tmp_path / "tiny.gguf", model, metadata)
    with pytest.raises(ModelError, match=r"its classifier, cls.output, has no layer before it"):
        engine(tmp_path / "tiny.gguf")
