"""Adapters that a server finds by name: in a stranger's registry, which is a plugin, and on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import maxserve
from maxserve.core.interfaces.errors import SettingsError
from maxserve.testing.live import LiveServer
from tests.conftest import ONE_THREAD
from tests.local_hub import local_hub
from tests.plugins.lora.conftest import Base

PROMPT = "the quick brown fox"
REGISTRY = '''
"""A registry of adapters: a line for each, with its name and its folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maxserve import AdapterSource, ConfigSection, hookimpl
from maxserve.interfaces.adapter_source import AdapterSourceContext
from maxserve.interfaces.errors import RequestError


@dataclass(frozen=True, slots=True)
class Config:
    index: str = ""


class Registry:
    def __init__(self, context: AdapterSourceContext) -> None:
        self._index = Path(context.config(Config).index)

    def find(self, name: str) -> str | None:
        lines = (line.split() for line in self._index.read_text().splitlines())
        found = {each: folder for each, folder in lines}.get(name)
        if found == "revoked":
            raise RequestError(f"the adapter {name} was revoked", status=403)
        return found


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    yield ConfigSection(name="registry", schema=Config)


@hookimpl
def maxserve_adapter_sources() -> Iterable[AdapterSource]:
    yield AdapterSource(name="registry", build=Registry, summary="a file with names and folders")
'''


@pytest.fixture(scope="module")
def base(model_folder: Callable[..., Path]) -> Base:
    import transformers

    made = Base(model_folder(), transformers.LlamaForCausalLM)
    for seed, name in enumerate(("registered", "hub")):
        made.adapter(name, seed=seed)
    return made


@pytest.fixture(scope="module")
def hub(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a process has in its environment that finds the hub on this machine."""
    folder, cache = base.adapters["hub"], str(tmp_path_factory.mktemp("hub"))
    with local_hub("acme/sql", lambda: {each.name: each.read_bytes() for each in folder.iterdir()}) as address:
        yield {"HF_ENDPOINT": address, "HF_HOME": cache, "HF_HUB_OFFLINE": "0"}


@pytest.fixture(scope="module")
def server(base: Base, hub: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("registry")
    (folder / "acme_registry.py").write_text(REGISTRY)
    lines = (f"law-7 {base.adapters['registered']}", f"gone {folder / 'gone'}", "secret revoked")
    (folder / "index").write_text("\n".join(lines))
    options = ("--model", str(base.folder), "--served-model-name", "tiny", "--enable-lora", "--lora-hub", "acme/*")
    plugin = ("--plugin", str(folder / "acme_registry.py"), "--registry.index", str(folder / "index"))
    live = LiveServer(*options, *plugin, env={**ONE_THREAD, **hub})
    try:
        yield live.wait_ready()
    finally:
        assert live.stop() == 0


def completion(server: LiveServer, model: str) -> httpx.Response:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    return httpx.post(server.url + "/v1/completions", json=body, timeout=60)


@pytest.mark.parametrize(("name", "adapter"), [("law-7", "registered"), ("acme/sql", "hub")])
def test_a_request_has_an_adapter_loaded_from_where_a_source_has_it(
    server: LiveServer, base: Base, name: str, adapter: str
) -> None:
    answer = completion(server, name)
    assert answer.status_code == 200, answer.text
    llm = maxserve.LLM(str(base.folder), lora=str(base.adapters[adapter]))
    alone, plain = (
        llm.generate(PROMPT, lora=lora, max_tokens=12, temperature=0.0, ignore_eos=True)[0].text for lora in (None, "")
    )
    assert answer.json()["choices"][0]["text"] == alone != plain
    assert name in {each["id"] for each in httpx.get(server.url + "/v1/models").json()["data"]}


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("secret", 403, "was revoked"),
        ("gone", 404, "there is no folder 'gone'"),
        ("acme/other", 400, "no model of this name on the Hugging Face hub"),
        ("other/sql", 404, "does not exist"),
        ("law-8", 404, "does not exist"),
    ],
)
def test_what_cannot_be_had_is_said_and_the_server_goes_on(
    server: LiveServer, name: str, status: int, reason: str
) -> None:
    answer = completion(server, name)
    assert (answer.status_code, reason in answer.json()["error"]["message"]) == (status, True), answer.text
    assert completion(server, "tiny").status_code == 200


def test_an_adapter_of_the_hub_is_named_at_the_start(
    base: Base, hub: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("maxserve.plugins.huggingface.adapters.HuggingFaceHub", lambda: local(hub, tmp_path))
    asked: dict[str, Any] = {"max_tokens": 12, "temperature": 0.0, "ignore_eos": True}
    named = maxserve.LLM(str(base.folder), lora={"sql": "acme/sql"}).generate(PROMPT, lora="sql", **asked)
    assert named == maxserve.LLM(str(base.folder), lora=str(base.adapters["hub"])).generate(PROMPT, **asked)
    with pytest.raises(SettingsError, match="--lora-paths: the adapter 'acme/other' cannot be had"):
        maxserve.LLM(str(base.folder), lora="acme/other")


def local(hub: dict[str, str], cache: Path) -> Any:
    from maxserve.plugins.huggingface.hub import HuggingFaceHub

    return HuggingFaceHub(endpoint=hub["HF_ENDPOINT"], cache=str(cache))
