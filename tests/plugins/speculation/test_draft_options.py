"""What each option of the draft model does to the draft model that drafts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from maxserve.core.interfaces.errors import ModelError, SettingsError
from maxserve.core.loading import model_loader
from maxserve.loading import Linear
from maxserve.plugins.speculation.options import DraftFiles, DraftModel
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served
from maxserve.testing.tiny_configs import tiny_config

CAST = "draft_allow_safetensors_weights_fp32_bf6_bidirectional_cast"
PROMPTS = [list(range(3, 40)), [9, 8]]
Drafting = Callable[..., "Drafted"]


class Drafted:
    """A served target, and the model that drafts for it."""

    def __init__(self, served: Served) -> None:
        self.served = served
        assert served.engine._drafting is not None
        drafter: Any = served.engine._drafting._drafter
        self.model: nn.Module = drafter._model

    def accepted(self) -> float:
        """The share of its drafts that stand."""
        self.served.answers(PROMPTS, 24)
        stats = self.served.engine.stats()
        return stats.accepted_tokens / stats.draft_tokens

    def stored(self) -> set[Any]:
        """How its projections store their weights."""
        linears = [module for module in self.model.modules() if isinstance(module, Linear)]
        return {linear.weight.dtype if linear.weight is not None else linear.packed.kind for linear in linears}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"])
    randomised(ArchitectureChecks.reference(config)).save_pretrained(folder)  # type: ignore[operator]
    return folder


@pytest.fixture(scope="module")
def draft(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with other weights."""
    folder = tmp_path_factory.mktemp("draft")
    (folder / "config.json").write_bytes((target / "config.json").read_bytes())
    generator = torch.Generator().manual_seed(1)
    weights = load_file(target / "model.safetensors")
    save_file(
        {name: torch.randn(w.shape, generator=generator) for name, w in weights.items()}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture
def drafting(plugin_host: Callable[..., Host], target: Path, draft: Path) -> Drafting:
    def make(**options: Any) -> Drafted:
        chosen = {"speculative_method": "standalone", "draft_model_path": str(draft), "max_length": 96, **options}
        return Drafted(Served(target, plugin_host(), **{k: v for k, v in chosen.items() if v is not None}))

    return make


def test_model_path(drafting: Drafting, target: Path) -> None:
    assert drafting(draft_model_path=str(target)).accepted() == 1.0
    assert drafting().accepted() < 0.5


def test_served_model_name(drafting: Drafting, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        drafting(draft_served_model_name="the little one")
    assert "draft model: the little one" in caplog.text


def test_weight_path(drafting: Drafting, target: Path) -> None:
    given = drafting(draft_weight_path=(str(target / "model.safetensors"),), draft_quantization_encoding="float32")
    assert given.accepted() == 1.0


def test_quantization_encoding(drafting: Drafting) -> None:
    cast = {CAST: True}
    held = [drafting(draft_quantization_encoding=encoding, **cast).stored() for encoding in ("float32", "bfloat16")]
    held.append(drafting(draft_quantization_encoding="q8_0").stored())
    assert held[0] != held[1]
    assert held[2] not in held[:2]


def test_allow_safetensors_weights_fp32_bf6_bidirectional_cast(drafting: Drafting) -> None:
    with pytest.raises(ModelError, match=r"the draft model: .*bidirectional-cast"):
        drafting(draft_quantization_encoding="bfloat16")
    with pytest.raises(SettingsError, match="cast to what"):
        drafting(**{CAST: True})
    drafting(draft_quantization_encoding="bfloat16", **{CAST: True})


def test_cache_quantized(drafting: Drafting, tmp_path: Path) -> None:
    drafting(draft_quantization_encoding="q8_0", draft_cache_quantized=str(tmp_path / "kept"))
    assert any((tmp_path / "kept").rglob("*"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("huggingface_model_revision", "v1"),
        ("huggingface_weight_revision", "v2"),
        ("trust_remote_code", True),
        ("force_download", True),
    ],
)
def test_what_files_are_found_by(drafting: Drafting, monkeypatch: pytest.MonkeyPatch, option: str, value: Any) -> None:
    """The target's own value is another one; what finders make of it is tested with them."""
    asked: list[Any] = []
    resolve = model_loader.resolve_model

    def noted(model: Any, *given: Any, **options: Any) -> Any:
        asked.append(getattr(model, option))
        return resolve(model, *given, **options)

    monkeypatch.setattr(model_loader, "resolve_model", noted)
    drafting(**{f"draft_{option}": value})
    assert asked
    assert set(asked) == {value}


def test_rope_type(drafting: Drafting, target: Path) -> None:
    """`normal` says that rotary rows are in another order than they are: drafts are those of another model."""
    assert drafting(draft_model_path=str(target), draft_rope_type="normal").accepted() < 1.0
    assert drafting(draft_model_path=str(target), draft_rope_type="neox").accepted() == 1.0


def test_use_subgraphs(drafting: Drafting) -> None:
    def compiled(drafted: Drafted) -> bool:
        return any(type(module).__name__ == "CompiledLayer" for module in drafted.model.modules())

    assert compiled(drafting())
    assert not compiled(drafting(draft_use_subgraphs=False))


def test_vision_config_overrides(drafting: Drafting) -> None:
    with pytest.raises(ModelError, match=r"the draft model: .*vision-config-overrides: .* takes text only"):
        drafting(draft_vision_config_overrides={"image_size": 56})


def test_data_parallel_degree(drafting: Drafting) -> None:
    with pytest.raises(SettingsError, match=r"--draft-data-parallel-degree 2: each replica .* drafts for itself"):
        drafting(draft_data_parallel_degree=2)
    drafting(draft_data_parallel_degree=1)


def test_devices(drafting: Drafting) -> None:
    drafting(draft_devices="cpu")
    with pytest.raises(SettingsError, match="--draft-devices gpu:7: the draft model keeps its cache with the target's"):
        drafting(draft_devices="gpu:7")


def test_config_file(drafting: Drafting, target: Path, tmp_path: Path) -> None:
    file = tmp_path / "draft.yaml"
    file.write_text(f"model_path: {target}\n")
    assert drafting(draft_model_path=None, draft_config_file=(str(file),)).accepted() == 1.0


def test_section_name(drafting: Drafting, target: Path, draft: Path, tmp_path: Path) -> None:
    file = tmp_path / "draft.yaml"
    file.write_text(f"good: {{model_path: {target}}}\nbad: {{model_path: {draft}}}\n")
    found = {
        name: drafting(draft_model_path=None, draft_config_file=(str(file),), draft_section_name=(name,)).accepted()
        for name in ("good", "bad")
    }
    assert found["good"] == 1.0
    assert found["bad"] < 0.5


def test_every_option_is_tried() -> None:
    found_by = test_what_files_are_found_by.pytestmark[0].args[1]  # type: ignore[attr-defined]
    tried = {name.removeprefix("test_") for name in globals() if name.startswith("test_")} | {
        name for name, _ in found_by
    }
    assert set(DraftModel.model_fields) | {"config_file", "section_name"} <= tried
    assert set(DraftFiles.__dataclass_fields__) == {"config_file", "section_name"}
