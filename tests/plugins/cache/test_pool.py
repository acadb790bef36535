"""Free pages are joined, found and handed out in order."""

from __future__ import annotations

import random

from maxserve.plugins.cache.paged.pool import PagePool


def test_a_row_goes_on_where_it_stopped() -> None:
    pool = PagePool(20)
    first = pool.take(3, -1, 3)
    assert first == [0, 1, 2]
    pool.moved(-1, 2)
    assert pool.take(2, 2, 2) == [3, 4]


def test_a_second_row_leaves_room_for_the_first() -> None:
    pool = PagePool(20)
    pool.moved(-1, pool.take(2, -1, 2)[-1])
    assert pool.take(2, -1, 2) == [10, 11]


def test_nothing_is_left_free_where_nobody_will_grow() -> None:
    pool = PagePool(20)
    pool.take(2, -1, 2)
    assert pool.take(2, -1, 2) == [2, 3]


def test_more_than_the_longest_run_is_pieced_together() -> None:
    pool = PagePool(10)
    pool.take(10, -1, 10)
    pool.give([1, 2, 3, 6, 7])
    assert pool.take(5, -1, 5) == [1, 2, 3, 6, 7]
    assert pool.free == pool.longest() == 0


def test_pages_join_in_whatever_order_they_come() -> None:
    pool = PagePool(9)
    pool.take(9, -1, 9)
    for page in (4, 2, 3, 0, 8, 6, 7, 5, 1):
        pool.give([page])
        pool.check([])
    assert pool.runs() == [(0, 8)]


def test_follows_asks_for_all_pages() -> None:
    pool = PagePool(8)
    pool.take(8, -1, 8)
    pool.give([3, 4])
    assert pool.follows(2, 2)
    assert not pool.follows(2, 3)
    assert not pool.follows(3, 1) or pool.runs() == [(3, 4)]
    assert not pool.follows(-1, 1)


def test_random_use() -> None:
    rng = random.Random(0)
    for pages in (1, 2, 7, 64):
        pool, held = PagePool(pages), [[] for _ in range(5)]
        for _ in range(3000):
            mine = rng.choice(held)
            tail = mine[-1] if mine else -1
            if rng.random() < 0.5 and pool.free:
                taken = pool.take(rng.randint(1, min(4, pool.free)), tail, rng.randrange(8))
                mine.extend(taken)
                pool.moved(tail, mine[-1])
            elif mine:
                pool.moved(tail, -1)
                rng.shuffle(mine)
                pool.give(mine)
                mine.clear()
            free = pool.check([mine[-1] for mine in held if mine])
            assert len(free) + sum(map(len, held)) == pages
            assert free.isdisjoint(page for mine in held for page in mine)
            lengths = [last - first + 1 for first, last in pool.runs()]
            assert pool.longest() == max(lengths, default=0)


def test_the_heap_does_not_grow_for_ever() -> None:
    pool = PagePool(50)
    pool.take(50, -1, 50)
    for number in range(10_000):
        pool.give([number % 50])
        pool.take(1, -1, 1)
    assert len(pool._longest) <= 50 + 65


def test_closed_pages_are_handed_out_only_when_opened() -> None:
    pool = PagePool(10, 4)
    assert (pool.free, pool.closed, pool.longest()) == (4, 6, 4)
    assert sorted(pool.take(4, -1, 4)) == [0, 1, 2, 3]
    pool.open(3)
    assert (pool.free, pool.closed, pool.runs()) == (3, 3, [(4, 6)])
    pool.give([3])
    pool.check([])
    assert pool.runs() == [(3, 6)]
    pool.open(99)
    assert (pool.free, pool.closed, pool.runs()) == (7, 0, [(3, 9)])
