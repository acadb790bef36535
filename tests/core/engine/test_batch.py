from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from maxserve.core.engine.batch import BatchBuilder
from maxserve.core.engine.sequence import Sequence
from maxserve.core.nouns import Batch, Request

PAGE = 4
TABLES = np.array([[9, 9, 9, 9], [5, 2, 7, 9], [1, 9, 9, 9], [3, 6, 9, 9]], dtype=np.int32)


def sequence(prompt: list[int], *, row: int, computed: int, generated: tuple[int, ...] = ()) -> Sequence:
    made = Sequence(Request(id=str(row), prompt=tuple(prompt)), limit=99, ends=frozenset(), params={})
    for token in generated:
        made.append(token)
    made.row, made.computed = row, computed
    return made


def built(entries: dict[Sequence, int]) -> Batch:
    cache: Any = SimpleNamespace(tables=TABLES)
    attention: Any = object()
    return BatchBuilder(cache, attention, PAGE, torch.device("cpu")).build(entries)


def test_a_mixed_step() -> None:
    cut = sequence(list(range(20, 30)), row=1, computed=3)  # 5 of the 7 tokens it still has
    decoding = sequence([40, 41], row=2, computed=2, generated=(42,))
    whole = sequence([50, 51, 52, 53, 54], row=3, computed=0)
    batch = built({cut: 5, decoding: 1, whole: 5})
    assert batch.input_ids.tolist() == [23, 24, 25, 26, 27, 42, 50, 51, 52, 53, 54]
    assert batch.positions.tolist() == [3, 4, 5, 6, 7, 2, 0, 1, 2, 3, 4]
    assert batch.slots.tolist() == [23, 8, 9, 10, 11, 6, 12, 13, 14, 15, 24]
    assert batch.query_start.tolist() == [0, 5, 6, 11]
    assert batch.seq_lens.tolist() == [8, 3, 5]
    assert batch.prompt_lens.tolist() == [10, 2, 5]
    assert batch.logit_rows.tolist() == [5, 10]  # none for the prompt that was cut
    assert batch.tables.tolist() == [[5, 2], [1, 9], [3, 6]]


def test_one_token_each_be_it_the_last_or_not() -> None:
    decoding = sequence([40, 41], row=2, computed=2, generated=(42,))
    inside = sequence(list(range(20, 30)), row=1, computed=6)
    batch = built({inside: 1, decoding: 1})
    assert batch.input_ids.tolist() == [26, 42]
    assert batch.logit_rows.tolist() == [1]


def test_tokens_preempted_and_computed_again_come_from_the_whole_history() -> None:
    again = sequence([40, 41], row=2, computed=0, generated=(42, 43))
    batch = built({again: 4})
    assert batch.input_ids.tolist() == [40, 41, 42, 43]
    assert batch.prompt_lens.tolist() == [2]
