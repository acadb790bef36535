"""The conformance class catches caches that are wrong; each of these breaks one promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from maxserve.core.interfaces.cache import Cache, CacheContext, CacheStrategy
from maxserve.plugins.cache.paged import PagedCache, WindowedCache
from maxserve.plugins.cache.paged.groups import cache_groups
from maxserve.plugins.cache.paged.tree import Owner
from maxserve.testing.cache import CacheStrategyChecks

Tokens = NDArray[np.int64]


class Unchecked(PagedCache):
    """Its own check is off, so that the kit has to find out."""

    def check(self) -> None:
        pass


class IgnoresSalt(Unchecked):
    def peek(self, tokens: Tokens, salt: str) -> int:
        return super().peek(tokens, "")

    def open(self, row: int, tokens: Tokens, salt: str) -> int:
        return super().open(row, tokens, "")


class SharesOnCollision(Unchecked):
    def _bytes(self, tokens: Tokens, start: int, stop: int) -> bytes:
        return super()._bytes(tokens % 1, start, stop)


class LeavesNothingToCompute(Unchecked):
    def _match(self, tokens: Tokens, salt: str) -> list:  # type: ignore[type-arg]
        return super()._match(np.append(tokens, 0), salt)


class LeaksOnClose(Unchecked):
    def close(self, row: int) -> None:
        state = self._state(row)
        state.pages = max(state.committed, state.pages - 1)
        self._pool.moved(state.tail, -1)
        state.tail = -1
        super().close(row)


class EvictsPagesInUse(Unchecked):
    def reserve(self, row: int, length: int) -> bool:
        granted = super().reserve(row, length)
        pages = self._state(row).pages
        for other, state in enumerate(self._rows):
            if granted and state is not None and other != row and pages and state.pages:
                self.block_tables[row, pages - 1] = self.block_tables[other, 0]
        return granted


class TakesBeforeItRefuses(Unchecked):
    def reserve(self, row: int, length: int) -> bool:
        while not super().reserve(row, length):
            if not super().reserve(row, self._state(row).capacity + 1):
                return False
        return True


class RefusesTooEarly(Unchecked):
    def reserve(self, row: int, length: int) -> bool:
        return self.sizes().available > 2 and super().reserve(row, length)


class PeekClaims(Unchecked):
    def peek(self, tokens: Tokens, salt: str) -> int:
        for entry in self._match(tokens, salt):
            self._tree.hold(entry)
        return super().peek(tokens, salt)


class ForgetsPrefixes(Unchecked):
    def close(self, row: int) -> None:
        super().close(row)
        self.reset()


class SharesAlthoughSwitchedOff(Unchecked):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(context)
        self._sharing = True


class NeverCopies(Unchecked):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(context)
        if self._host is not None:
            self._host.write = lambda tokens, salt, pages: None  # type: ignore[method-assign]


class ReadsBackInTheWrongOrder(Unchecked):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(context)
        if (host := self._host) is not None:
            read = host.read
            host.read = lambda copies, pages: read(copies, pages[::-1])  # type: ignore[method-assign]


class SharesCopiesAcrossSalts(Unchecked):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(context)
        if (host := self._host) is not None:
            match, write = host.match, host.write
            host.match = lambda tokens, salt: match(tokens, "")  # type: ignore[method-assign]
            host.write = lambda tokens, owner, pages: write(tokens, Owner(), pages)  # type: ignore[method-assign]


class ResetsTheDeviceOnly(Unchecked):
    def reset(self) -> int:
        host, self._host = self._host, None
        freed = super().reset()
        self._host = host
        return freed


class PeeksAtTheDeviceOnly(Unchecked):
    def peek(self, tokens: Tokens, salt: str) -> int:
        return len(self._match(tokens, salt)) * self.page_size


class TouchesEverything(Unchecked):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(replace(context, soft_pages=None))


class KeepsRowsSmall(Unchecked):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(context)
        self._pool.total = self._pool.opened


class KeepsRejectedPages(Unchecked):
    def truncate(self, row: int, length: int) -> None:
        pass


class GivesBackTheLastPageKept(Unchecked):
    def truncate(self, row: int, length: int) -> None:
        super().truncate(row, max(length - self.page_size, self._state(row).committed * self.page_size))


class UncheckedWindows(WindowedCache):
    def check(self) -> None:
        pass


class OverlooksGaps(UncheckedWindows):
    def __init__(self, context) -> None:  # type: ignore[no-untyped-def]
        super().__init__(context)
        self._tree._last_gap = lambda found: -1  # type: ignore[method-assign]


class GivesNothingBack(UncheckedWindows):
    def _pass(self, row, state, number, first) -> None:  # type: ignore[no-untyped-def]
        pass


class GivesBackTooMuch(UncheckedWindows):
    def _pass(self, row, state, number, first) -> None:  # type: ignore[no-untyped-def]
        first += self._reaches[number].group.bounded and first < state.committed
        super()._pass(row, state, number, first)


class ForgetsWhatWindowsPassed(UncheckedWindows):
    def commit(self, row: int, tokens: Tokens) -> None:
        super().commit(row, tokens)
        self.reset()


class GivesGroupsOneTable(UncheckedWindows):
    def reserve(self, row: int, length: int) -> bool:
        granted = super().reserve(row, length)
        self.group_block_tables[-1, row] = self.group_block_tables[0, row]
        return granted


class TruncatesOneGroup(UncheckedWindows):
    def truncate(self, row: int, length: int) -> None:
        state, pages = self._state(row), -(-length // self.page_size)
        self._pool.give(self.group_block_tables[0, row, pages : state.pages].tolist())
        state.pages = min(pages, state.pages)
        self._set_tails(row, state)


BROKEN_WINDOWS = [
    TruncatesOneGroup,
    OverlooksGaps,
    GivesNothingBack,
    GivesBackTooMuch,
    ForgetsWhatWindowsPassed,
    GivesGroupsOneTable,
]
BROKEN = [
    NeverCopies,
    ReadsBackInTheWrongOrder,
    SharesCopiesAcrossSalts,
    ResetsTheDeviceOnly,
    PeeksAtTheDeviceOnly,
    TouchesEverything,
    KeepsRowsSmall,
    IgnoresSalt,
    SharesOnCollision,
    LeavesNothingToCompute,
    LeaksOnClose,
    EvictsPagesInUse,
    TakesBeforeItRefuses,
    RefusesTooEarly,
    PeekClaims,
    ForgetsPrefixes,
    SharesAlthoughSwitchedOff,
    KeepsRejectedPages,
    GivesBackTheLastPageKept,
]


WINDOWS = ("group", "window")


def failing(checks: CacheStrategyChecks, about: tuple[str, ...] = ("",)) -> Iterator[str]:
    """The tests of the class that fail, of those about something; who wants one is given the first."""
    for name in dir(checks):
        test: Callable[[], None] = getattr(checks, name)
        if name.startswith("test_") and any(word in name for word in about):
            try:
                test()
            except AssertionError:
                yield name


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_caches_are_caught(broken: type[PagedCache]) -> None:
    class Checks(CacheStrategyChecks):
        component = CacheStrategy(name="broken", build=broken, host_tier=True)
        seeds = range(3)

    assert next(failing(Checks()), None)


@pytest.mark.parametrize("broken", BROKEN_WINDOWS)
def test_broken_windows_are_caught(broken: type[WindowedCache]) -> None:
    class Checks(CacheStrategyChecks):
        component = CacheStrategy(name="broken", build=building(broken), host_tier=True, groups=cache_groups)
        seeds = range(4)

    assert next(failing(Checks(), WINDOWS), None)


def test_the_same_without_the_fault_passes() -> None:
    class Checks(CacheStrategyChecks):
        component = CacheStrategy(name="fine", build=building(UncheckedWindows), host_tier=True, groups=cache_groups)
        seeds = range(2)

    assert list(failing(Checks())) == []


def building(windowed: type[WindowedCache]) -> Callable[[CacheContext], Cache]:
    """A strategy that keeps groups in a `windowed`."""

    def build(context: CacheContext) -> Cache:
        if context.groups:
            return windowed(context)
        return Unchecked(context)

    return build
