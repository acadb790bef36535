"""Options that do not exist are answered with what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.cli.unknown_option import ELSEWHERE
from maxserve.core.config.catalog import catalog
from maxserve.testing.sections import built_in_sections


def test_every_name_of_another_server_leads_to_an_option() -> None:
    flags = {option.flag for option in catalog(built_in_sections())} | {"--config-file"}
    assert set(ELSEWHERE.values()) <= flags
    assert not set(ELSEWHERE) & flags


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--port 9201", "option and value came as one argument; write --port 9201 as two"),
        ("--dtype auto", "option and value came as one argument; write --quantization-encoding auto as two"),
        ("--max-model-len", "--max-model-len of other servers is --max-length here"),
        ("-port", "write --port with two dashes"),
        ("--prot", "Did you mean"),
    ],
)
def test_hints(typed: str, told: str, max_cli: Any) -> None:
    ran = max_cli("serve", typed, "1")
    assert ran.status == 2
    assert told in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--enable-echo=false",), "does not take a value: write --enable-echo for on, --no-enable-echo for off"),
        (("--no-enable-echo=true",), "write --enable-echo for on, --no-enable-echo for off"),
        (
            ("--enable-echo", "false"),
            "false stands where a model may be named; options that are on or off take no value",
        ),
    ],
)
def test_values_of_options_that_take_none(words: tuple[str, ...], told: str, max_cli: Any) -> None:
    ran = max_cli("serve", *words)
    assert ran.status != 0
    assert told in ran.err
    assert ran.err.count("\n") == 1
