"""Who holds the memory of a long prompt, and until when?"""

from __future__ import annotations

from maxserve.plugins.cpu.layers import KEPT_ARENA, Arena


def test_layers_of_a_step_share_what_a_long_prompt_needs_and_the_last_gives_it_back() -> None:
    arena = Arena()
    first, last = arena.enrol(), arena.enrol()
    taken = arena.take(KEPT_ARENA + 1)
    assert len(taken) == KEPT_ARENA + 1
    arena.done(first)
    assert arena.take(KEPT_ARENA + 1) is taken
    arena.done(last)
    assert arena.take(KEPT_ARENA + 1) is not taken


def test_what_is_small_is_kept_and_grows_no_further_than_its_bound() -> None:
    arena = Arena()
    number = arena.enrol()
    small = arena.take(100)
    arena.done(number)
    assert arena.take(90) is small
    assert len(arena.take(KEPT_ARENA)) == KEPT_ARENA
    assert len(arena.take(10)) == KEPT_ARENA
