from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.engine.inputs import InputsBuilder
from maxserve.core.engine.ledger import Ledger
from maxserve.core.engine.sequence import Sequence
from maxserve.core.engine.step import Step
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.request import Request

Make = Callable[..., Sequence]
PAGE = 4
TABLES = np.array([[9, 9, 9, 9], [5, 2, 7, 9], [1, 9, 9, 9], [3, 6, 9, 9]], dtype=np.int32)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def sequence(ledger: Ledger) -> Callable[..., Sequence]:
    def make(prompt: list[int], *, row: int, computed: int, generated: tuple[int, ...] = ()) -> Sequence:
        request = Request(id=str(row), prompt=tuple(prompt))
        made = Sequence(request, limit=99, ends=frozenset(), params={}, ledger=ledger)
        for token in generated:
            made.append(token)
        made.take_row(row, computed, PAGE)
        return made

    return make


def built(step: Step) -> StepInputs:
    cache: Any = SimpleNamespace(block_tables=TABLES)
    return InputsBuilder(cache, PAGE, torch.device("cpu")).build(step)


def test_a_mixed_step(sequence: Make, ledger: Ledger) -> None:
    cut = sequence(list(range(20, 30)), row=1, computed=3)  # 5 of the 7 tokens it still has
    decoding = sequence([40, 41], row=2, computed=2, generated=(42,))
    whole = sequence([50, 51, 52, 53, 54], row=3, computed=0)
    inputs = built(Step({cut: 5, decoding: 1, whole: 5}, ledger))
    assert inputs.input_ids.tolist() == [23, 24, 25, 26, 27, 42, 50, 51, 52, 53, 54]
    assert inputs.positions.tolist() == [3, 4, 5, 6, 7, 2, 0, 1, 2, 3, 4]
    assert inputs.slot_mapping.tolist() == [23, 8, 9, 10, 11, 6, 12, 13, 14, 15, 24]
    assert inputs.query_start.tolist() == [0, 5, 6, 11]
    assert inputs.seq_lens.tolist() == [8, 3, 5]
    assert inputs.prompt_lens.tolist() == [10, 2, 5]
    assert inputs.logit_rows.tolist() == [5, 10]  # none for the prompt that was cut
    assert inputs.block_tables.tolist() == [[5, 2], [1, 9], [3, 6]]


def test_one_token_each_be_it_the_last_or_not(sequence: Make, ledger: Ledger) -> None:
    decoding = sequence([40, 41], row=2, computed=2, generated=(42,))
    inside = sequence(list(range(20, 30)), row=1, computed=6)
    inputs = built(Step({inside: 1, decoding: 1}, ledger))
    assert inputs.input_ids.tolist() == [26, 42]
    assert inputs.logit_rows.tolist() == [1]


def test_tokens_preempted_and_computed_again_come_from_the_whole_history(sequence: Make, ledger: Ledger) -> None:
    again = sequence([40, 41], row=2, computed=0, generated=(42, 43))
    inputs = built(Step({again: 4}, ledger))
    assert inputs.input_ids.tolist() == [40, 41, 42, 43]
    assert inputs.prompt_lens.tolist() == [2]


def test_each_group_of_layers_has_its_own_slots(sequence: Make, ledger: Ledger) -> None:
    tables = np.stack([TABLES, TABLES + 10])
    cut = sequence(list(range(20, 30)), row=1, computed=3)
    decoding = sequence([40, 41], row=2, computed=2, generated=(42,))
    cache: Any = SimpleNamespace(block_tables=tables[0])
    inputs = InputsBuilder(cache, PAGE, torch.device("cpu"), block_tables=tables).build(
        Step({cut: 5, decoding: 1}, ledger)
    )
    assert [seen.slot_mapping.tolist() for seen in inputs.groups] == [[23, 8, 9, 10, 11, 6], [63, 48, 49, 50, 51, 46]]
    assert [seen.block_tables.tolist() for seen in inputs.groups] == [[[5, 2], [1, 9]], [[15, 12], [11, 19]]]
    assert inputs.slot_mapping.tolist() == inputs.groups[0].slot_mapping.tolist()
    assert all(seen.slot_mapping.is_contiguous() and seen.input_ids is inputs.input_ids for seen in inputs.groups)
