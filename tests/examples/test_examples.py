"""The packages in examples/ are built, installed into a fresh environment beside the wheel, tested and served with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("architecture", "scheduler", "sampler")

pytestmark = pytest.mark.install


@pytest.fixture(scope="module")
def fresh(
    fresh_environment: Callable[[], Any], build_wheel: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A new environment with maxserve's wheel and the three examples."""
    environment = fresh_environment()
    environment.install(*(str(build_wheel(name)) for name in (".", *(f"examples/{each}" for each in EXAMPLES))))
    where = environment.run("-c", "import maxserve; print(maxserve.__file__)", cwd=tmp_path_factory.mktemp("cwd"))
    assert where.startswith(str(environment.packages)), where
    return environment


def test_all_three_are_listed_with_their_distribution(fresh: Any, tmp_path: Path) -> None:
    listed = json.loads(fresh.run("-m", "maxserve", "list", "--json", cwd=tmp_path))
    text = json.dumps(listed)
    for name in ("AcmeForCausalLM", "shortest-first", "top_n_sigma", "acme-llm", "sigma-sampler"):
        assert name in text
    plugins = fresh.run("-m", "maxserve", "plugins", cwd=tmp_path)
    for name in ("acme", "shortest", "sigma"):
        assert name in plugins


@pytest.mark.parametrize("name", EXAMPLES)
def test_their_own_tests_pass(fresh: Any, name: str, tmp_path: Path) -> None:
    tests = ROOT / "examples" / name / "tests"
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    assert "passed" in fresh.run("-m", "pytest", *options, str(tests), cwd=tmp_path)


def test_a_server_serves_with_all_three(
    fresh: Any, start: Any, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "acme"
    source = model_folder(architecture="Qwen3ForCausalLM")
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["AcmeForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    options = ["--model", str(folder), "--served-model-name", "acme", "--scheduler", "shortest-first"]
    server = start(*options, "--shortest-first.aging", "80", python=fresh.python).wait_ready()
    plain = start("--model", str(source), "--served-model-name", "acme", python=fresh.python).wait_ready()
    body = {"model": "acme", "prompt": "the quick brown", "max_tokens": 16, "temperature": 0}
    answers = [httpx.post(s.url + "/v1/completions", json=body, timeout=60).json() for s in (server, plain)]
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]

    drawn = httpx.post(server.url + "/v1/completions", json={**body, "temperature": 1, "top_n_sigma": 1e-6}, timeout=60)
    assert drawn.json()["choices"][0]["text"] == answers[0]["choices"][0]["text"], "only the best token is left"
    assert "warnings" not in drawn.json()
    refused = httpx.post(server.url + "/v1/completions", json={**body, "top_n_sigma": -1})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_n_sigma"
    assert "top_n_sigma" in httpx.get(server.url + "/openapi.json").text
