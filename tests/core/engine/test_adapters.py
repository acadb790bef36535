"""Adapters correct the rows of the requests that name them, and no others."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.adapters import AdaptedModel, SlotPool, StepRows, rows_by_slot
from maxserve.core.engine.loop import LONGEST_PAUSE
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.adapter import Adapter, AdapterContext
from maxserve.core.interfaces.errors import ModelError, RequestError, SettingsError
from maxserve.core.interfaces.request import AdapterChange, Request, SamplingParams
from maxserve.core.loading.linear import ExactLinear, Linear
from maxserve.testing.adapter import ConstantTable, constant_adapters
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Answer, Served
from maxserve.testing.tiny_configs import tiny_config

CPU = torch.device("cpu")
ADAPTERS = {"small": 0.5, "large": 3.0}
PROMPT = (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("llama")
    config = tiny_config("LlamaForCausalLM", architectures=["LlamaForCausalLM"])
    randomised(ArchitectureChecks.reference(config)).save_pretrained(made)  # type: ignore[operator]
    return made


def test_rows_without_an_adapter_stay_and_others_get_the_constant(plugin_host: Any) -> None:
    model = torch.nn.ModuleDict({"o_proj": Linear(4, 3), "router_o_proj": ExactLinear(4, 3), "lm_head": Linear(4, 3)})
    x, step = torch.randn(3, 4), StepRows()
    for parameter in model.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    plain = {name: module(x) for name, module in model.items()}
    context = AdapterContext(compute=torch.float32, rows=torch.float32, device=CPU)
    table = ConstantTable(context, ADAPTERS, "o_proj", slots=4)
    AdaptedModel(model, ("linear",)).correct(table, step)
    for slot, constant in enumerate(ADAPTERS.values(), start=1):
        table.place(constant, slot)
    assert torch.equal(model["o_proj"](x), plain["o_proj"]), "no step has set any rows"
    step.rows = rows_by_slot(np.array([2, 0, 1]), CPU)
    added = model["o_proj"](x) - plain["o_proj"]
    assert torch.equal(model["o_proj"](x)[1], plain["o_proj"][1])
    torch.testing.assert_close(added, torch.tensor([3.0, 0.0, 0.5])[:, None].expand(3, 3))
    for name in ("router_o_proj", "lm_head"):
        assert torch.equal(model[name](x), plain[name])


def test_rows_lie_by_adapter() -> None:
    rows = rows_by_slot(np.array([2, 2, 0, 0, 0, 1, 2]), CPU)
    assert rows is not None
    assert rows.adapter_slots.tolist() == [2, 2, 0, 0, 0, 1, 2]
    assert rows.order.tolist() == [5, 0, 1, 6]
    assert rows.groups.tolist() == [[1, 0, 1], [2, 1, 4]]
    assert rows_by_slot(np.array([0, 0]), CPU) is None


def run(engine: Any, adapters: dict[str, str]) -> dict[str, Answer]:
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=0, fields={"temperature": {"temperature": 0.0}})
    answers = {id: Answer() for id in adapters}
    for id, adapter in adapters.items():
        engine.add(Request(id=id, prompt=PROMPT, params=params, adapter=adapter))
    while engine.busy:
        for output in engine.next_outputs():
            answers[output.id].tokens += output.tokens
            answers[output.id].logprobs += [entry.logprob for entry in output.logprobs]
            answers[output.id].cached = output.cached
    return answers


@pytest.mark.parametrize("overlap", [False, True])
def test_requests_get_the_adapter_that_they_name(plugin_host: Any, folder: Path, overlap: bool) -> None:
    """Together in one batch as each alone; a compiler passes over the layers, and no cached prefix is another's."""
    options = {"enable_overlap_scheduler": overlap, "kv_cache_page_size": 16}
    plain = run(Served(folder, plugin_host(), **options).engine, {"a": ""})["a"]
    engine = Served(folder, plugin_host(constant_adapters(ADAPTERS)), **options).engine
    mixed = run(engine, {"none": "", "small": "small", "large": "large"})
    assert mixed["none"].tokens == plain.tokens
    assert mixed["none"].logprobs == pytest.approx(plain.logprobs, abs=1e-4)
    for name in ADAPTERS:
        alone = run(Served(folder, plugin_host(constant_adapters(ADAPTERS)), **options).engine, {name: name})[name]
        assert mixed[name].logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert mixed[name].logprobs != pytest.approx(plain.logprobs, abs=1e-2)
        again = run(engine, {name: name})[name]
        assert (again.cached, again.tokens) == (16, alone.tokens), "its own prefix is found"
        assert again.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_an_unknown_adapter_is_refused(plugin_host: Any, folder: Path) -> None:
    for plugins, known in (((), "none"), ((constant_adapters(ADAPTERS),), "small, large")):
        engine = Served(folder, plugin_host(*plugins)).engine
        with pytest.raises(RequestError, match=f"no adapter 'other'; there are: {known}"):
            engine.add(Request(id="a", prompt=PROMPT, adapter="other"))


def test_two_tables_with_adapters_are_refused(plugin_host: Any, folder: Path) -> None:
    host = plugin_host(constant_adapters({"a": 1.0}), _renamed(constant_adapters({"b": 1.0})))
    with pytest.raises(SettingsError, match="both have adapters to serve"):
        Served(folder, host)


def test_a_pool_is_made_where_the_settings_want_adapters(plugin_host: Any, folder: Path) -> None:
    for wanted, adapters in ((True, ("small", "large")), (False, ())):
        plugin = _renamed(constant_adapters(ADAPTERS), wanted=lambda context, wanted=wanted: wanted)
        assert Served(folder, plugin_host(plugin)).engine.info.adapters == adapters


def _renamed(plugin: Any, **changes: Any) -> Any:
    from dataclasses import replace
    from types import SimpleNamespace

    from maxserve.core.hookspecs import hookimpl

    declared = [replace(each, name="other", **changes) for each in plugin.maxserve_adapters()]
    return SimpleNamespace(maxserve_adapters=hookimpl(lambda: declared))


def test_the_model_says_which_adapters_it_has(plugin_host: Any, folder: Path) -> None:
    info = Served(folder, plugin_host(constant_adapters(ADAPTERS))).engine.info
    assert (info.adapters, info.adapter_sources) == (("small", "large"), {"small": "0.5", "large": "3.0"})
    assert Served(folder, plugin_host()).engine.info.adapters == ()


def test_memory_is_planned_for_the_adapters(plugin_host: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConstantTable, "memory", lambda self: 1 << 60)
    with pytest.raises(ModelError, match=r"does not fit: weights .*, adapters 1048576\.0 TiB and activations"):
        Served(folder, plugin_host(constant_adapters(ADAPTERS)))
    Served(folder, plugin_host())


class FullTable:
    """An AdapterTable of one slot, whose memory is short the first time."""

    slots = 1

    def __init__(self) -> None:
        self.placed: list[tuple[Any, int]] = []
        self._short = True

    def load(self, name: str, source: str) -> str:
        return source

    def place(self, loaded: Any, slot: int) -> None:
        if self._short:
            self._short = False
            raise MemoryError("there is no room")
        self.placed.append((loaded, slot))


def test_a_slot_that_could_not_be_filled_stays_free() -> None:
    table: Any = FullTable()
    adapters = SlotPool(table)
    adapters.load(AdapterChange(id="a", action="load", name="a", source="here"))
    adapter = adapters.named("a")
    assert adapter is not None
    with pytest.raises(MemoryError):
        adapters.enter(adapter)
    assert adapters.enter(adapter)
    assert table.placed == [("here", 1)]


class Changes:
    """An engine with adapters of constants, some of them as many as there are slots."""

    def __init__(self, folder: Path, host: Any) -> None:
        self.engine = Served(folder, host, kv_cache_page_size=16).engine
        self.done: list[str] = []
        self.ended: list[str] = []

    def load(self, name: str, source: str, **more: Any) -> None:
        """Returns when it is read; the error that it has, where it cannot be served."""
        self.begin(name, source, **more)
        self.read()

    def begin(self, name: str, source: str, **more: Any) -> None:
        change = AdapterChange(id=f"load {name} {source}", action="load", name=name, source=source, **more)
        self.engine.change_adapter(change)

    def read(self) -> None:
        while self.engine._adapters._loads:
            self.engine._adapters.wait(5)
            self.engine._adapters.collect()
        for _, error in self.engine.rejected_changes():
            raise error

    def unload(self, name: str, **more: Any) -> None:
        self.engine.change_adapter(AdapterChange(id=f"unload {name}", action="unload", name=name, **more))

    def add(self, id: str, adapter: str, tokens: int = 4) -> None:
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
        self.engine.add(Request(id=id, prompt=PROMPT, params=params, adapter=adapter))

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            for output in self.engine.step():
                if output.finish:
                    (self.ended if output.tokens else self.done).append(output.id)

    def run(self) -> None:
        while self.engine.busy:
            self.step()


@pytest.fixture
def one_slot(plugin_host: Any, folder: Path) -> Changes:
    return Changes(folder, plugin_host(constant_adapters(ADAPTERS, slots=1)))


def test_a_request_whose_adapter_has_no_slot_waits_and_others_do_not(one_slot: Changes) -> None:
    one_slot.add("first", "small", tokens=12)
    one_slot.step(2)
    one_slot.add("second", "large")
    one_slot.add("third", "small")
    one_slot.add("base", "")
    one_slot.run()
    assert one_slot.ended == ["third", "base", "first", "second"]


def test_one_that_waits_long_goes_before_later_ones(one_slot: Changes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxserve.core.engine.plan.PATIENCE", 0.0)
    one_slot.add("first", "small", tokens=12)
    one_slot.step(2)
    for id, adapter in (("second", "large"), ("third", "small"), ("base", "")):
        one_slot.add(id, adapter)
    one_slot.run()
    assert one_slot.ended == ["base", "first", "second", "third"]


def test_a_new_generation_is_for_new_requests(plugin_host: Any, folder: Path) -> None:
    """Those that have begun end with the old one, and no prefix of it is found again."""
    alone = {
        source: run(Served(folder, plugin_host(constant_adapters({"a": source}))).engine, {"x": "a"})["x"].tokens
        for source in (0.5, 3.0)
    }
    engine = Served(folder, plugin_host(constant_adapters({"a": 0.5})), kv_cache_page_size=16).engine
    params = SamplingParams(max_tokens=6, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
    tokens: dict[str, list[int]] = {"old": [], "new": []}
    engine.add(Request(id="old", prompt=PROMPT, params=params, adapter="a"))
    for number in range(12):
        if number == 3:
            engine.change_adapter(AdapterChange(id="c", action="load", name="a", source="3.0", replace=True))
            engine._adapters.wait(5)
            engine._adapters.collect()
            engine.add(Request(id="new", prompt=PROMPT, params=params, adapter="a"))
        for output in engine.step():
            tokens.setdefault(output.id, []).extend(output.tokens)
            assert output.cached == 0
    assert tokens == {"old": alone[0.5], "new": alone[3.0], "c": []}
    assert run(engine, {"again": "a"})["again"].cached == 16


def test_unloading_waits_or_is_refused(one_slot: Changes) -> None:
    one_slot.add("first", "small")
    one_slot.step()
    with pytest.raises(RequestError, match="in use by 1 requests") as raised:
        one_slot.unload("small", wait=False)
    assert raised.value.status == 409
    one_slot.unload("small")
    with pytest.raises(RequestError, match="no adapter 'small'") as raised:
        one_slot.add("late", "small")
    assert raised.value.status == 404
    one_slot.step()
    assert one_slot.done == []
    one_slot.run()
    assert (one_slot.ended, one_slot.done) == (["first"], ["unload small"])
    one_slot.unload("large", wait=False)
    one_slot.run()
    assert one_slot.engine.stats().waiting == 0
    assert one_slot.done == ["unload small", "unload large"]


def test_a_name_in_use_is_not_taken_by_another_source(one_slot: Changes) -> None:
    one_slot.load("small", "0.5")
    one_slot.run()
    assert one_slot.done == ["load small 0.5"], "the same once more changes nothing"
    with pytest.raises(RequestError, match=r"is loaded from another place") as raised:
        one_slot.load("small", "0.75")
    assert raised.value.status == 409
    with pytest.raises(RequestError, match="'nonsense' is no number"):
        one_slot.load("small", "nonsense", replace=True)
    one_slot.add("still", "small")
    one_slot.run()
    assert one_slot.ended == ["still"]


def test_a_pinned_adapter_keeps_its_slot(plugin_host: Any, folder: Path) -> None:
    changes = Changes(folder, plugin_host(constant_adapters(ADAPTERS, slots=2)))
    changes.load("pinned", "7", pinned=True)
    with pytest.raises(RequestError, match="would leave no slot"):
        changes.load("other", "8", pinned=True)
    for id, adapter in (("a", "small"), ("b", "large"), ("c", "pinned")):
        changes.add(id, adapter)
        changes.run()
    adapters = changes.engine._adapters
    assert adapters._by_name["pinned"].slot
    assert adapters._by_name["large"].slot
    assert not adapters._by_name["small"].slot, "the longest unused one went"
    held = adapters._by_name["pinned"].slot
    for adapter in ("small", "large", "small"):
        changes.add(adapter, adapter)
        changes.run()
        assert adapters._by_name["pinned"].slot == held, "also after it was used"


def test_a_served_adapter_is_pinned_by_loading_it_once_more(plugin_host: Any, folder: Path) -> None:
    """Until it is loaded once more without that, or replaced."""
    changes = Changes(folder, plugin_host(constant_adapters(ADAPTERS, slots=2)))
    changes.load("x", "7")
    changes.load("x", "7", pinned=True)
    with pytest.raises(RequestError, match="would leave no slot"):
        changes.load("large", "3.0", pinned=True)
    adapters = changes.engine._adapters
    held = adapters._by_name["x"].slot
    for adapter in ("small", "large", "small"):
        changes.add(adapter, adapter)
        changes.run()
        assert adapters._by_name["x"].slot == held > 0
    changes.load("x", "7")
    for adapter in ("small", "large"):
        changes.add(adapter, adapter)
        changes.run()
    assert not adapters._by_name["x"].slot


def test_an_engine_without_adapters_refuses_changes(plugin_host: Any, folder: Path) -> None:
    engine = Served(folder, plugin_host()).engine
    with pytest.raises(RequestError, match="start it with --enable-lora") as raised:
        engine.change_adapter(AdapterChange(id="a", action="load", name="x", source="y"))
    assert raised.value.status == 400


def test_an_adapter_may_not_have_the_name_of_the_model(plugin_host: Any, folder: Path) -> None:
    with pytest.raises(SettingsError, match="which is the model's"):
        Served(folder, plugin_host(constant_adapters({"same": 1.0})), served_model_name="same")


@pytest.mark.parametrize("overlap", [False, True])
def test_an_adapter_that_cannot_be_placed_ends_its_own_requests(
    plugin_host: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    def place(self: ConstantTable, adapter: float, slot: int) -> None:
        if adapter == ADAPTERS["large"]:
            raise MemoryError("there is no room")
        self._constants[slot] = adapter

    monkeypatch.setattr(ConstantTable, "place", place)
    engine = Served(folder, plugin_host(constant_adapters(ADAPTERS, slots=1)), enable_overlap_scheduler=overlap).engine
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    given = [*["large"] * 5, "small", ""]
    for index, adapter in enumerate(given):
        engine.add(Request(id=str(index), prompt=PROMPT, params=params, adapter=adapter))
    ends = {}
    while engine.busy:
        ends |= {output.id: output for output in engine.next_outputs() if output.finish}
    errors = [ends[str(index)].error for index in range(len(given))]
    assert errors == [*["the adapter 'large' could not be placed: MemoryError: there is no room"] * 5, None, None]
    assert engine.stats().adapters == ()
    engine.check()


def test_requests_with_a_replaced_adapter_are_counted_beside_those_with_the_new_one(one_slot: Changes) -> None:
    one_slot.add("old", "small", tokens=12)
    one_slot.step(2)
    one_slot.load("small", "2.0", replace=True)
    assert one_slot.engine.stats().adapters == (("small", 1, 0),)
    one_slot.add("new", "small")
    one_slot.step()
    assert one_slot.engine.stats().adapters == (("small", 1, 1),)
    one_slot.run()
    assert one_slot.engine.stats().adapters == ()


def test_a_pinned_adapter_that_cannot_be_placed_is_not_served(
    plugin_host: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(self: ConstantTable, adapter: float, slot: int) -> None:
        if adapter == 7.0:
            raise MemoryError("there is no room")
        self._constants[slot] = adapter

    changes = Changes(folder, plugin_host(constant_adapters(ADAPTERS, slots=2)))
    monkeypatch.setattr(ConstantTable, "place", place)
    for name, replace in (("new", False), ("small", True)):
        with pytest.raises(RequestError, match="could not be loaded: MemoryError: there is no room") as raised:
            changes.load(name, "7.0", pinned=True, replace=replace)
        assert raised.value.status == 500
    changes.load("large", "3.0", pinned=True)
    assert set(changes.engine.adapters) == {"small", "large"}
    changes.add("a", "small")
    changes.run()
    assert changes.ended == ["a"]


class SlowTable(ConstantTable):
    """Reads adapters when the test says so."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.may_read = threading.Event()
        self.reads: list[str] = []

    def load(self, name: str, source: str) -> float:
        if source != "at once":
            assert threading.current_thread() is not threading.main_thread()
            self.reads.append(source)
            assert self.may_read.wait(10)
        return super().load(name, "0.5" if source == "at once" else source)


@pytest.fixture
def slow(plugin_host: Any, folder: Path) -> tuple[Changes, SlowTable]:
    made: list[SlowTable] = []

    def build(context: AdapterContext) -> SlowTable:
        made.append(SlowTable(context, {"small": "at once"}, "o_proj", 2))
        return made[-1]

    declared = Adapter(name="slow", build=build)
    plugin = SimpleNamespace(maxserve_adapters=hookimpl(lambda: [declared]))
    return Changes(folder, plugin_host(plugin)), made[-1]


def test_others_go_on_while_an_adapter_is_read(slow: tuple[Changes, SlowTable]) -> None:
    """Requests decode, with adapters and without; the name is served when all of it is there."""
    changes, table = slow
    changes.add("first", "small", tokens=12)
    changes.add("base", "", tokens=12)
    changes.step(2)
    changes.begin("new", "3.0")
    changes.step(12)
    assert changes.ended == ["first", "base"]
    assert changes.done == []
    assert changes.engine.busy
    assert changes.engine.pause == LONGEST_PAUSE, "it is waited for without looking"
    with pytest.raises(RequestError, match="no adapter 'new'"):
        changes.add("early", "new")
    woken = threading.Event()
    changes.engine.serve_grammars(woken.set)
    table.may_read.set()
    assert woken.wait(5)
    changes.run()
    assert changes.done == ["load new 3.0"]
    changes.add("late", "new")
    changes.run()
    assert changes.ended[-1] == "late"
    changes.engine.close()


def test_changes_of_one_name_are_made_in_their_order(slow: tuple[Changes, SlowTable]) -> None:
    changes, table = slow
    changes.begin("new", "3.0")
    changes.begin("new", "3.0")
    changes.begin("new", "4.0")
    changes.begin("new", "5.0", replace=True)
    changes.unload("new")
    changes.begin("new", "6.0")
    changes.unload("small")
    table.may_read.set()
    while changes.engine.busy:
        changes.step()
    assert changes.done[0] == "unload small", "that of another name does not wait"
    assert changes.done[1:] == ["load new 3.0"] * 2 + ["load new 5.0", "unload new", "load new 6.0"]
    ((id, error),) = changes.engine.rejected_changes()
    assert (id, error.status) == ("load new 4.0", 409)
    assert table.reads == ["3.0", "5.0", "6.0"]
    assert changes.engine.adapters == {"new": "6.0"}


def test_what_is_read_in_vain_is_told_and_changes_nothing(slow: tuple[Changes, SlowTable]) -> None:
    changes, table = slow
    table.may_read.set()
    changes.begin("small", "nonsense", replace=True)
    while changes.engine.busy:
        changes.engine.next_outputs()
        found = changes.engine.rejected_changes()
        assert not found or str(found[0][1].message) == "the adapter 'nonsense' is no number"
    assert changes.engine.adapters == {"small": "at once"}
    assert changes.engine.rejected_changes() == []
