from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from maxserve.core.config import resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.config.components import unused_chunking, validate_used
from maxserve.core.interfaces.errors import PluginError, SettingsError
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.interfaces.speculator import Speculator
from maxserve.core.registry.entries import Entry, Registry
from maxserve.plugins.schedulers import maxserve_schedulers
from maxserve.plugins.speculation import maxserve_speculators
from maxserve.testing.sections import built_in_sections

SECTIONS = built_in_sections()
VALUES: dict[str, Any] = {
    "max_batch_total_tokens": 9000,
    "enable_chunked_prefill": True,
    "enable_in_flight_batching": True,
    "max_mixed_step_ms": 100,
    "kvcache_ce_watermark": 0.95,
    "max_queue_size_tg": 4,
    "min_batch_size_tg": 2,
    "ce_delay_ms": 0.0,
    "enable_prioritize_first_decode": True,
}
STRANGER = Scheduler(name="stranger", build="acme:Policy", honours=("ce_delay_ms",))
PLAIN = Scheduler(name="plain", build="acme:Plain")


def registry(strangers: Iterable[Scheduler] = (STRANGER, PLAIN)) -> Registry[Scheduler]:
    every = [*maxserve_schedulers(), *strangers]
    return Registry("scheduler", [Entry(kind="scheduler", component=s, plugin="p", origin="o") for s in every])


def speculators(strangers: Iterable[Speculator] = ()) -> Registry[Speculator]:
    every = [*maxserve_speculators(), *strangers]
    return Registry("speculator", [Entry(kind="speculator", component=s, plugin="p", origin="o") for s in every])


def refusal(scheduler: str, **options: Any) -> str:
    """The refusal of these options; empty when they are taken."""
    try:
        validate_used(
            resolve({"scheduler": scheduler, **options}, environ={}, sections=SECTIONS),
            registry(),
            speculators(),
            SECTIONS,
        )
    except SettingsError as error:
        return str(error)
    return ""


def test_every_option_up_to_schedulers_has_a_value_here() -> None:
    assert {option.name for option in catalog(SECTIONS) if option.marker.used_by == "scheduler"} == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("scheduler", ["continuous", "fair", "tts", "stranger", "plain"])
def test_an_option_is_taken_by_those_who_honour_it_and_refused_by_name_by_others(scheduler: str, name: str) -> None:
    declared = registry().get(scheduler).component
    message = refusal(scheduler, **{name: VALUES[name]})
    if name in declared.honours or (name == "enable_chunked_prefill" and not declared.chunks_prompts):
        assert message == ""
    else:
        flag = "--" + name.replace("_", "-")
        others = [entry.name for entry in registry() if name in entry.component.honours]
        assert flag in message
        assert f"--scheduler {scheduler}" in message
        assert others
        assert all(other in message for other in others)


def test_in_flight_batching_names_both_options_and_who_can() -> None:
    message = refusal("tts", enable_in_flight_batching=True)
    assert message.startswith("--enable-in-flight-batching means nothing with --scheduler tts")
    assert "choose continuous or fair" in message


def test_switching_off_what_is_off_asks_for_nothing() -> None:
    assert refusal("tts", enable_in_flight_batching=False) == ""
    assert refusal("continuous", enable_prioritize_first_decode=False) == ""
    assert "--enable-chunked-prefill" in refusal("plain", enable_chunked_prefill=False), "off is not its default"
    assert "--enable-in-flight-batching" in refusal("plain", enable_in_flight_batching=False), "it may well mix"


def test_all_are_named_at_once() -> None:
    message = refusal("continuous", max_queue_size_tg=4, ce_delay_ms=5)
    assert "--max-queue-size-tg" in message
    assert "--ce-delay-ms" in message


def test_chosen_by_file_or_environment_counts_as_well() -> None:
    settings = resolve({}, environ={"MAX_SERVE_CE_DELAY_MS": "5"}, sections=SECTIONS)
    with pytest.raises(SettingsError, match="--ce-delay-ms"):
        validate_used(settings, registry(), speculators(), SECTIONS)


def test_an_option_that_nobody_honours_can_only_be_left_out() -> None:
    settings = resolve({"scheduler": "plain", "ce_delay_ms": 1}, environ={}, sections=SECTIONS)
    only = Registry("scheduler", [Entry(kind="scheduler", component=PLAIN, plugin="p", origin="o")])
    with pytest.raises(SettingsError, match="does not use it; leave the option out"):
        validate_used(settings, only, speculators(), SECTIONS)


def test_a_scheduler_that_honours_no_option_is_a_plugin_error() -> None:
    wrong = Scheduler(name="wrong", build="acme:Policy", honours=("ce_dely_ms",))
    settings = resolve({"scheduler": "wrong"}, environ={}, sections=SECTIONS)
    with pytest.raises(PluginError, match=r"honours 'ce_dely_ms'.*did you mean ce_delay_ms"):
        validate_used(settings, registry([wrong]), speculators(), SECTIONS)


def test_chunks_are_warned_about_where_there_are_none() -> None:
    schedulers = {scheduler.name: scheduler for scheduler in maxserve_schedulers()}
    asked = resolve({"enable_chunked_prefill": True}, environ={}, sections=SECTIONS)
    assert "--enable-chunked-prefill has no effect" in str(unused_chunking(asked, schedulers["tts"]))
    assert unused_chunking(asked, schedulers["continuous"]) is None
    assert (
        unused_chunking(resolve({"enable_chunked_prefill": False}, environ={}, sections=SECTIONS), schedulers["tts"])
        is None
    )
    assert unused_chunking(resolve({}, environ={}, sections=SECTIONS), schedulers["tts"]) is None


@pytest.mark.parametrize("method", ["ngram", "synthetic", "acme", None])
def test_a_draft_model_beside_a_method_that_reads_none_is_refused(method: str | None) -> None:
    settings = resolve({"speculative_method": method, "draft_model_path": "d"}, environ={}, sections=SECTIONS)
    acme = Speculator(name="acme", build="acme:Drafter")
    where = "without a --speculative-method" if method is None else f"with --speculative-method {method}"
    with pytest.raises(SettingsError, match=f"--draft-model-path means nothing {where}.* choose .*standalone"):
        validate_used(settings, registry(), speculators([acme]), SECTIONS)


def test_methods_that_read_a_draft_model_say_so() -> None:
    acme = Speculator(name="acme", build="acme:Drafter", honours=("draft_model_path",))
    for method in ("standalone", "acme"):
        settings = resolve({"speculative_method": method, "draft_model_path": "d"}, environ={}, sections=SECTIONS)
        validate_used(settings, registry(), speculators([acme]), SECTIONS)


def test_a_method_that_honours_no_option_is_a_plugin_error() -> None:
    wrong = Speculator(name="wrong", build="acme:Drafter", honours=("draft_model_pth",))
    settings = resolve({"speculative_method": "wrong"}, environ={}, sections=SECTIONS)
    with pytest.raises(PluginError, match=r"honours 'draft_model_pth'.*speculators.*did you mean draft_model_path"):
        validate_used(settings, registry(), speculators([wrong]), SECTIONS)
