"""Hints for options that do not exist or take no value: two arguments in one, one dash, the names of other servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ELSEWHERE: Mapping[str, str] = {
    "--dtype": "--quantization-encoding",
    "--max-model-len": "--max-length",
    "--context-length": "--max-length",
    "--ctx-size": "--max-length",
    "--max-num-seqs": "--max-batch-size",
    "--max-running-requests": "--max-batch-size",
    "--parallel": "--max-batch-size",
    "--max-num-batched-tokens": "--max-batch-input-tokens",
    "--gpu-memory-utilization": "--device-memory-utilization",
    "--mem-fraction-static": "--device-memory-utilization",
    "--block-size": "--kv-cache-page-size",
    "--kv-cache-dtype": "--kv-cache-format",
    "--revision": "--huggingface-model-revision",
    "--tool-call-parser": "--tool-parser",
    "--alias": "--served-model-name",
    "--device": "--devices",
    "--config": "--config-file",
    "--data-parallel-size": "--data-parallel-degree",
}
"""What vLLM, SGLang and llama.cpp call an option, and what it is called here."""


def switch_hint(flag: str) -> str:
    """How an option that takes no value is switched on and off."""
    name = flag.removeprefix("--").removeprefix("no-")
    return f"write --{name} for on, --no-{name} for off"


def hint(name: str, argv: Sequence[str]) -> str:
    """What to do about an option of that name, as the end of a sentence; empty where nothing is known.

    `argv` is what was typed: of "-port", click names the first letter only.
    """
    flag, blank, value = name.partition(" ")
    if blank:
        known = ELSEWHERE.get(flag, flag)
        return f": option and value came as one argument; write {known} {value} as two"
    if flag in ELSEWHERE:
        return f": {flag} of other servers is {ELSEWHERE[flag]} here"
    long = next((word for word in argv if len(word) > 2 and word.startswith(flag) and word[1] != "-"), "")
    return f": write -{long} with two dashes" if len(flag) == 2 and long else ""
