"""The pool of pages."""

from __future__ import annotations

from heapq import heapify, heappush, heapreplace

ELBOW_ROOM = 1.25  # pages to have for each that rows hold: in a pool that is just full, every row lies in pieces


class PagePool:
    """Free pages, kept as runs of neighbours.

    Pages 0 … `opened` - 1 take part; the rest stays untouched, and so takes no memory, until `open` adds to them.

    Attention reads neighbouring pages as one block, so a sequence grows into the page after its last one, and a new
    run starts where the most room lies ahead of it. The two ends of a free run know each other, which makes giving
    and taking O(1); finding the longest run is O(log runs).
    """

    __slots__ = ("_first", "_growing", "_last", "_longest", "_run", "_slack", "_step", "free", "opened", "total")

    def __init__(self, pages: int, opened: int | None = None, *, run: int = 1, slack: int | None = None) -> None:
        self.total = pages
        self._slack = pages if slack is None else slack  # with so many free, nothing is evicted to have them in one run
        self._run = run  # pages side by side that a row should find ahead when it starts a new run
        self._step = max(1, min(run, (pages if opened is None else opened) // 4))  # pages to open at once
        self.opened = 0
        self.free = 0  # of the opened ones
        # One entry more than there are pages: neighbours of the first and of the last page are never free.
        self._last = [-1] * (pages + 1)  # at the first page of a free run: its last page
        self._first = [-1] * (pages + 1)  # at the last page of a free run: its first page
        self._growing = [0] * (pages + 1)  # rows whose last page this is
        # (-length, last page). A run that is eaten from its front keeps its entry, whose length is then too large
        # and is put right when it comes to the top; hence no push when a sequence grows.
        self._longest: list[tuple[int, int]] = []
        self.open(pages if opened is None else opened)

    @property
    def closed(self) -> int:
        """Pages that were never opened."""
        return self.total - self.opened

    def open(self, count: int) -> None:
        """Opens up to `count` more pages."""
        start, self.opened = self.opened, min(self.opened + count, self.total)
        self.give(list(range(start, self.opened)))

    def prepare(self, count: int, *, after: int, unused: int, tables: int) -> int:
        """How many pages must be evicted before `count` are taken after page `after`; opens pages where that is due.

        `unused` can be evicted, `tables` grow. More than needed are asked for when the taker must start a run and finds
        no long one: prefixes are evicted from their ends backwards. Taken one by one as rows need them, such pages
        would be scattered over the rows in the wrong order; taken together they are a run. What is kept free so is at
        most an eighth of the pool or so: half a run per open row.

        Pages that were never used are opened when rows hold nearly all others, a run at a time for the same reason.
        """
        owned = self.opened - self.free - unused + count
        missing = int(owned * ELBOW_ROOM) - self.opened
        if missing > 0 and self.closed:
            self.open(max(missing, self._step))
        evicted = max(0, count - self.free)
        if self.free <= self._slack and not self.follows(after, count):
            run = min(self._run, self.opened // (4 * tables))
            if self.longest() < run:
                evicted = max(evicted, min(run, unused))
        return evicted

    def moved(self, before: int, now: int) -> None:
        """Says that a row's last page was `before` and is `now`; -1 stands for none."""
        if before >= 0:
            self._growing[before] -= 1
        if now >= 0:
            self._growing[now] += 1

    def follows(self, page: int, count: int) -> bool:
        """Whether the `count` pages after `page` are free."""
        return page >= 0 and self._last[page + 1] - page >= count

    def longest(self) -> int:
        """Pages of the longest free run."""
        if not self.free:
            return 0
        first = self._longest_run()
        return self._last[first] - first + 1

    def take(self, count: int, after: int, room: int) -> list[int]:
        """`count` free pages, first those that follow page `after`.

        `room` is how many the taker will want, these included. There must be `count` free pages.
        """
        assert count <= self.free, f"{count} pages taken of {self.free} free ones"
        taken: list[int] = []
        if after >= 0 and self._last[after + 1] >= 0:
            self._cut(after + 1, after + 1, count, taken)
        while len(taken) < count:
            first = self._longest_run()
            self._cut(first, self._start(first, max(room, count) - len(taken)), count - len(taken), taken)
        return taken

    def give(self, pages: list[int]) -> None:
        """Takes pages back and joins them to the free runs beside them."""
        ends: set[int] = set()
        first_of, last_of = self._first, self._last
        for page in pages:
            first, last = first_of[page - 1], last_of[page + 1]
            if first < 0:
                first = page
            else:
                first_of[page - 1] = -1
            if last < 0:
                last = page
            else:
                last_of[page + 1] = -1
            last_of[first], first_of[last] = last, first
            ends.add(last)
        self.free += len(pages)
        for last in sorted(ends):
            if first_of[last] >= 0:
                heappush(self._longest, (first_of[last] - last - 1, last))
        if len(self._longest) > self.total + 64:
            self._rebuild()

    def runs(self) -> list[tuple[int, int]]:
        """First and last page of each free run, in order."""
        return [(first, last) for first, last in enumerate(self._last) if last >= 0]

    def check(self, tails: list[int]) -> set[int]:
        """The free pages, after a recount; `tails` are the last pages of all rows."""
        free: set[int] = set()
        entries: dict[int, int] = {}
        for length, last in self._longest:
            entries[last] = max(entries.get(last, 0), -length)
        for first, last in self.runs():
            assert self._first[last] == first, f"free run {first}..{last}: its ends disagree"
            assert first - 1 not in free, f"free run {first}..{last} was not joined to the one before"
            assert entries.get(last, 0) >= last - first + 1, f"free run {first}..{last} is not in the heap"
            free.update(range(first, last + 1))
        assert sum(first >= 0 for first in self._first) == len(self.runs()), "a free run lost its first page"
        assert len(free) == self.free, f"{len(free)} pages are free, {self.free} are counted"
        assert max(free, default=-1) < self.opened <= self.total, f"a page beyond the {self.opened} opened ones is free"
        growing = [0] * (self.total + 1)
        for page in tails:
            growing[page] += 1
        assert growing == self._growing, "pages that rows grow from are counted wrongly"
        return free

    def _add_run(self, first: int, last: int) -> None:
        self._last[first], self._first[last] = last, first
        heappush(self._longest, (first - last - 1, last))

    def _cut(self, first: int, start: int, count: int, taken: list[int]) -> None:
        """Takes up to `count` pages from `start` on out of the free run that begins at `first`."""
        last = self._last[first]
        stop = min(start + count, last + 1)
        self._last[first] = self._first[last] = -1
        if start > first:
            self._add_run(first, start - 1)
        if stop <= last:
            self._last[stop], self._first[last] = last, stop
        self.free -= stop - start
        taken.extend(range(start, stop))

    def _start(self, first: int, wanted: int) -> int:
        """Where in the run at `first` to begin; a row that grows into it from the left keeps half of what is slack."""
        slack = self._last[first] - first + 1 - wanted
        return first + slack // 2 if slack > 0 and self._growing[first - 1] else first

    def _longest_run(self) -> int:
        heap = self._longest
        while True:
            length, last = heap[0]
            first = self._first[last]
            now = first - last - 1 if first >= 0 else 0
            if now == length:
                return first
            heapreplace(heap, (now, last))

    def _rebuild(self) -> None:
        self._longest = [(first - last - 1, last) for first, last in self.runs()]
        heapify(self._longest)
