from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from maxserve.core.engine.ledger import Ledger
from maxserve.core.engine.plan import StepPlan, StepView
from maxserve.core.engine.queues import Queues
from maxserve.core.engine.sequence import Sequence
from maxserve.core.interfaces.cache import Cache, CacheContext, CacheLayer
from maxserve.core.interfaces.request import Request
from maxserve.core.interfaces.scheduler import Limits
from maxserve.plugins.cache.paged import PagedCache
from maxserve.scheduling import WorkCost

PAGE = 16


class Desk:
    """Queues, a small cache and rows, for plans to be made over."""

    def __init__(self, *, pages: int = 8, rows: int = 4, tokens: int = 64, chunked: bool = True) -> None:
        self.queues = Queues()
        self.ledger = Ledger()
        self.limits = Limits(
            max_batch_size=rows,
            max_batch_input_tokens=tokens,
            max_batch_total_tokens=None,
            max_length=pages * PAGE,
            page_size=PAGE,
            pages=pages,
            chunked_prefill=chunked,
        )
        self.free_rows = list(range(rows))
        self.cache: Cache = PagedCache(
            CacheContext(
                layers=(CacheLayer(kv_heads=1, head_dim=1),),
                pages=pages,
                page_size=PAGE,
                rows=rows,
                max_length=pages * PAGE,
                dtype=torch.float32,
                device=torch.device("cpu"),
            )
        )

    def plan(self) -> StepPlan:
        return StepPlan(self.queues, self.cache, self.limits, self.free_rows, cost=WorkCost())

    def prompt(self, id: str, length: int) -> Sequence:
        prompt = tuple(range(len(id) * ord(id[0]), len(id) * ord(id[0]) + length))
        request = Request(id=id, prompt=prompt)
        limit = self.limits.max_length
        sequence = Sequence(request, limit=limit, ends=frozenset(), params={}, ledger=self.ledger)
        self.queues.wait(sequence)
        return sequence

    def decoding(self, id: str, length: int) -> Sequence:
        """One whose prompt is computed, and whose next token is known."""
        sequence, plan = self.prompt(id, length), self.plan()
        plan.tokens_left = length
        assert plan.add(sequence.view, length) == length
        self.queues.begin(plan.opened)
        self.queues.run([sequence])
        self.ledger.computed[sequence.slot] = length
        sequence.append(1)
        return sequence


def test_a_prompt_is_cut_to_the_tokens_left() -> None:
    desk = Desk(tokens=40)
    a, b, c = (desk.prompt(id, 30) for id in "abc")
    plan = desk.plan()
    assert [plan.add(s.view, s.view.todo) for s in (a, b, c)] == [30, 10, 0]
    assert plan.tokens_left == 0
    assert plan.opened == [a, b]
    assert c.row == -1
    assert len(desk.free_rows) == 2


@pytest.mark.parametrize("tokens", [1, 2, 3, 64])
@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_adding_each_is_adding_one_by_one(tokens: int, rows: int, count: int) -> None:
    """Those who decode and have room, one at the end of its page, one whose prompt waits, one that comes twice."""
    plans = []
    for each in (True, False):
        desk = Desk(rows=4)
        asked = [desk.decoding(id, length).view for id, length in (("a", 3), ("b", PAGE), ("c", 5))]
        asked += [desk.prompt("d", 7).view, asked[0]]
        desk.limits = replace(desk.limits, max_batch_size=rows, max_batch_input_tokens=tokens)
        plan = desk.plan()
        if each:
            plan.add_each(asked, count)
        else:
            for view in asked:
                plan.add(view, count)
        plans.append(
            (
                [(sequence.id, granted, sequence.room) for sequence, granted in plan.entries.items()],
                plan.tokens_left,
                plan.lacked_pages,
                desk.cache.sizes(),
            )
        )
    assert plans[0] == plans[1]


def test_nobody_is_planned_twice() -> None:
    desk = Desk()
    a = desk.prompt("a", 30)
    plan = desk.plan()
    assert (plan.add(a.view, 10), plan.add(a.view, 10)) == (10, 0)


@pytest.mark.parametrize("chunked", [True, False])
def test_whole_is_all_or_nothing(chunked: bool) -> None:
    desk = Desk(tokens=40, chunked=chunked)
    a, b, c = (desk.prompt(id, 30) for id in "abc")
    plan = desk.plan()
    # Without chunking the last one may exceed the budget: it could never run otherwise.
    granted = [plan.add(s.view, s.view.todo, whole=True) for s in (a, b, c)]
    assert granted == ([30, 0, 0] if chunked else [30, 30, 0])


def test_there_are_as_many_as_rows() -> None:
    desk = Desk(rows=1)
    a, b = desk.prompt("a", 3), desk.prompt("b", 3)
    plan = desk.plan()
    assert (plan.rows_left, plan.add(a.view, 3), plan.rows_left, plan.add(b.view, 3)) == (1, 3, 0, 0)


def test_a_prompt_takes_no_pages_from_others() -> None:
    desk = Desk(pages=4)
    a = desk.decoding("a", 40)
    b = desk.prompt("b", 40)
    plan = desk.plan()
    assert plan.add(b.view, 40) == 0
    assert plan.lacked_pages
    assert a.started
    assert not plan.preempted
    assert len(desk.free_rows) == 3


def test_who_decodes_takes_pages_from_the_newest() -> None:
    desk = Desk(pages=4)
    a, b, c = desk.decoding("a", 32), desk.decoding("b", 16), desk.decoding("c", 16)
    plan = desk.plan()
    assert plan.add(a.view, 1) == 1
    assert plan.preempted == [c]
    assert (plan.add(c.view, 1), plan.add(b.view, 1)) == (0, 0)  # c may not come back, b makes room itself
    assert plan.preempted == [c, b]


def test_relief_runs_the_oldest_and_nobody_else() -> None:
    desk = Desk(pages=4)
    a, b = desk.decoding("a", 32), desk.decoding("b", 32)
    plan = desk.plan()
    plan.relieve()
    assert list(plan.entries) == [a]
    assert plan.preempted == [b]


def test_only_sequences_of_the_view_can_be_planned() -> None:
    with pytest.raises(TypeError, match="takes the sequences of its view, got int"):
        Desk().plan().add(3, 1)  # type: ignore[arg-type]


def test_the_view_tells_what_the_cache_has_once_a_step() -> None:
    desk = Desk()
    tokens = np.arange(32, dtype=np.int64)
    desk.cache.open(3, tokens, "")
    desk.cache.reserve(3, 32)
    desk.cache.commit(3, tokens)
    desk.cache.close(3)
    sequence = Sequence(Request(id="a", prompt=tuple(range(33))), limit=99, ends=frozenset(), params={})
    desk.queues.wait(sequence)
    assert [s.todo for s in StepView(desk.queues, desk.cache, 1).waiting] == [1]
    desk.cache.reset()
    assert [s.todo for s in StepView(desk.queues, desk.cache, 1).waiting] == [1]  # searched in this step already
    assert [s.todo for s in StepView(desk.queues, desk.cache, 2).waiting] == [33]
