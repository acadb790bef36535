"""References such as org/repo:Q4_K_M, which are to one of several models in a repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from maxserve import LLM
from maxserve.core.config import resolve
from maxserve.core.interfaces.engine import ModelFiles
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.huggingface import hub, is_tag
from maxserve.plugins.huggingface.repository import tagged
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.tiny_configs import tiny_config
from tests.core.loading.test_resolve import FakeHub

NAMES = ["README.md", "m-Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m.Q8_0.gguf", "mmproj-m-F16.gguf"]


class AskedHub(FakeHub):
    """A hub that knows which repositories it was asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked: set[str] = set()

    def files(self, repo: str, revision: str) -> list[str]:
        self.asked.add(repo)
        return super().files(repo, revision)

    def fetch(self, repo: str, *given: Any, **options: Any) -> str:
        self.asked.add(repo)
        return super().fetch(repo, *given, **options)

    def pipeline_tag(self, repo: str, revision: str) -> None:
        self.asked.add(repo)


@pytest.fixture
def repository(write_gguf: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AskedHub:
    """org/several: one model in three types of GGUF files, and what lies beside them."""
    fake = AskedHub(tmp_path)
    folder = fake.repository("org/several")
    model: Any = randomised(ArchitectureChecks.reference(tiny_config("LlamaForCausalLM", num_hidden_layers=2)))
    for name, type in (("tiny-F16", Type.F16), ("tiny-Q8_0", Type.Q8_0), ("tiny-Q5_0", Type.Q5_0)):
        write_gguf(folder / f"{name}.gguf", model, "llama", lambda _, type=type: type)
    (folder / "mmproj-tiny-Q8_0.gguf").write_bytes(b"of images")
    (folder / "README.md").write_text("")
    monkeypatch.setattr(hub, "HuggingFaceHub", lambda: fake)
    return fake


def found(ref: str, **options: Any) -> ModelFiles:
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    settings = resolve({"model_path": ref, **options}, environ={}, sections=host.plugin_sections())
    return resolve_model(settings.model, host, progress=NullProgress())


def test_names_that_have_the_tag_are_the_model() -> None:
    assert tagged(NAMES, "Q8_0", "org/m:Q8_0") == {"README.md", "m.Q8_0.gguf"}
    assert tagged(NAMES, "q4_k_s", "org/m:q4_k_s") == {"README.md", "m-Q4_K_S.gguf"}
    assert tagged(NAMES, "UD-Q4_K_M", "org/m:UD-Q4_K_M") == {"README.md", "m-UD-Q4_K_M.gguf"}
    split = ["config.json", "Q4_K_M/m-00001-of-00002.gguf", "Q4_K_M/m-00002-of-00002.gguf", "Q8_0/m.gguf"]
    assert tagged(split, "Q4_K_M", "org/m:Q4_K_M") == {"config.json", *split[1:3]}
    beside = ["model.safetensors", "model.safetensors.index.json", "m-Q8_0.gguf"]
    assert tagged(beside, "Q8_0", "org/m:Q8_0") == {"m-Q8_0.gguf"}


def test_a_tag_that_no_name_has_is_refused_with_those_there_are() -> None:
    listed = r"has Q4_K in its name; there are: m-Q4_K_M.gguf, m-Q4_K_S.gguf, m-UD-Q4_K_M.gguf, m.Q8_0.gguf, mmproj"
    with pytest.raises(ModelError, match=f"org/m:Q4_K: no weight file of the repository {listed}"):
        tagged(NAMES, "Q4_K", "org/m:Q4_K")


def test_what_a_tag_may_be() -> None:
    assert is_tag("Q4_K_M")
    assert is_tag("UD-IQ2_XXS")
    assert not is_tag("")
    assert not is_tag("../x")


@pytest.mark.parametrize(("tag", "encoding"), [("Q8_0", "q8_0"), ("q5_0", "q5_0")])
def test_a_tag_chooses_one_of_several_models(tag: str, encoding: str, repository: AskedHub) -> None:
    files = found(f"org/several:{tag}")
    assert [Path(file).name for file in files.weights] == [f"tiny-{tag.upper()}.gguf"]
    assert files.config["quantization_config"]["encoding"] == encoding
    assert files.ref == f"org/several:{tag}"
    assert repository.asked == {"org/several"}


def test_without_a_tag_all_of_them_are_listed(repository: AskedHub) -> None:
    with pytest.raises(ModelError, match=r"tiny-F16.gguf, tiny-Q5_0.gguf, tiny-Q8_0.gguf; choose .* org/repo:Q4_K_M"):
        found("org/several")
    assert [Path(file).name for file in found("org/several", quantization_encoding="q8_0").weights] == [
        "tiny-Q8_0.gguf"
    ]


def test_the_cache_alone_knows_the_tag_too(repository: AskedHub) -> None:
    found("org/several:Q8_0")
    found("org/several:Q5_0")
    repository.offline = True
    assert [Path(file).name for file in found("org/several:Q8_0").weights] == ["tiny-Q8_0.gguf"]
    with pytest.raises(ModelError, match=r"no weight file of the repository has F16 in its name; there are"):
        found("org/several:F16")


@pytest.mark.parametrize("ref", ["org/several:", "org/several:../x"])
def test_no_tag_is_refused(ref: str, repository: AskedHub) -> None:
    with pytest.raises(ModelError, match=r"after the colon comes what the names of files say of a model"):
        found(ref)


def test_it_is_the_same_in_python(repository: AskedHub) -> None:
    llm = LLM("org/several:Q8_0", devices="cpu", max_length=32)
    assert llm.info.ref == "org/several:Q8_0"
    assert len(llm.generate([5, 6, 7], max_tokens=3, ignore_eos=True)[0].tokens) == 3
