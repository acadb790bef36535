"""Which parameter is meant by a name with a prefix too few or too many, and what may be left out."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from maxserve.architectures.weight_maps import EXAONE, FUSED, VISION_LANGUAGE
from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.weight_format import TensorInfo
from maxserve.core.loading.architecture import next_token_layers
from maxserve.plugins.weights.weight_plan import Parameters, plan_reads, unwrapped

OURS = (
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.qkv_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
)
CHECKPOINT = (
    "model.embed_tokens.weight",
    *(f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"),
    "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.mlp.down_proj.weight",
    "model.norm.weight",
    "lm_head.weight",
)


def placed(names: Iterable[str], weight_map: WeightMap = FUSED, *more: str) -> dict[str, str]:
    """The parameter that each name of a checkpoint is read for."""
    shapes = {name: (3, 1) if "qkv" in name else (1, 1) for name in (*OURS, *more)}
    parameters = Parameters(shapes=shapes, aliases={name: name for name in shapes})
    header = {name: TensorInfo(dtype="F32", shape=(1, 1), size=4) for name in names}
    return {read.name: read.target for read in plan_reads(parameters, {"file": header}, weight_map)}


WANTED = placed(CHECKPOINT)


@pytest.mark.parametrize(
    "changed",
    [
        lambda name: name.removeprefix("model."),  # saved from the base class
        lambda name: "model." + name,
        lambda name: "module." + name,  # from within DistributedDataParallel
        lambda name: "_orig_mod." + name,  # from within torch.compile
        lambda name: "module._orig_mod." + name,
        lambda name: name.replace("layers.0.", "layers.0._orig_mod.").replace(
            "mlp.", "mlp._checkpoint_wrapped_module."
        ),
        lambda name: "base_model.model." + name,  # a merged adapter that was never unloaded
        lambda name: "language_model." + name,  # the text part of a vision-language model
        lambda name: name.replace("model.", "model.language_model."),
        lambda name: name.replace("model.", "model.text_model."),
        lambda name: "transformer." + name.removeprefix("model."),
    ],
)
def test_prefixes(changed: object) -> None:
    assert callable(changed)
    assert placed(map(changed, CHECKPOINT)) == {changed(name): target for name, target in WANTED.items()}


def test_prefixes_of_families_with_names_of_their_own() -> None:
    old = ("wte.weight", "h.0.attn.attention.q_proj.weight", "ln_f.weight")
    others = [
        name for name in CHECKPOINT if not name.endswith(("embed_tokens.weight", "q_proj.weight", "model.norm.weight"))
    ]
    for prefix in ("", "transformer.", "module.transformer."):
        found = placed([*others, *(prefix + name for name in old)], EXAONE)
        assert [found[prefix + name] for name in old] == [OURS[0], OURS[1], OURS[4]]
    tower = "tower.vision_tower.embeddings.weight"
    for name in ("vision_tower.vision_model.embeddings.weight", "model.vision_tower.embeddings.weight"):
        assert placed([*CHECKPOINT, name], VISION_LANGUAGE, tower)[name] == tower


@pytest.mark.parametrize(
    "beside",
    [
        "score.weight",
        "v_head.summary.bias",
        "mtp.layers.0.self_attn.q_proj.weight",
        "vision_tower.layers.0.weight",
        "module.value_head.weight",
        "lm_head_2.weight",
    ],
)
def test_modules_that_the_model_has_not_are_left_out(beside: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "maxserve.model"):
        assert placed([*CHECKPOINT, beside]) == WANTED
    assert f"1 in the checkpoint but not in the model: {beside}, and left out" in caplog.text


def test_a_tower_beside_the_language_model_in_one_module() -> None:
    names = [name.replace("model.", "model.language_model.") for name in CHECKPOINT]
    assert set(placed([*names, "model.visual.blocks.0.weight"]).values()) == set(OURS)
    with pytest.raises(ModelError, match=r"not in the model: model\.visual"):
        placed([*CHECKPOINT, "model.visual.blocks.0.weight"])


@pytest.mark.parametrize(
    "stranger",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.mlp.down_proj.weight",
        "layers.0.stranger.weight",
        "language_model.model.layers.0.stranger.weight",
        "model.language_model.layers.0.stranger.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "lm_head.bias",
        "model.embed_positions.weight",
        "temperature",
    ],
)
def test_what_the_models_own_modules_lack_is_refused(stranger: str) -> None:
    with pytest.raises(ModelError, match="1 in the checkpoint but not in the model"):
        placed([*CHECKPOINT, stranger])


def test_one_parameter_under_two_spellings_is_refused() -> None:
    with pytest.raises(ModelError, match="are the same parameter"):
        placed([*CHECKPOINT, "norm.weight"])


@pytest.mark.parametrize(
    ("config", "left", "refused"),
    [
        ({"num_hidden_layers": 2, "num_nextn_predict_layers": 1}, [2], [3]),
        ({"num_hidden_layers": 2, "num_nextn_predict_layers": 2}, [2, 3], [4]),
        ({"num_hidden_layers": 2, "num_mtp_layers": 1}, [2], [20]),
        ({"text_config": {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}}, [2], [3]),
        ({"num_hidden_layers": 2, "num_nextn_predict_layers": 0}, [2], [3]),  # switched off, and stored all the same
        ({"num_hidden_layers": 2}, [], [2]),
    ],
)
def test_layers_that_predict_further_tokens(config: dict[str, object], left: list[int], refused: list[int]) -> None:
    weights = WeightMap(fused=FUSED.fused, optional=next_token_layers(config))
    names = [*CHECKPOINT, *(f"model.layers.{layer}.shared_head.norm.weight" for layer in left)]
    assert placed(names, weights) == WANTED
    for layer in refused:
        with pytest.raises(ModelError, match=rf"not in the model: model.layers.{layer}.eh_proj"):
            placed([*names, f"model.layers.{layer}.eh_proj.weight"], weights)


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": "2", "num_mtp_layers": True}, {"text_config": []}])
def test_no_such_layers_where_the_config_has_no_numbers(config: dict[str, object]) -> None:
    assert next_token_layers(config) == ()


def test_a_wrapper_is_dropped_only_as_a_whole_module() -> None:
    assert unwrapped("my_orig_mod.weight") == "my_orig_mod.weight"
    assert unwrapped("base_model.layer.weight") == "base_model.layer.weight"
    assert unwrapped("submodule.module.weight") == "submodule.module.weight"
