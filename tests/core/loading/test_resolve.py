from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from maxserve.core.config.settings import ModelSettings
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.engine import ModelFiles
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
from maxserve.core.interfaces.quantization import QuantizationFormat
from maxserve.core.interfaces.weight_format import WeightFormat
from maxserve.core.loading.location import is_repository
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.entries import Entry, Registry, load_ref
from maxserve.plugins.huggingface.repository import Repository
from maxserve.plugins.safetensors import maxserve_weight_formats

HTTP = __import__(errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


class FakeHost:
    """As much of a host as resolving needs."""

    def __init__(
        self,
        *names: str,
        sources: dict[str, str] | None = None,
        hub: FakeHub | None = None,
        formats: dict[str, str] | None = None,
        **fields: Any,
    ) -> None:
        entries = [
            Entry(kind="architecture", component=Architecture(name=name, build="x:y", **fields), plugin="p", origin="o")
            for name in names
        ]
        self.architectures = Registry("architecture", entries)
        declared = [QuantizationFormat(name=name, build=build) for name, build in (formats or {}).items()]
        formed = [Entry(kind="quantization_format", component=each, plugin="p", origin="o") for each in declared]
        self.quantization_formats = Registry("quantization_format", formed)
        self.sources = sources or {}
        self.hub = hub

    def build(self, entry: Entry[Any], context: Any) -> Any:
        return load_ref(entry.component.build)(context)

    def of(self, component: type[Any]) -> list[Any]:
        if component is not WeightFormat:
            return []  # engines
        (declared,) = maxserve_weight_formats()
        return [Entry(kind="weight_format", component=declared, plugin="p", origin="o")]

    def model_source(self, ref: str, query: ModelQuery) -> ModelSource | None:
        if ref in self.sources:
            return ModelSource(path=self.sources[ref])
        if self.hub is None or not is_repository(ref) or Path(ref).exists():
            return None
        return ModelSource(location=Repository(ref, self.hub, query))


class FakeHub:
    """Repositories are folders REPO@REVISION; fetched files are copied to a cache, as the hub's client does."""

    def __init__(self, root: Path) -> None:
        self.repositories = root / "hub"
        self.cache = root / "cache"
        self.offline = False
        self.broken = False
        self.fetched: list[tuple[str, str, tuple[str, ...], bool]] = []

    def repository(self, repo: str, revision: str = "main") -> Path:
        folder = self.repositories / f"{repo}@{revision}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def files(self, repo: str, revision: str) -> list[str]:
        self._reach()
        folder = self._existing(repo, revision)
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]

    def fetch(
        self,
        repo: str,
        revision: str,
        patterns: Sequence[str],
        *,
        force: bool,
        cached: bool,
        done: Callable[[float], None],
    ) -> str:
        target = self.cache / f"{repo}@{revision}"
        if not cached and not self.broken:
            self._copy(repo, revision, patterns, target)
            self.fetched.append((repo, revision, tuple(patterns), force))
        elif not target.exists():
            raise errors.LocalEntryNotFoundError("not in the cache")
        done(1.0)
        return str(target)

    def _copy(self, repo: str, revision: str, patterns: Sequence[str], target: Path) -> None:
        source = self._existing(repo, revision)
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in patterns):
                shutil.copy(file, target)

    def _existing(self, repo: str, revision: str) -> Path:
        folder = self.repositories / f"{repo}@{revision}"
        if not folder.exists():
            response = HTTP.Response(404, request=HTTP.Request("GET", f"https://huggingface.co/{repo}"))
            raise errors.RepositoryNotFoundError("404", response=response)
        return folder

    def _reach(self) -> None:
        if self.offline:
            raise errors.OfflineModeIsEnabled("offline")
        if self.broken:
            raise HTTP.ConnectError("no route to host")


HOST = FakeHost("LlamaForCausalLM", "Qwen3ForCausalLM")


@pytest.fixture
def hub(tmp_path: Path) -> FakeHub:
    return FakeHub(tmp_path)


def write_model(
    folder: Path, dtype: torch.dtype = torch.float32, file: str = "model.safetensors", **config: Any
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": torch.zeros(8, dtype=dtype)}, str(folder / file))
    return folder


def resolved(ref: object, hub: Any = None, host: Any = HOST, **options: Any) -> ModelFiles:
    prefer_legacy = options.pop("prefer_legacy", True)
    settings = ModelSettings(model_path=str(ref), **options)
    host = copy.copy(host)
    host.hub = hub
    return resolve_model(settings, host, progress=NullProgress(), prefer_legacy=prefer_legacy)


def test_a_local_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", torch.bfloat16, max_position_embeddings=64)
    (folder / "generation_config.json").write_text('{"temperature": 0.6}')
    files = resolved(folder)
    assert files == ModelFiles(
        ref=str(folder),
        path=str(folder),
        config=CONFIG | {"max_position_embeddings": 64},
        generation_config={"temperature": 0.6},
        weights=(str(folder / "model.safetensors"),),
        encoding="bfloat16",
        explicit_encoding=False,
        architecture="LlamaForCausalLM",
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(files), type=ModelFiles) == files


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model(tmp_path / "m")
    assert resolved("~/m").path == str(tmp_path / "m")


def test_plugins_are_asked_first(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    assert resolved(
        "maxserve/demo", host=FakeHost("LlamaForCausalLM", sources={"maxserve/demo": str(folder)})
    ).path == str(folder)


def test_sharded_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", file="a.safetensors")
    write_model(folder, file="b.safetensors")
    write_model(folder, file="unused.safetensors")
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [Path(file).name for file in resolved(folder).weights] == ["a.safetensors", "b.safetensors"]


def test_a_repository_at_its_revisions(hub: FakeHub) -> None:
    write_model(hub.repository("org/m", "v1"), hidden_size=1)
    write_model(hub.repository("org/m", "v2"), torch.bfloat16, hidden_size=2)
    files = resolved("org/m", hub, huggingface_model_revision="v1", huggingface_weight_revision="v2")
    assert files.config["hidden_size"] == 1
    assert files.encoding == "bfloat16"
    assert files.path == str(hub.cache / "org/m@v1")
    assert files.weights == (str(hub.cache / "org/m@v2" / "model.safetensors"),)
    assert hub.fetched[-1] == ("org/m", "v2", ("model.safetensors",), False)
    assert (hub.cache / "org/m@v1" / "tokenizer.json").is_file()
    assert not (hub.cache / "org/m@v1" / "model.safetensors").exists()


def test_shards_of_a_repository_are_fetched_and_nothing_else(hub: FakeHub) -> None:
    repository = write_model(hub.repository("org/m"), file="a[1].safetensors")
    write_model(repository, file="other.safetensors")
    (repository / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a[1].safetensors"}}')
    files = resolved("org/m", hub)
    assert files.weights == (str(hub.cache / "org/m@main" / "a[1].safetensors"),)
    assert not (hub.cache / "org/m@main" / "other.safetensors").exists()


@pytest.mark.parametrize("force", [True, False])
def test_downloads_can_be_forced(hub: FakeHub, force: bool) -> None:
    write_model(hub.repository("org/m"))
    resolved("org/m", hub, force_download=force)
    assert [forced for *_, forced in hub.fetched] == [force, force]


@pytest.mark.parametrize("trust", [True, False])
def test_code_is_fetched_only_when_trusted(hub: FakeHub, trust: bool) -> None:
    (write_model(hub.repository("org/m")) / "tokenization.py").write_text("")
    path = resolved("org/m", hub, trust_remote_code=trust).path
    assert (Path(path) / "tokenization.py").exists() == trust


def test_offline_the_cache_is_used(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    write_model(hub.repository("org/m"))
    online = resolved("org/m", hub)
    hub.offline = True
    assert resolved("org/m", hub) == online
    assert not caplog.text
    assert resolved("org/m", hub, force_download=True) == online
    assert "--force-download cannot fetch org/m while HF_HUB_OFFLINE is set" in caplog.text
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set and org/other .main. is not complete"):
        resolved("org/other", hub)
    shutil.rmtree(hub.cache / "org/m@main")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        resolved("org/m", hub)


def test_without_network_the_cache_is_used_with_a_warning(hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    write_model(hub.repository("org/m"))
    online = resolved("org/m", hub)
    hub.broken = True
    with caplog.at_level(logging.WARNING):
        assert resolved("org/m", hub) == online
    assert "using the cached copy of org/m" in caplog.text


def test_missing_models_are_one_clear_line(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder 'org/gone' and no model of this name"):
        resolved("org/gone", hub)
    for ref in (tmp_path / "gone", "./gone", "~/gone", "a/b/c", "my model"):
        with pytest.raises(ModelError, match=r"there is no folder .*, and it is no name of a Hugging Face repository"):
            resolved(ref, hub)
    file = write_model(tmp_path / "m") / "model.safetensors"
    with pytest.raises(ModelError, match="is a file without the config of its model; give the folder it is in"):
        resolved(file, hub)


def test_a_draft_without_path_is_found_by_its_weights(hub: FakeHub) -> None:
    from maxserve.plugins.speculation.options import DraftModel

    write_model(hub.repository("org/m"))
    draft = DraftModel(weight_path=("org/m/model.safetensors",))
    host: Any = FakeHost("LlamaForCausalLM", hub=hub)
    assert resolve_model(draft, host, progress=NullProgress()).ref == "org/m"
    with pytest.raises(ModelError, match="no model is named"):
        resolve_model(DraftModel(), host, progress=NullProgress())


def test_damaged_folders_are_one_clear_line(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json; a model in Hugging Face format"):
        resolved(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"has no config\.json, only a LoRA adapter's"):
        resolved(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read as JSON"):
        resolved(folder)
    for architectures in (None, [], "Llama"):
        (folder / "config.json").write_text(json.dumps({"architectures": architectures}))
        with pytest.raises(ModelError, match='names no "architectures"'):
            resolved(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match="has no weights"):
        resolved(folder)
    (folder / "generation_config.json").write_text("[]")
    save_file({"w": torch.zeros(1)}, str(folder / "model.safetensors"))
    with pytest.raises(ModelError, match=r"generation_config\.json holds list"):
        resolved(folder)


def test_unknown_architectures_name_what_is_near(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", architectures=["Qwen3ForCausalLLM"])
    with pytest.raises(ModelError, match=r"'Qwen3ForCausalLLM' \(did you mean 'Qwen3ForCausalLM'\?\).*--custom-arch"):
        resolved(folder)


def test_an_unknown_architecture_is_found_before_weights_are_fetched(hub: FakeHub) -> None:
    write_model(hub.repository("org/m"), architectures=["Unheard"])
    with pytest.raises(ModelError, match="Unheard"):
        resolved("org/m", hub)
    assert len(hub.fetched) == 1


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match=r"is quantized \(gptq\), which is not supported yet"):
        resolved(folder)


def test_a_quantized_checkpoint_in_a_known_format(tmp_path: Path) -> None:
    host = FakeHost("LlamaForCausalLM", formats={"mxfp4": "maxserve.plugins.quantization.mxfp4:Mxfp4"})
    folder = write_model(tmp_path / "m", torch.bfloat16, quantization_config={"quant_method": "mxfp4"})
    save_file({"w": torch.zeros(8).bfloat16(), "x": torch.zeros(99, dtype=torch.uint8)}, folder / "model.safetensors")
    assert resolved(folder, host=host).encoding == "bfloat16"
    with pytest.raises(ModelError, match=r"is quantized \(mxfp4\), which is not supported yet; use an unquantized"):
        resolved(folder)
    write_model(folder, torch.bfloat16, quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match=r"\(gptq\).*or one quantized in a format that is known: mxfp4"):
        resolved(folder, host=host)


def test_suffixes_are_tolerated_and_choose_between_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    folder = write_model(tmp_path / "m")
    assert resolved(folder, host=FakeHost("LlamaForCausalLM_Legacy")).architecture == "LlamaForCausalLM_Legacy"
    new = FakeHost("LlamaForCausalLM_ModuleV3")
    assert resolved(folder, host=new).architecture == "LlamaForCausalLM_ModuleV3", "there is no other to prefer"
    assert resolved(folder, host=FakeHost("LlamaForCausalLM"), prefer_legacy=False).architecture == "LlamaForCausalLM"
    assert "legacy" not in caplog.text, "there was nothing to choose"
    both = FakeHost("LlamaForCausalLM_Legacy", "LlamaForCausalLM_ModuleV3")
    assert resolved(folder, host=both).architecture == "LlamaForCausalLM_Legacy"
    assert "is served by LlamaForCausalLM_Legacy; --no-use-legacy-module prefers its other" in caplog.text
    assert resolved(folder, host=both, prefer_legacy=False).architecture == "LlamaForCausalLM_ModuleV3"
    assert "is served by LlamaForCausalLM_ModuleV3; --use-legacy-module prefers its other" in caplog.text
    older = FakeHost("LlamaForCausalLM_Legacy", "LlamaForCausalLM")
    assert resolved(folder, host=older).architecture == "LlamaForCausalLM_Legacy"
    assert resolved(folder, host=older, prefer_legacy=False).architecture == "LlamaForCausalLM"
    newer = FakeHost("LlamaForCausalLM", "LlamaForCausalLM_ModuleV3")
    assert resolved(folder, host=newer).architecture == "LlamaForCausalLM"
    assert resolved(folder, host=newer, prefer_legacy=False).architecture == "LlamaForCausalLM_ModuleV3"
    for prefer in (True, False):
        with pytest.raises(ModelError, match="no architecture is called 'LlamaForCausalLM'"):
            resolved(folder, host=FakeHost("Qwen3ForCausalLM"), prefer_legacy=prefer)


def test_encodings(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    asked = resolved(folder, quantization_encoding="float32")
    assert (asked.encoding, asked.explicit_encoding) == ("float32", True)
    with pytest.raises(ModelError, match="is stored as float32, not as the bfloat16"):
        resolved(folder, quantization_encoding="bfloat16")
    cast = {"allow_safetensors_weights_fp32_bf6_bidirectional_cast": True}
    assert resolved(folder, quantization_encoding="bfloat16", **cast).encoding == "bfloat16"
    half = write_model(tmp_path / "half", torch.float16)
    assert resolved(half).encoding == "float16"
    only = FakeHost("LlamaForCausalLM", encodings=("bfloat16",))
    with pytest.raises(ModelError, match="LlamaForCausalLM does not support float32 weights, only bfloat16"):
        resolved(folder, host=only)
    assert resolved(folder, host=only, quantization_encoding="bfloat16", **cast).encoding == "bfloat16"


def test_a_local_weight_path_needs_its_encoding(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    other = str(write_model(tmp_path / "other", torch.bfloat16) / "model.safetensors")
    with pytest.raises(ModelError, match="is a local file, so say how it is stored: --quantization-encoding bfloat16"):
        resolved(folder, weight_path=(other,))
    files = resolved(folder, weight_path=(other,), quantization_encoding="bfloat16")
    assert (files.weights, files.path) == ((other,), str(folder))
    with pytest.raises(ModelError, match="is stored as bfloat16, not as the float32"):
        resolved(folder, weight_path=(other,), quantization_encoding="float32")


def test_a_weight_path_beside_the_config(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    write_model(folder, torch.bfloat16, file="half.safetensors")
    files = resolved(folder, weight_path=("half.safetensors",))
    assert (files.weights, files.encoding) == ((str(folder / "half.safetensors"),), "bfloat16")
    with pytest.raises(ModelError, match=r"gone\.safetensors: there is no such file, neither here nor in"):
        resolved(folder, weight_path=("gone.safetensors",))


def test_weight_paths_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    write_model(hub.repository("org/m"))
    write_model(hub.repository("org/m"), torch.bfloat16, file="half.safetensors")
    write_model(hub.repository("else/w", "v2"), torch.float16, file="best.safetensors")
    for path in ("half.safetensors", "org/m/half.safetensors"):
        assert resolved("org/m", hub, weight_path=(path,)).weights == (str(hub.cache / "org/m@main/half.safetensors"),)
    folder = write_model(tmp_path / "local")
    for ref in ("org/m", folder):
        files = resolved(ref, hub, weight_path=("else/w/best.safetensors",), huggingface_weight_revision="v2")
        assert (files.encoding, files.ref) == ("float16", str(ref))
        assert files.weights == (str(hub.cache / "else/w@v2/best.safetensors"),)
    with pytest.raises(ModelError, match=r"gone\.safetensors: org/m has no such file at revision 'main'"):
        resolved("org/m", hub, weight_path=("org/m/gone.safetensors",))
    hub.offline = True
    assert resolved("org/m", hub, weight_path=("half.safetensors",)).encoding == "bfloat16"


@pytest.mark.parametrize("name", ["m.onnx", "org/m/m.h5", "pytorch_model.bin"])
def test_weight_paths_in_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=r"not supported yet|pickle"):
        resolved(write_model(tmp_path / "m"), weight_path=(name,))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"huggingface_model_revision": "v2"}, "--huggingface-model-revision"),
        ({"huggingface_weight_revision": "v2"}, "--huggingface-weight-revision"),
        ({"force_download": True}, "--force-download"),
        (
            {"huggingface_model_revision": "v2", "force_download": True},
            "--huggingface-model-revision, --force-download",
        ),
        ({}, ""),
    ],
)
def test_what_has_no_meaning_for_a_local_folder_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any], flags: str
) -> None:
    folder = write_model(tmp_path / "m")
    resolved(folder, **options)
    told = [record.message for record in caplog.records if "has no meaning" in record.message]
    assert told == (
        [f"{flags}: {folder} is a local folder, for which this has no meaning; leave it out"] if flags else []
    )
