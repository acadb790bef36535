from __future__ import annotations

import pytest

from maxserve.core.config.values import (
    CACHE_STRATEGIES,
    DEVICE_LIST,
    ENCODINGS,
    METHODS,
    cpu_ranks,
    gpu_numbers,
)
from maxserve.plugins.profiling.options import MODES
from maxserve.plugins.transfers.options import ROLES


@pytest.mark.parametrize(
    "spelling",
    [
        "PrefillOnly",
        "prefillonly",
        "PREFILLONLY",
        "prefill_only",
        "PREFILL_ONLY",
        "prefill-only",
        "PipelineRole.PrefillOnly",
        "pipelinerole.prefill_only",
    ],
)
def test_every_spelling_of_a_role(spelling: str) -> None:
    assert ROLES.read(spelling) == "prefill_only"


@pytest.mark.parametrize("spelling", ["PAGED", "paged", "Paged", "KVCacheStrategy.PAGED", "kvcachestrategy.paged"])
def test_every_spelling_of_a_strategy(spelling: str) -> None:
    assert CACHE_STRATEGIES.read(spelling) == "paged"


def test_open_sets_take_names_that_plugins_register_as_they_are() -> None:
    assert CACHE_STRATEGIES.read("Acme-Cache") == "Acme-Cache"
    assert METHODS.read("acme.lookahead") == "acme.lookahead"
    assert METHODS.read("SpeculativeMethod.MTP") == "mtp"
    with pytest.raises(ValueError, match="expected one of"):
        METHODS.read("")


@pytest.mark.parametrize("value", ["float16", "PipelineRole.float32", "", 5, None])
def test_closed_sets_refuse_other_names_and_list_their_own(value: object) -> None:
    with pytest.raises(ValueError, match="float32, bfloat16, q4_k"):
        ENCODINGS.read(value)


def test_a_bare_off_of_yaml_is_the_name_off() -> None:
    assert MODES.read(False) == "off"
    assert MODES.read(True) == "on"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("cpu", "cpu"),
        ("GPU", "gpu:0"),
        ("gpu:1", "gpu:1"),
        ("gpu: 2, 0", "gpu:2,0"),
        ("CPU:0,1", "cpu:0,1"),
        ("default", "default"),
    ],
)
def test_devices_have_one_spelling(text: str, canonical: str) -> None:
    assert DEVICE_LIST.read(text) == canonical


@pytest.mark.parametrize(
    "text",
    ["gpus", "gpu:", "gpu:a", "gpu:0,0", "cpu:0", "cpu:1", "cpu:1,0", "cpu:0,0", "cpu:0,2", "cuda:0", "", 0, None],
)
def test_other_devices_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected cpu, gpu|twice"):
        DEVICE_LIST.read(text)


def test_which_gpus() -> None:
    assert gpu_numbers("gpu:2,0") == (2, 0)
    assert gpu_numbers("cpu") == gpu_numbers("cpu:0,1") == gpu_numbers("default") == ()


def test_how_many_processes_on_cpus() -> None:
    assert [cpu_ranks(devices) for devices in ("cpu", "cpu:0,1", "cpu:0,1,2", "gpu:0,1", "default")] == [1, 2, 3, 1, 1]
