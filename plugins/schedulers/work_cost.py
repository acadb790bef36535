"""The time of a step by what it computes, learned from the steps that were run.

A step of T tokens takes about `base + a * T + b * C + c * P` seconds: C are the tokens of context that its sequences
read, and P the pairs of a token and one that it sees, which is what attention of prompts costs. No part is negative, so
that what steps have not shown yet is never taken for free. Steps of about the same size count as one, by what the
last ones took: a machine that is busy elsewhere for a while is slower for a while.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from maxserve.interfaces.scheduler import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.component import Context

SIZES = 64  # sizes of steps that are remembered
RECENT = 0.3  # weight of a new time among those of its size
STALE = 512  # steps after which a size counts half beside a fresh one
LEAST = 0.05  # what a size counts at least
PATIENCE = 8  # steps that are noted before the parts are found anew
GROWTH = 4  # no estimate is believed for more than so many times the tokens of the largest step so far
EVERY = 8  # of the steps that only decode, which are many and alike, one in so many is learned from


class WorkCost:
    """A StepCost. Until steps of several sizes were run, what they took is the base, and tokens cost little."""

    def __init__(self, context: Context | None = None) -> None:
        self._sizes: OrderedDict[tuple[int, int], NDArray[np.float64]] = OrderedDict()  # 1, T, C, P, seconds, when
        self._noted = 0
        self._fresh = 0  # noted since the parts were found
        self._largest = 0
        self._parts: NDArray[np.float64] = np.zeros(4)
        self._known_before = True  # the last step drew, so nothing of it was left to the one after it

    def wants(self, number: int, *, draws: bool, decodes: bool) -> bool:
        """What a step without a draw takes, a device tells with the next one's time: both say nothing."""
        known, self._known_before = self._known_before, draws
        often = not decodes or len(self._sizes) < 2
        return known and draws and (often or number % EVERY == 0)

    def learn(self, work: Work, seconds: float) -> None:
        self._noted += 1
        self._fresh += 1
        self._largest = max(self._largest, work.tokens)
        key = work.tokens.bit_length(), work.pairs.bit_length()
        seen = np.array([1.0, work.tokens, work.context, work.pairs, seconds, self._noted])
        known = self._sizes.get(key)
        if known is None:
            self._fresh = PATIENCE
            self._sizes[key] = seen
        else:
            known[:5] += RECENT * (seen[:5] - known[:5])
            known[5] = self._noted
        self._sizes.move_to_end(key)
        if len(self._sizes) > SIZES:
            self._sizes.popitem(last=False)

    def seconds(self, work: Work) -> float:
        base, token, context, pair = self._found()
        return float(base + token * work.tokens + context * work.context + pair * work.pairs)

    def most(self, beside: Work, start: int, seconds: float) -> int:
        _, token, context, pair = self._found().tolist()
        left = seconds - self.seconds(beside + Work(context=start))
        believed = GROWTH * max(self._largest, beside.tokens)
        if left <= 0:
            return 0
        linear, square = token + context + pair * (start + 0.5), pair / 2  # of n tokens: linear * n + square * n²
        if not linear:
            return believed
        fits = 2 * left / (linear + math.sqrt(linear * linear + 4 * square * left))
        return min(believed, int(fits))

    def _found(self) -> NDArray[np.float64]:
        if self._fresh >= PATIENCE and self._sizes:
            self._fresh = 0
            self._parts = _fit(np.array(list(self._sizes.values())), self._noted)
        return self._parts


def _fit(sizes: NDArray[np.float64], now: int) -> NDArray[np.float64]:
    """The parts, none below 0, that leave the smallest errors relative to the times."""
    seconds = np.maximum(sizes[:, 4], 1e-9)
    weight = np.maximum(0.5 ** ((now - sizes[:, 5]) / STALE), LEAST)
    relative = sizes[:, :4] / seconds[:, None]
    scale = np.maximum(np.sqrt((relative**2 * weight[:, None]).sum(0)), 1e-30)
    scaled = relative / scale
    gram, target = scaled.T @ (scaled * weight[:, None]) + 1e-9 * np.eye(4), scaled.T @ weight
    best, least = np.zeros(4), 0.0
    for count in range(1, 5):
        for some in combinations(range(4), count):
            found = np.linalg.solve(gram[np.ix_(some, some)], target[list(some)])
            error = -float(found @ target[list(some)])  # the squared error but for a constant
            if error < least and (found >= 0).all():
                best, least = np.zeros(4), error
                best[list(some)] = found
    parts: NDArray[np.float64] = best / scale
    return parts
