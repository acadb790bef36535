"""What InternVL's authors say in config.json: read, made into a processor, and refused where it is another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from maxserve.architectures import internvl_chat
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.images import ImagesContext
from maxserve.plugins.tokenizers.folder import load_tokenizer
from maxserve.testing.vision import tiny_tokenizer

RAW: dict[str, Any] = {
    "architectures": ["InternVLChatModel"],
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "force_image_size": 28,
    "max_dynamic_patch": 4,
    "llm_config": {"model_type": "qwen2", "hidden_size": 64, "tie_word_embeddings": True},
    "vision_config": {"hidden_size": 32, "num_attention_heads": 4, "image_size": 28, "norm_type": "layer_norm"},
}


def test_what_is_not_said_is_what_the_authors_classes_have() -> None:
    config = internvl_chat.config(RAW)
    tower = config.whole.vision_config
    assert (tower.num_hidden_layers, tower.intermediate_size, tower.patch_size) == (48, 12800, (14, 14))
    assert (tower.use_qk_norm, tower.attention_bias, tower.norm_type) == (True, False, "layer_norm")
    assert config.tied
    assert not internvl_chat.config({**RAW, "llm_config": {"model_type": "qwen3"}}).tied


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ps_version": "v1"}, "\"ps_version\" 'v1' mixes pixels as InternVL 1 did"),
        ({"ps_version": None}, '"ps_version" None'),
        ({"llm_config": {"model_type": "internlm2"}}, "internlm2"),
        ({"llm_config": {}}, '"llm_config" names no "model_type"'),
    ],
    ids=str,
)
def test_other_models_are_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        internvl_chat.config({**RAW, **changes})


@pytest.mark.parametrize(
    ("changes", "tiles"),
    [
        ({}, 3),  # two and the whole
        ({"use_thumbnail": False}, 2),
        ({"dynamic_image_size": False}, 1),
        ({"max_dynamic_patch": 1}, 1),
        ({"min_dynamic_patch": 4}, 5),
    ],
    ids=str,
)
def test_tiles_are_cut_as_config_json_says(tmp_path: Path, changes: dict[str, Any], tiles: int) -> None:
    reader = images(tmp_path, changes)
    read = reader.read(PIL.Image.new("RGB", (56, 28), (255, 0, 0)))
    pixels = read.tensors["pixel_values"]
    assert pixels.shape == (tiles, 3, 28, 28)
    assert read.text == "<img>" + "<IMG_CONTEXT>" * tiles + "</img>"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as nothing else is said
    assert pixels[0, :, 5, 5].tolist() == pytest.approx(
        [(value - m) / s for value, m, s in zip((1, 0, 0), mean, std, strict=True)], abs=1e-5
    )


def test_tiles_of_another_size_are_so_many_tokens_more(tmp_path: Path) -> None:
    """Twice the side the tower was made for: 4 by 4 patches, of which 4 make a token, instead of 2 by 2."""
    read = images(tmp_path, {"force_image_size": 56}).read(PIL.Image.new("RGB", (56, 56)))
    assert read.tensors["pixel_values"].shape == (1, 3, 56, 56)
    assert read.text.count("<IMG_CONTEXT>") == 4


@pytest.mark.parametrize(
    ("template", "placeholder"),
    [
        ("{{ messages[0].content }}", "<IMG_CONTEXT>"),
        ("{% for p in messages[0].content %}<image>{% endfor %}", "<image>"),
        ("{% for p in messages[0].content %}<image><IMG_CONTEXT>{% endfor %}", "<IMG_CONTEXT>"),
    ],
)
def test_the_template_tells_what_it_writes_for_an_image(tmp_path: Path, template: str, placeholder: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    reader = images(tmp_path, {})
    assert reader.placeholder == placeholder
    assert reader.read(PIL.Image.new("RGB", (28, 28))).token == "<IMG_CONTEXT>"


def images(folder: Path, changes: dict[str, Any]) -> internvl_chat.Images:
    tiny_tokenizer(folder, ("<IMG_CONTEXT>", "<img>", "</img>"))
    raw = {**RAW, **changes}
    (folder / "config.json").write_text(json.dumps(raw))
    return internvl_chat.Images(ImagesContext(path=str(folder), model=raw, tokenizer=load_tokenizer(str(folder))))
