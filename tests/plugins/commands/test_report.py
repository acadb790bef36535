from __future__ import annotations

from maxserve.plugins.commands.report import Measured, report


def lines(measured: Measured) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in report(measured).splitlines())


def test_figures() -> None:
    measured = Measured(prompt=20)
    for tokens, now in ((1, 0.5), (0, 0.75), (1, 1.0), (2, 2.0)):
        measured.step(tokens, now)
    measured.startup, measured.total = 3.0, 2.5
    assert lines(measured) == {
        "Prompt size": "20",
        "Output size": "4",
        "Startup time": "3000.0 ms",
        "Time to first token": "500.0 ms",
        "Prompt eval throughput (context-encoding)": "40.00 tokens per second",
        "Time per Output Token": "500.0 ms",
        "Eval throughput (token-generation)": "2.00 tokens per second",
        "Total Latency": "2500.0 ms",
        "Total Throughput": "0.40 req/s",
    }


def test_one_token_has_no_rate() -> None:
    measured = Measured(prompt=20)
    measured.step(1, 0.5)
    found = lines(measured)
    assert found["Time to first token"] == "500.0 ms"
    assert found["Time per Output Token"] == "n/a"
    assert found["Eval throughput (token-generation)"] == "n/a"


def test_nothing_at_all() -> None:
    found = lines(Measured(prompt=1))
    assert found.pop("Prompt size") == "1"
    assert found.pop("Output size") == "0"
    assert set(found.values()) == {"n/a"}
