from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import peers  # type: ignore[import-not-found]

    module: ModuleType = peers
    return module


def test_a_row_has_medians_and_the_ratio_to_the_better_peer(peers: ModuleType) -> None:
    ours = [{"output tok/s": value} for value in (30.0, 10.0, 20.0)]
    theirs = [{"output tok/s": value} for value in (10.0, 11.0, 9.0)]
    assert peers.rows("a", [ours, theirs]) == ["| a | output tok/s | 20.0 | 10.0 | 2.00 |"]
    assert peers.rows("a", [ours, theirs, ours]) == ["| a | output tok/s | 20.0 | 10.0 | 20.0 | 1.00 |"]
    assert peers.rows("a", [ours]) == ["| a | output tok/s | 20.0 |"]


def test_where_less_is_better_the_ratio_is_turned(peers: ModuleType) -> None:
    ours = [{"input tok/s": 300.0, "first token ms": 50.0}]
    theirs = [{"input tok/s": 100.0, "first token ms": 200.0}]
    others = [{"input tok/s": 600.0, "first token ms": 100.0}]
    assert [row.split(" | ")[-1] for row in peers.rows("e", [ours, theirs])] == ["3.00 |", "4.00 |"]
    assert [row.split(" | ")[-1] for row in peers.rows("e", [ours, theirs, others])] == ["0.50 |", "2.00 |"]


def test_the_head_has_as_many_columns_as_a_row(peers: ModuleType) -> None:
    for count in (1, 2, 3):
        servers = [peers.Served(str(i), "", 0) for i in range(count)]
        lines = [*peers.head(servers), *peers.rows("a", [[{"output tok/s": 1.0}]] * count)]
        assert len({line.count("|") for line in lines}) == 1


def test_every_scenario_fits_into_the_peers_cache(peers: ModuleType) -> None:
    for name in peers.MEASURES:
        scenario = peers.load.SCENARIOS[name]
        longest = max(scenario.prompt, scenario.late) + scenario.output
        assert scenario.clients <= peers.SEQUENCES
        assert scenario.clients * (scenario.prompt + scenario.output) + scenario.late <= peers.CONTEXT
        assert longest <= peers.LENGTH


def test_every_figure_of_the_table_is_measured(peers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers come at once here, from a server that is none."""

    async def ask(url: str, body: bytes, answer: Any = None) -> Any:
        answer = answer or peers.load.Answer(0.0)
        answer.times += [1.0 + i for i in range(json.loads(body)["max_tokens"])]
        return answer

    monkeypatch.setattr(peers.load, "ask", ask)
    for name, measures in peers.MEASURES.items():
        figures = asyncio.run(peers.load.run("", peers.load.SCENARIOS[name], 1000, 1))
        assert {figure for figure, _ in measures} <= figures.keys()
        assert figures["errors"] == 0


def test_a_peer_of_ones_own_is_started_as_its_program_wants_it(peers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 2048}')
    peer = peers.vllm("/programs/vllm", tmp_path, 3)
    assert peer.command[:3] == ["/programs/vllm", "serve", str(tmp_path)]
    assert peer.command[-2:] == ["--max-model-len", "2048"]
    assert peer.env["OMP_NUM_THREADS"] == "3"
    assert peers.llama("/programs/llama", tmp_path / "model.gguf", 3).command[:2] == ["/programs/llama", "-m"]


def test_llama_needs_its_file(peers: ModuleType) -> None:
    given = argparse.Namespace(llama_server="server", gguf=None, vllm=None)
    with pytest.raises(SystemExit, match="--gguf FILE"):
        peers.peers(given)


def test_it_runs_without_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = sys.modules['_pytest'] = None; import peers"
    path = os.pathsep.join((str(BENCHMARKS), *sys.path))
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    ("times", "longest"),
    [
        ((1.0, 9.0, 11.0, 14.0, 30.0), 16.0),  # the long prompt came at 10 and had its token at 20
        ((1.0, 9.0, 12.0, 15.0, 19.0, 21.0), 4.0),
        ((1.0, 9.0), 11.0),  # nothing more came
        ((1.0, 9.9, 11.0), 9.0),
    ],
)
def test_the_longest_gap_is_of_the_time_in_which_the_prompt_ran(
    peers: ModuleType, times: tuple[float, ...], longest: float
) -> None:
    assert peers.load.longest_gap(list(times), peers.load.Answer(10.0, [20.0, 21.0])) == longest


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
