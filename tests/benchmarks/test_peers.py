from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers  # type: ignore[import-not-found]

    module: ModuleType = peers
    return module


def test_a_row_has_medians_and_their_ratio(peers: ModuleType) -> None:
    ours = [{"output tok/s": value} for value in (30.0, 10.0, 20.0)]
    theirs = [{"output tok/s": value} for value in (10.0, 11.0, 9.0)]
    assert peers.rows("a", ours, theirs) == ["| a | output tok/s | 20.0 | 10.0 | 2.00 |"]


def test_where_less_is_better_the_ratio_is_turned(peers: ModuleType) -> None:
    ours = [{"input tok/s": 300.0, "first token ms": 50.0}]
    theirs = [{"input tok/s": 100.0, "first token ms": 200.0}]
    assert [row.split(" | ")[-1] for row in peers.rows("e", ours, theirs)] == ["3.00 |", "4.00 |"]


def test_every_scenario_fits_into_the_peers_cache(peers: ModuleType) -> None:
    for name in peers.MEASURES:
        scenario = peers.load.SCENARIOS[name]
        assert scenario.clients <= peers.SEQUENCES
        assert scenario.clients * (scenario.prompt + scenario.output) <= peers.CONTEXT


def test_a_model_that_is_there_is_not_converted(peers: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    with pytest.raises(SystemExit, match="gguf-python"):
        peers.convert(tmp_path, file, None)
    file.touch()
    peers.convert(tmp_path, file, "a program that does not exist")


def test_a_peer_that_ends_is_reported(peers: ModuleType) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    with pytest.raises(SystemExit, match="ended with status 3"):
        peers.wait_healthy("http://127.0.0.1:9", process)
