"""`max encode`, with a tiny model of embeddings, and with models that give none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_the_vector_and_the_report(max_cli: Any, encoder_folder: Callable[..., Path]) -> None:
    ran = max_cli("encode", "--model", str(encoder_folder()), "--prompt", "the quick fox", "--num-warmups", "1")
    assert ran.status == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "Encoding: the quick fox"
    assert lines[1].startswith("Embeddings: [")
    numbers = re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", ran.out.partition("Prompt size")[0])
    assert len(numbers) == 32
    assert sum(float(number) ** 2 for number in numbers) == pytest.approx(1, abs=1e-3)
    report = [line.partition(":")[0] for line in lines[-4:]]
    assert report == ["Prompt size", "Startup time", "Total Latency", "Total Throughput"]
    assert "Prompt size: 5" in ran.out  # three words and the two special tokens


def test_each_command_names_the_other(
    max_cli: Any, encoder_folder: Callable[..., Path], model_folder: Callable[..., Path]
) -> None:
    ran = max_cli("encode", "--model", str(model_folder()))
    assert ran.status == 2
    assert "gives no embeddings, it generates text; there is `max generate`" in ran.err
    ran = max_cli("generate", "--model", str(encoder_folder()))
    assert ran.status == 2
    assert "encodes texts and generates none; for embedding models there is `max encode`" in ran.err
