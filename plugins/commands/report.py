"""The report of a generation or of a text that was encoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Measured:
    """What was counted; times in seconds. `first` and `last` are when tokens came, counted from the request."""

    prompt: int
    output: int = 0
    startup: float | None = None
    first: float | None = None
    last: float | None = None
    total: float | None = None

    def step(self, tokens: int, now: float) -> None:
        """Counts tokens that came `now`."""
        if not tokens:
            return
        self.output += tokens
        self.last = now
        if self.first is None:
            self.first = now

    @property
    def decoding(self) -> float | None:
        """Seconds between the first and the last token, None when there is nothing between."""
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        return self.last - self.first


def report(measured: Measured) -> str:
    """The lines of the report; what there is no figure for reads n/a."""
    after_first = measured.output - 1
    decoding = measured.decoding
    lines = {
        "Prompt size": f"{measured.prompt}",
        "Output size": f"{measured.output}",
        "Startup time": _milliseconds(measured.startup),
        "Time to first token": _milliseconds(measured.first),
        "Prompt eval throughput (context-encoding)": _rate(measured.prompt, measured.first, "tokens per second"),
        "Time per Output Token": _milliseconds(decoding / after_first if decoding and after_first else None),
        "Eval throughput (token-generation)": _rate(after_first, decoding, "tokens per second"),
        "Total Latency": _milliseconds(measured.total),
        "Total Throughput": _rate(1, measured.total, "req/s"),
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def encode_report(measured: Measured) -> str:
    """The lines of the report of a text that was encoded."""
    lines = {
        "Prompt size": f"{measured.prompt}",
        "Startup time": _milliseconds(measured.startup),
        "Total Latency": _milliseconds(measured.total),
        "Total Throughput": _rate(1, measured.total, "req/s"),
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _milliseconds(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds * 1000:.1f} ms"


def _rate(count: int, seconds: float | None, unit: str) -> str:
    return f"{count / seconds:.2f} {unit}" if seconds and count > 0 else "n/a"
