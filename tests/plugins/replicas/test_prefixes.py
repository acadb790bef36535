from __future__ import annotations

from maxserve.plugins.replicas.prefixes import Prefixes, page_chain


def test_a_chain_has_the_full_pages_before_the_last_token() -> None:
    assert [len(page_chain(range(length), 4, b"")) for length in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]


def test_pages_are_those_of_all_that_comes_before() -> None:
    one, other = page_chain([1, 2, 3, 4, 5], 2, b""), page_chain([9, 2, 3, 4, 5], 2, b"")
    assert one[:1] == page_chain([1, 2, 9, 9], 2, b"")[:1]
    assert not set(one) & set(other)
    assert not set(one) & set(page_chain([1, 2, 3, 4, 5], 2, b"salt"))


def test_hits_end_at_the_first_page_that_is_not_there() -> None:
    prefixes = Prefixes()
    chain = page_chain(range(17), 4, b"")
    prefixes.enter(chain[:1])
    prefixes.enter(chain[2:])
    assert prefixes.hits(chain) == 1


def test_the_end_of_the_least_recently_used_prompt_goes_first() -> None:
    prefixes = Prefixes(pages=4)
    old, new = page_chain(range(13), 4, b""), page_chain(range(100, 109), 4, b"")
    prefixes.enter(old)
    prefixes.enter(new)
    assert (prefixes.hits(old), prefixes.hits(new), len(prefixes)) == (2, 2, 4)
    prefixes.enter(old[:1])
    prefixes.resize(3)
    assert (prefixes.hits(old), prefixes.hits(new)) == (1, 2)
    prefixes.forget()
    assert (prefixes.hits(old), len(prefixes)) == (0, 0)
