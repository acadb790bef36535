"""The packages in examples/ are built, installed into a fresh environment beside the wheel, tested and served with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("architecture", "scheduler", "sampler")

pytestmark = pytest.mark.install


def run(*command: str, **kwargs: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(source: Path, out: Path, tmp: Path) -> Path:
    """A wheel of `source`, built from a copy so that the checkout stays clean, without a network."""
    copy = tmp / source.name
    ignore = shutil.ignore_patterns(".git", "build", "dist", "__pycache__", "*.egg-info", ".venv", "tests")
    shutil.copytree(source, copy, ignore=ignore)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy))
    return next(iter(out.iterdir()))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a new environment with maxserve's wheel and the three examples.

    What maxserve needs (torch and so on) is borrowed from the running environment by a path file: its own packages
    come first, and path files of the borrowed folder are not read, so nothing editable shines through.
    """
    tmp = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp / "venv"))
    python = tmp / "venv" / "bin" / "python"
    own = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheels = [build_wheel(ROOT, tmp / "wheel-maxserve", tmp / "src")]
    for name in EXAMPLES:
        wheels.append(build_wheel(ROOT / "examples" / name, tmp / f"wheel-{name}", tmp / "examples"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--no-deps", "-q"]
    run(*pip, "--ignore-installed", *map(str, wheels))
    where = run(str(python), "-c", "import maxserve; print(maxserve.__file__)", cwd=tmp).strip()
    assert where.startswith(str(own)), where
    return str(python)


def test_all_three_are_listed_with_their_distribution(fresh: str, tmp_path: Path) -> None:
    listed = json.loads(run(fresh, "-m", "maxserve", "list", "--json", cwd=tmp_path))
    text = json.dumps(listed)
    for name in ("AcmeForCausalLM", "shortest-first", "top_n_sigma", "acme-llm", "sigma-sampler"):
        assert name in text
    plugins = run(fresh, "-m", "maxserve", "plugins", cwd=tmp_path)
    for name in ("acme", "shortest", "sigma"):
        assert name in plugins


@pytest.mark.parametrize("name", EXAMPLES)
def test_their_own_tests_pass(fresh: str, name: str, tmp_path: Path) -> None:
    tests = ROOT / "examples" / name / "tests"
    options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    assert "passed" in run(fresh, "-m", "pytest", *options, str(tests), cwd=tmp_path)


def test_a_server_serves_with_all_three(
    fresh: str, start: Any, model_folder: Callable[..., Path], tmp_path: Path
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
    server = start(*options, "--shortest-first.aging", "80", python=fresh).wait_ready()
    plain = start("--model", str(source), "--served-model-name", "acme", python=fresh).wait_ready()
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
