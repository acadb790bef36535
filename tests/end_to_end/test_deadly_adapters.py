"""Adapters that end the worker that reads them: they are left out, and the others are served."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from maxserve.testing.live import LiveServer
from tests.conftest import ONE_THREAD
from tests.end_to_end.test_adapters import LOAD, PROMPT, alone, names, post, text
from tests.end_to_end.test_faults import worker_of
from tests.plugins.lora.conftest import Base

DEADLY = '''
"""Ends a worker that reads an adapter in whose folder there is a file "deadly"."""

import os
import signal
from pathlib import Path

from maxserve import hookimpl


@hookimpl
def maxserve_process_start(process):
    if process.kind != "worker":
        return
    from maxserve.plugins.lora.table import LoRATable

    load = LoRATable.load

    def checked(table, name, source):
        if (Path(source) / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return load(table, name, source)

    LoRATable.load = checked
'''


@pytest.fixture(scope="module")
def base(model_folder: Callable[..., Path]) -> Base:
    import transformers

    made = Base(model_folder(), transformers.LlamaForCausalLM)
    for seed, name in enumerate(("good", "other")):
        made.adapter(name, seed=seed)
    return made


@pytest.fixture
def server(base: Base, tmp_path: Path) -> Iterator[LiveServer]:
    for name in ("good", "deadly", "mine"):
        shutil.copytree(base.adapters["good" if name == "good" else "other"], tmp_path / "adapters" / name)
    (tmp_path / "adapters" / "deadly" / "deadly").touch()
    (tmp_path / "plugin.py").write_text(DEADLY)
    options = ("--enable-lora", "--lora-dir", str(tmp_path / "adapters"), "--plugin", str(tmp_path / "plugin.py"))
    live = LiveServer("--model", str(base.folder), "--served-model-name", "tiny", *options, env=ONE_THREAD)
    try:
        yield live.wait_ready()
    finally:
        assert live.stop() == 0


def test_one_that_ends_workers_is_left_out_until_it_is_mended(server: LiveServer, base: Base, tmp_path: Path) -> None:
    good, other = alone(base, "good"), alone(base, "other")
    assert post(server, LOAD, lora_name="own", lora_path="mine").status_code == 200
    assert (text(server, "good"), text(server, "own")) == (good, other)
    for _ in range(2):
        assert post(server, "/v1/completions", model="deadly", prompt=PROMPT).status_code == 503
        wait_for_another_worker(server)
    worker = worker_of(server).pid
    is_left_out(server, "deadly")
    assert worker_of(server).pid == worker
    assert (text(server, "good"), text(server, "own")) == (good, other)

    mark = tmp_path / "adapters" / "mine" / "deadly"
    mark.touch()
    worker_of(server).kill()
    wait_for_another_worker(server)  # two before it died while they read it again
    assert "own" not in names(server)
    is_left_out(server, "own")
    assert (text(server, "good"), text(server, "tiny")) == (good, alone(base, ""))
    assert post(server, LOAD, lora_name="own", lora_path="mine").status_code == 409
    mark.unlink()
    assert post(server, LOAD, lora_name="own", lora_path="mine", load_inplace=True).status_code == 200
    assert text(server, "own") == other


def wait_for_another_worker(server: LiveServer) -> None:
    server.wait_health(503)
    server.wait_health(200, seconds=240)


def is_left_out(server: LiveServer, name: str) -> None:
    answer = post(server, "/v1/completions", model=name, prompt=PROMPT)
    assert (answer.status_code, answer.json()["error"]["param"]) == (503, "model")
    assert f"the adapter '{name}' is left out" in answer.json()["error"]["message"]
    assert any(f"the adapter {name} is left out" in line for line in server.lines)
