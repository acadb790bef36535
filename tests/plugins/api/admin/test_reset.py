"""POST /reset_prefix_cache, against a stand-in and against a live server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.errors import WorkerDied
from maxserve.plugins.api.admin.router import router


class Engine:
    """Counts the resets."""

    open = 3

    def __init__(self, error: Exception | None = None) -> None:
        self.resets = 0
        self._error = error

    async def reset_prefix_cache(self) -> None:
        self.resets += 1
        if self._error is not None:
            raise self._error


def client(engine: Engine, without_prefixes: str = "") -> TestClient:
    context: Any = SimpleNamespace(
        model=SimpleNamespace(name="tiny", without_prefixes=without_prefixes),
        engine=engine,
        owned=lambda made: made,
        observers=(),
    )
    return TestClient(create_app(context, [("/", router(context), "builtin.admin")]), raise_server_exceptions=False)


def test_a_reset_is_handed_to_the_worker() -> None:
    engine = Engine()
    answer = client(engine).post("/reset_prefix_cache")
    assert (answer.status_code, answer.text, engine.resets) == (200, "Success", 1)
    assert client(engine).get("/reset_prefix_cache").status_code == 405


def test_where_no_prefixes_are_kept_it_is_refused(serving: Any, model_folder: Callable[..., Path]) -> None:
    engine = Engine()
    answer = client(engine, "--cache-strategy mine").post("/reset_prefix_cache")
    assert answer.status_code == 400
    assert "--cache-strategy mine" in answer.json()["error"]["message"]
    assert engine.resets == 0
    with serving("--model", str(model_folder()), "--no-enable-prefix-caching") as server:
        refused = httpx.post(server.url + "/reset_prefix_cache")
        assert refused.status_code == 400
        assert "--no-enable-prefix-caching" in refused.json()["error"]["message"]


def test_without_a_worker_it_fails() -> None:
    answer = client(Engine(WorkerDied("no worker is running"))).post("/reset_prefix_cache")
    assert answer.status_code == 503
    assert "the model worker stopped" in answer.json()["error"]["message"]


TIER = ("--enable-kvcache-swapping-to-host", "--host-kvcache-swap-space-gb", "0.1")


@pytest.mark.parametrize("options", [(), TIER], ids=["device", "with the host"])
def test_after_a_reset_nothing_is_found(
    serving: Any, model_folder: Callable[..., Path], options: tuple[str, ...]
) -> None:
    with serving("--model", str(model_folder()), "--kv-cache-page-size", "16", *options) as server:

        def cached() -> int:
            body = {"prompt": [5, 6, 7, 8] * 30, "max_tokens": 4, "temperature": 0}
            usage = httpx.post(server.url + "/v1/completions", json=body, timeout=60).json()["usage"]
            assert usage["prompt_tokens"] == 120
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert [cached(), cached()] == [0, 112]
        assert httpx.post(server.url + "/reset_prefix_cache").status_code == 200
        assert [cached(), cached()] == [0, 112]


def test_how_many_requests_are_open() -> None:
    assert client(Engine()).get("/load").json() == {"server_load": 3}
