"""The packages in examples/ are built, installed into a fresh environment beside the wheel, tested and served with."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("architecture", "scheduler", "sampler", "cache_policy", "routes", "grammar_backend", "speculator")
PUBLIC = ("maxserve", "maxserve.interfaces", "maxserve.layers", "maxserve.testing")


@pytest.fixture(scope="module")
def fresh(
    fresh_environment: Callable[[], Any], build_wheel: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A new environment with maxserve's wheel and all examples."""
    environment = fresh_environment()
    environment.install(*(str(build_wheel(name)) for name in (".", *(f"examples/{each}" for each in EXAMPLES))))
    where = environment.run("-c", "import maxserve; print(maxserve.__file__)", cwd=tmp_path_factory.mktemp("cwd"))
    assert where.startswith(str(environment.packages)), where
    return environment


@pytest.mark.install
def test_they_are_listed_with_their_distribution(fresh: Any, tmp_path: Path) -> None:
    listed = json.loads(fresh.run("-m", "maxserve", "list", "--json", cwd=tmp_path))
    text = json.dumps(listed)
    for name in ("AcmeForCausalLM", "shortest-first", "top_n_sigma", "next-token", "choice-tree", "dear-prefixes"):
        assert name in text
    for name in ("acme-llm", "sigma-sampler", "pair-lookup"):
        assert name in text
    plugins = fresh.run("-m", "maxserve", "plugins", cwd=tmp_path)
    for name in ("acme", "shortest", "sigma", "next_token", "choice_tree", "dear_prefixes", "pair_lookup"):
        assert name in plugins


@pytest.fixture(scope="module")
def tried(fresh: Any, forked_pytest: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each example's own tests, run by themselves where the wheels are installed."""
    runs = []
    for name in EXAMPLES:
        folder = str(tmp_path_factory.mktemp(name))
        options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", folder]
        runs.append({"cwd": folder, "path": [], "args": [*options, str(ROOT / "examples" / name / "tests")]})
    return dict(zip(EXAMPLES, forked_pytest(runs, fresh.python), strict=True))


@pytest.mark.install
@pytest.mark.timeout(900)  # the first waits for all
@pytest.mark.parametrize("name", EXAMPLES)
def test_their_own_tests_pass(tried: dict[str, Any], name: str) -> None:
    assert tried[name]["status"] == 0, tried[name]["output"]
    assert " passed" in tried[name]["output"]


@pytest.mark.install
def test_a_server_serves_with_all_of_them(
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
    options += ["--enable-routes", "next_token", "--structured-output-backend", "choice-tree"]
    options += ["--paged.eviction", "dear-prefixes", "--speculative-method", "pair-lookup"]
    options += ["--no-adaptive-speculation"]
    server = start(*options, python=fresh.python).wait_ready()
    plain = start("--model", str(source), "--served-model-name", "acme", python=fresh.python).wait_ready()
    body = {"model": "acme", "prompt": "the quick brown", "max_tokens": 16, "temperature": 0}
    answers = [httpx.post(s.url + "/v1/completions", json=body, timeout=60).json() for s in (server, plain)]
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]
    repeating = {**body, "logit_bias": {"30": 100}}
    usage = httpx.post(server.url + "/v1/completions", json=repeating, timeout=60).json()["usage"]
    assert usage["completion_tokens_details"]["accepted_prediction_tokens"] > 4

    drawn = httpx.post(server.url + "/v1/completions", json={**body, "temperature": 1, "top_n_sigma": 1e-6}, timeout=60)
    assert drawn.json()["choices"][0]["text"] == answers[0]["choices"][0]["text"], "only the best token is left"
    assert "warnings" not in drawn.json()
    refused = httpx.post(server.url + "/v1/completions", json={**body, "top_n_sigma": -1})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_n_sigma"
    assert "top_n_sigma" in httpx.get(server.url + "/openapi.json").text

    following = httpx.get(server.url + "/plugins/next_token/next", params={"text": "the quick brown"}, timeout=60)
    assert following.json()["next"]
    assert answers[0]["choices"][0]["text"].startswith(following.json()["next"])
    held = {**body, "max_tokens": 32, "structured_outputs": {"choice": ["a dog", "a fox"]}}
    chosen = httpx.post(server.url + "/v1/completions", json=held, timeout=60)
    assert chosen.json()["choices"][0]["text"] in ("a dog", "a fox"), chosen.text


@pytest.mark.parametrize("name", EXAMPLES)
def test_they_import_public_names_only(name: str) -> None:
    modules = [
        module
        for file in (ROOT / "examples" / name).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else _plain_imports(node))
        if module.partition(".")[0] == "maxserve"
    ]
    assert modules
    assert [
        module for module in modules if module not in PUBLIC and not module.startswith("maxserve.interfaces.")
    ] == []


def _plain_imports(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
