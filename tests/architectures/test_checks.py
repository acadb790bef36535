"""A stranger's family in one file passes the conformance class; families that are wrong do not."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config

from maxserve.core.interfaces.errors import MaxserveError, ModelError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.testing.architecture import ArchitectureChecks, Case, QuirkChecks, randomised

MODELS = Path(__file__).parent / "models"
SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


class TestOneFile(ArchitectureChecks):
    architecture = "AcmeForCausalLM"
    plugins = PluginOptions(custom_architectures=(f"{MODELS}:acme_family",))
    hf_configs: ClassVar = [Qwen3Config(**SIZES, head_dim=16), lambda: Qwen3Config(**SIZES, head_dim=8)]


class Wrong(ArchitectureChecks):
    plugins = PluginOptions(custom_architectures=(f"{MODELS}:wrong_family",))


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 20,
    "factor": 3.2,
    "short_factor": [1.0, 1.2, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    return saved(tmp_path_factory.mktemp("checkpoint"), LlamaConfig(**SIZES, attn_implementation="eager"))


def saved(folder: Path, config: LlamaConfig) -> tuple[Path, LlamaForCausalLM]:
    reference = randomised(LlamaForCausalLM(config))
    assert isinstance(reference, LlamaForCausalLM)
    reference.save_pretrained(folder)
    return folder, reference


def case_of(name: str, checkpoint: tuple[Path, LlamaForCausalLM]) -> Case:
    return type(name, (Wrong,), {"architecture": name}).case_of(*checkpoint)


CACHED = {
    "test_chunked_prefill",
    "test_token_by_token",
    "test_generation",
    "test_mixed_batch",
    "test_text_of_the_whole_engine",
}
STEPS = {"test_whole_prefill", *CACHED}
ROW = "test_a_row_does_not_depend_on_its_batch"
FAILS = {
    "Twisted": STEPS,
    "Leaky": {*STEPS, ROW},
    "Forgetful": CACHED,
    "Eager": {"test_builds_on_the_meta_device"},
    "Swapped": {*STEPS, "test_loads_as_bfloat16"},
    "LlamaForCausalLM": set(),
}


@pytest.mark.parametrize("name", FAILS)
def test_what_is_wrong_fails_the_checks_that_are_about_it(name: str, checkpoint: tuple[Path, LlamaForCausalLM]) -> None:
    assert failures(case_of(name, checkpoint)) == FAILS[name]


@pytest.mark.parametrize("name", FAILS)
def test_a_quirk_fails_in_its_one_test(name: str, checkpoint: tuple[Path, LlamaForCausalLM]) -> None:
    case = case_of(name, checkpoint)
    if not FAILS[name] & STEPS:
        QuirkChecks().test_computes_as_the_reference(case)
        return
    with pytest.raises(AssertionError, match="logits of token"):
        QuirkChecks().test_computes_as_the_reference(case)


@pytest.mark.parametrize(("name", "fails"), [("Shortsighted", CACHED), ("LlamaForCausalLM", set())])
def test_prompts_of_several_regimes_are_among_the_checks(name: str, fails: set[str], tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, rope_parameters=LONGROPE, attn_implementation="eager")
    assert failures(case_of(name, saved(tmp_path, config))) == fails


def failures(case: Case) -> set[str]:
    """The checks that fail; those that are skipped, of families that do not say that they can, do not."""
    checks = {check for check in vars(ArchitectureChecks) if check.startswith("test_")} - {
        "test_declaration_imports_no_torch"
    }
    failed = set()
    for check in checks:
        more = {"ranks": 2} if check == "test_ranks_that_share_it_give_its_logits" else {}
        try:
            getattr(Wrong(), check)(case, **more)
        except AssertionError:
            failed.add(check)
        except pytest.skip.Exception:
            assert "ranks" in check
    return failed


def test_names_that_do_not_fit_the_checkpoint_are_an_error(checkpoint: tuple[Path, LlamaForCausalLM]) -> None:
    with pytest.raises(ModelError, match="gate_up_proj"):
        case_of("Unfused", checkpoint).load()


def test_a_declaration_that_imports_torch_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "heavy_family.py").write_text((MODELS / "acme_family.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    heavy = "from maxserve import hookimpl\n\n@hookimpl\ndef maxserve_architectures():\n    yield from ARCHITECTURES\n"
    with (tmp_path / "heavy_family.py").open("a") as file:
        file.write(heavy)

    class Heavy(ArchitectureChecks):
        architecture = "AcmeForCausalLM"
        plugins = PluginOptions(plugin=("heavy_family",))

    with pytest.raises(AssertionError, match="heavy_family imports torch"):
        Heavy().test_declaration_imports_no_torch()


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(MaxserveError, match="LlamaForCausaLM"):
        PluginHost.discover(PluginOptions(), strict=False).architectures.get("LlamaForCausaLM")
