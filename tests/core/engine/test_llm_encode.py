"""`LLM.encode` and `LLM.score` against sentence-transformers, on tiny random models of every family and pooling."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from maxserve import LLM
from maxserve.core.interfaces.errors import ModelError, RequestError, SettingsError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from tests.conftest import write_recipe

TEXTS = [
    "the quick brown fox",
    "jumps",
    "over the lazy dog while the early bird catches the worm",
    "a b c",
    "the early bird",
    "query : the worm",
]
QWEN: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 8}
KINDS = {
    "bert": ("bert", {}),
    "mpnet": ("mpnet", {"pad_token_id": 1}),
    "roberta": ("roberta", {"pad_token_id": 1}),
    "xlm": ("xlm-roberta", {"pad_token_id": 1}),
    "qwen3": ("qwen3", QWEN),
}


@pytest.fixture(scope="module")
def host() -> Host:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


@pytest.fixture
def copied(encoder_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of an encoder's folder that a test may change."""

    def copy(*args: Any, **changes: Any) -> Path:
        return Path(shutil.copytree(encoder_folder(*args, **changes), tmp_path / "copy"))

    return copy


def theirs(folder: Path, texts: list[str] = TEXTS, **options: Any) -> Any:
    return SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False, **options)


def check(ours: list[Any], expected: Any) -> None:
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, np.asarray(other), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_family(encoder_folder: Callable[..., Path], host: Host, kind: str) -> None:
    name, changes = KINDS[kind]
    folder = encoder_folder(name, **changes)
    llm = LLM(str(folder), host=host)
    assert llm.info.task == "embeddings_generation"
    check(llm.encode(TEXTS), theirs(folder))


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken", "weightedmean"])
def test_every_pooling(copied: Callable[..., Path], host: Host, pooling: str) -> None:
    folder = copied()
    write_recipe(folder, pooling)
    check(LLM(str(folder), host=host).encode(TEXTS), theirs(folder))


def test_prompts(copied: Callable[..., Path], host: Host) -> None:
    folder = copied()
    write_recipe(folder, prompts={"query": "query: ", "document": ""}, default_prompt_name="query")
    llm = LLM(str(folder), host=host)
    check(llm.encode(TEXTS), theirs(folder))
    check(llm.encode(TEXTS, prompt_name="document"), theirs(folder, prompt_name="document"))
    with pytest.raises(RequestError, match="no prompt 'poem'"):
        llm.encode("a", prompt_name="poem")


def test_a_prompt_that_is_not_pooled(copied: Callable[..., Path], host: Host) -> None:
    folder = copied()
    write_recipe(folder, prompts={"query": "query: "}, default_prompt_name="query")
    pooling = {"word_embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    check(LLM(str(folder), host=host).encode(TEXTS), theirs(folder))


def test_longer_texts_are_refused_or_cut(encoder_folder: Callable[..., Path], host: Host) -> None:
    folder = encoder_folder()
    llm, text = LLM(str(folder), host=host), " ".join(["fox dog worm"] * 30)
    assert llm.info.max_length == 48
    with pytest.raises(RequestError, match="has 92 tokens, and this model takes 48"):
        llm.encode(text)
    check(llm.encode(text, truncate_prompt_tokens=-1), theirs(folder, [text]))
    longer = LLM(str(folder), host=host, max_length=64)
    assert len(longer.encode(" ".join(["fox"] * 62))) == 1
    with pytest.raises(SettingsError, match="--max-length 65 is above the 64 positions"):
        LLM(str(folder), host=host, max_length=65)


def test_vectors_of_tokens(encoder_folder: Callable[..., Path], host: Host) -> None:
    folder = encoder_folder()
    llm = LLM(str(folder), host=host, pool_embeddings=False)
    check(llm.encode(TEXTS), theirs(folder, output_value="token_embeddings"))
    with pytest.raises(RequestError, match="dimensions"):
        llm.encode("a", dimensions=8)


def test_cut_vectors(copied: Callable[..., Path], host: Host) -> None:
    folder = copied()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "matryoshka_dimensions": [8, 16]}))
    llm = LLM(str(folder), host=host)
    check(llm.encode(TEXTS, dimensions=16), theirs(folder, truncate_dim=16, normalize_embeddings=True))
    with pytest.raises(RequestError, match="trained for 8, 16, 32"):
        llm.encode("a", dimensions=12)


def test_token_ids_and_texts_together(encoder_folder: Callable[..., Path], host: Host) -> None:
    llm = LLM(str(encoder_folder()), host=host)
    ids = llm.tokenizer.encode("the early bird", add_special_tokens=True)
    text, same, other = llm.encode(["the early bird", ids, "jumps"])
    np.testing.assert_array_equal(text, same)
    assert not np.allclose(text, other)
    assert llm.encode([]) == []


def test_pages_and_projections_are_kept_in_16_bits(encoder_folder: Callable[..., Path], host: Host) -> None:
    folder = encoder_folder()
    cast = {"quantization_encoding": "bfloat16", "allow_safetensors_weights_fp32_bf6_bidirectional_cast": True}
    for ours, expected in zip(LLM(str(folder), host=host, **cast).encode(TEXTS), theirs(folder), strict=True):
        assert float(ours @ expected) > 0.98


@pytest.mark.parametrize("activation", [None, "torch.nn.modules.linear.Identity"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm"])
def test_scores(copied: Callable[..., Path], host: Host, kind: str, activation: str | None) -> None:
    name, changes = KINDS[kind]
    folder = copied(name, labels=1, **changes)
    if activation is not None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps({**config, "sentence_transformers": {"activation_fn": activation}})
        )
    llm = LLM(str(folder), host=host)
    assert llm.info.task == "scoring"
    pairs = [(TEXTS[0], text) for text in TEXTS]
    expected = CrossEncoder(str(folder), device="cpu").predict(pairs, show_progress_bar=False)
    np.testing.assert_allclose(llm.score(TEXTS[0], TEXTS), expected, atol=1e-5)
    with pytest.raises(RequestError, match="gives scores of pairs and no embeddings"):
        llm.encode("a")


def test_unknown_activations_of_scores_are_refused(copied: Callable[..., Path], host: Host) -> None:
    folder = copied("bert", labels=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sbert_ce_default_activation_function": "acme.Odd"}))
    with pytest.raises(ModelError, match=r"'acme\.Odd' is not known"):
        LLM(str(folder), host=host)


def test_one_class_two_tasks(
    model_folder: Callable[..., Path], host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Qwen3ForCausalLM generates text, but as an embedder where sentence-transformers' files say so, or on request."""
    plain = model_folder(architecture="Qwen3ForCausalLM")
    folder = Path(shutil.copytree(plain, tmp_path / "m"))
    assert LLM(str(folder), host=host).info.task == "text_generation"
    asked = LLM(str(folder), host=host, task="embeddings_generation")
    (vector,) = asked.encode("the quick fox")
    assert vector.shape == (64,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    (cut,) = asked.encode("the quick fox", dimensions=16)
    np.testing.assert_allclose(cut, vector[:16] / np.linalg.norm(vector[:16]), atol=1e-6)
    write_recipe(folder, "lasttoken")
    with caplog.at_level("INFO"):
        found = LLM(str(folder), host=host)
    assert "is served for the task embeddings_generation" in caplog.text
    check(found.encode("the quick fox"), theirs(folder, ["the quick fox"]))
    assert LLM(str(folder), host=host, task="text_generation").info.task == "text_generation"


def test_what_a_model_does_not_do_is_refused(
    encoder_folder: Callable[..., Path], model_folder: Callable[..., Path], host: Host
) -> None:
    encoder, generator = LLM(str(encoder_folder()), host=host), LLM(str(model_folder()), host=host)
    for call in (lambda: encoder.generate("a"), lambda: encoder.chat([]), lambda: next(encoder.stream(prompt=[1]))):
        with pytest.raises(RequestError, match="encodes texts and generates none; use encode or score"):
            call()
    with pytest.raises(RequestError, match="gives embeddings and no scores; use encode"):
        encoder.score("a", ["b"])
    with pytest.raises(RequestError, match="generates text and encodes none"):
        generator.encode("a")
    with pytest.raises(SettingsError, match="--pool-embeddings is for embedding models"):
        LLM(str(model_folder()), host=host, pool_embeddings=False)
    with pytest.raises(ModelError, match=r"--task text_generation: the architecture of .* is for embeddings_"):
        LLM(str(encoder_folder()), host=host, task="text_generation")
