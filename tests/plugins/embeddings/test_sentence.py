"""How folders of sentence-transformers are read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense as TheirDense
from sentence_transformers.base.modules import Normalize as TheirNormalize
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.embeddings.sentence import Dense, Normalize, Recipe, is_sentence_model, read_recipe

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return folder


def test_an_old_folder(tmp_path: Path) -> None:
    legacy = {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    folder = write(
        tmp_path,
        {
            "modules.json": [*MODULES, NORMALIZE],
            "1_Pooling/config.json": legacy,
            "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": True},
            "tokenizer_config.json": {"model_max_length": 512},
            "config_sentence_transformers.json": {
                "prompts": {"query": "query: ", "document": ""},
                "default_prompt_name": "query",
            },
        },
    )
    assert is_sentence_model(folder)
    assert read_recipe(folder, causal=False) == Recipe(
        pooling=("cls",),
        steps=(Normalize(),),
        max_length=128,
        lower=True,
        prompts={"query": "query: ", "document": ""},
        default_prompt="query",
    )


def test_a_new_folder(tmp_path: Path) -> None:
    """What sentence-transformers writes today."""
    inner = tmp_path / "inner"
    BertModel(
        BertConfig(vocab_size=30, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(inner)
    (inner / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    write(inner, {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": 33}})
    modules = [
        Transformer(str(inner)),
        Pooling(8, pooling_mode=("mean", "max"), include_prompt=False),
        TheirDense(16, 4, activation_function=torch.nn.Identity()),
        TheirNormalize(),
    ]
    folder = tmp_path / "saved"
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    recipe = read_recipe(folder, causal=False)
    assert recipe.pooling == ("mean", "max") or recipe.pooling == ("max", "mean")
    assert not recipe.include_prompt
    assert recipe.max_length == 33
    dense, normalize = recipe.steps
    assert isinstance(dense, Dense)
    assert (dense.inputs, dense.outputs, dense.bias, dense.activation) == (16, 4, True, "Identity")
    assert normalize == Normalize()
    assert recipe.dimension(8) == 4


def test_without_files_the_kind_of_model_decides(tmp_path: Path) -> None:
    assert not is_sentence_model(tmp_path)
    assert read_recipe(tmp_path, causal=False) == Recipe(pooling=("mean",))
    assert read_recipe(tmp_path, causal=True) == Recipe(pooling=("lasttoken",), steps=(Normalize(),))


def test_a_pooling_folder_alone_is_enough(tmp_path: Path) -> None:
    write(tmp_path, {"1_Pooling/config.json": {"pooling_mode_lasttoken": True}})
    assert is_sentence_model(tmp_path)
    assert read_recipe(tmp_path, causal=True).pooling == ("lasttoken",)


def test_endless_tokenizers_set_no_limit(tmp_path: Path) -> None:
    write(tmp_path, {"tokenizer_config.json": {"model_max_length": int(1e30)}})
    assert read_recipe(tmp_path, causal=False).max_length is None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules.json": {}}, "a list of modules is expected"),
        ({"modules.json": MODULES[:1]}, "modules.json has Transformer; what can be served begins with"),
        (
            {"modules.json": [*MODULES, {"path": "", "type": "acme.LSTM"}], "1_Pooling/config.json": {}},
            "has the module 'LSTM' after the pooling; known there are Dense and Normalize",
        ),
        ({"1_Pooling/config.json": {"pooling_mode": "median"}}, "pooling mode 'median' is not known; known: cls, max"),
        (
            {"config_sentence_transformers.json": {"prompts": {"a": ""}, "default_prompt_name": "b"}},
            "default_prompt_name 'b', but its prompts are a",
        ),
        (
            {
                "modules.json": [*MODULES, DENSE],
                "1_Pooling/config.json": {},
                "2_Dense/config.json": {"activation_function": "acme.Odd"},
            },
            "activation_function 'Odd' is not known; known: GELU",
        ),
        (
            {
                "modules.json": [*MODULES, DENSE],
                "1_Pooling/config.json": {},
                "2_Dense/config.json": {"in_features": 8, "out_features": 4},
            },
            "has no model.safetensors; pickle files are not read",
        ),
        (
            {
                "modules.json": [*MODULES, DENSE],
                "1_Pooling/config.json": {},
                "2_Dense/config.json": {"module_input_name": "token_embeddings"},
            },
            "a module that works on sentence_embedding, token_embeddings is not supported",
        ),
        (
            {
                "modules.json": [*MODULES, DENSE],
                "1_Pooling/config.json": {},
                "2_Dense/config.json": {"use_residual": True},
            },
            "use_residual is not supported yet",
        ),
    ],
)
def test_what_is_not_known_is_refused(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(ModelError, match=re.escape(message)):
        read_recipe(tmp_path, causal=False)
