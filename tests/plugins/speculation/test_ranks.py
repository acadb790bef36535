"""Drafts where several ranks share the target: texts of one rank, whatever drafts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.registry.protocol import Host
from maxserve.testing.ranks import served_in_ranks
from maxserve.testing.served import Served
from tests.plugins.speculation import test_eagle, test_mtp

PROMPTS = ([5, 6, 7] * 6, [9, 8, 3, 40], [5, 6, 7] * 9 + [11])
METHODS = ("ngram", "suffix", "synthetic", "standalone", "eagle", "eagle 1", "mtp", "cascade")


def options_of(method: str, folder: Path, tmp_path: Path) -> dict[str, Any]:
    if method == "eagle 1":
        return {"speculative_method": "eagle", **test_eagle.Eagle1().options_for(folder)}
    options: dict[str, Any] = {"speculative_method": method}
    if method in ("eagle", "cascade"):
        options["draft_model_path"] = str(test_eagle.head3(tmp_path / "head"))
    elif method == "standalone":
        options["draft_model_path"] = str(folder)
    return options | ({"cascade__then": "eagle"} if method == "cascade" else {})


def written(method: str, folder: Path) -> None:
    folder.mkdir()
    if method == "mtp":
        test_mtp.DeepseekV3().write_model(folder)
    elif method == "eagle 1":
        test_eagle.Eagle1().write_model(folder)
    else:
        test_eagle.write_target(folder)


def texts(served: Served) -> tuple[dict[str, list[int]], int]:
    """Greedy ones and some with a seed, twice, and how many drafts there were."""
    found: dict[str, list[int]] = {}
    for again in range(2):
        for index, prompt in enumerate(PROMPTS):
            for temperature in (0.0, 0.9):
                fields = {"temperature": {"temperature": temperature}}
                params = SamplingParams(max_tokens=40, ignore_eos=True, seed=index, fields=fields)
                id = f"{index} at {temperature}, {again}"
                served.engine.add(Request(id=id, prompt=tuple(prompt), params=params))
        while served.engine.busy:
            for output in served.engine.next_outputs():
                assert output.error is None, output.error
                found.setdefault(output.id, []).extend(output.tokens)
            served.engine.check()
    return found, served.engine.stats().draft_tokens


@pytest.mark.parametrize("method", METHODS)
def test_texts_are_those_without_drafts(method: str, plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    folder, host = tmp_path / "target", plugin_host()
    written(method, folder)
    sizes = {"max_length": 128, "max_batch_size": 8, "max_batch_input_tokens": 96}
    expected, _ = texts(Served(folder, host, **sizes))
    options = {**sizes, "num_speculative_tokens": 4, **options_of(method, folder, tmp_path)}
    _, due = texts(Served(folder, host, **options))
    found, drafts = served_in_ranks(folder, host, 2, texts, **options)
    assert found == expected
    assert drafts == due > 0, "as many drafts as one rank has"
