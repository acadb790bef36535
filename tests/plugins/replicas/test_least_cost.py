from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from maxserve.plugins.replicas.least_cost import LeastCost, Ticket

PAGE, EACH = 4, 3


class Oracle:
    """The same choice, worked out anew from everything that was sent so far. Caches are never full."""

    def __init__(self, replicas: int) -> None:
        self.sent: list[list[tuple[tuple[int, ...], bytes]]] = [[] for _ in range(replicas)]
        self.running: list[tuple[Ticket, int]] = []  # and the tokens that are not computed yet
        self.turn = 0

    def hit(self, replica: int, prompt: Sequence[int], root: bytes) -> int:
        best = 0
        for before, other in self.sent[replica]:
            if other == root:
                whole = min((len(before) - 1) // PAGE, (len(prompt) - 1) // PAGE) * PAGE
                same = next((i for i in range(whole) if before[i] != prompt[i]), whole)
                best = max(best, same // PAGE * PAGE)
        return best

    def choose(self, prompt: tuple[int, ...], root: bytes, among: Sequence[int]) -> tuple[int, int]:
        ranks = []
        for replica in among:
            mine = [tokens for ticket, tokens in self.running if ticket.replica == replica]
            left = len(prompt) - self.hit(replica, prompt, root)
            turn = (replica - self.turn) % len(self.sent)
            ranks.append((left + sum(mine) + EACH * len(mine), len(mine), turn, replica, left))
        *_, replica, left = min(ranks)
        self.sent[replica].append((prompt, root))
        self.turn = (replica + 1) % len(self.sent)
        return replica, left


@pytest.mark.parametrize("replicas", [2, 5])
def test_choices_are_those_of_an_oracle(replicas: int) -> None:
    """Ten thousand requests, with prefixes of one another, that begin and end in any order."""
    rng = random.Random(replicas)
    policy, oracle = LeastCost(replicas, EACH, PAGE), Oracle(replicas)
    for number in range(10_000):
        if number % 500 == 0:  # or the oracle, which compares with everything, takes minutes
            policy, oracle = LeastCost(replicas, EACH, PAGE), Oracle(replicas)
        stem = [rng.randrange(3)] * (PAGE * rng.randrange(6))
        prompt = (*stem, *(rng.randrange(3) for _ in range(rng.randrange(1, 9))))
        root = rng.choice((b"", b"salt"))
        among = sorted(rng.sample(range(replicas), rng.randrange(1, replicas + 1)))
        due = oracle.choose(prompt, root, among)
        ticket = policy.choose(prompt, root, among)
        assert (ticket.replica, ticket.tokens) == due
        oracle.running.append((ticket, ticket.tokens))
        for _ in range(rng.randrange(3)):
            if oracle.running and rng.random() < 0.5:
                index = rng.randrange(len(oracle.running))
                policy.began(oracle.running[index][0])
                oracle.running[index] = oracle.running[index][0], 0
            elif oracle.running:
                ended, _ = oracle.running.pop(rng.randrange(len(oracle.running)))
                policy.ended(ended)
                policy.ended(ended)


def test_cold_prompts_are_spread_and_a_prefix_stays() -> None:
    policy = LeastCost(2, 32, page_size=16)
    cold = [policy.choose(range(1000 * n, 1000 * n + 100), b"", [0, 1]) for n in range(4)]
    assert [ticket.replica for ticket in cold] == [0, 1, 0, 1]
    for ticket in cold:
        policy.ended(ticket)
    again = policy.choose(range(1000, 1100), b"", [0, 1])
    assert (again.replica, again.tokens) == (1, 4)


def test_a_prefix_spreads_once_work_before_it_outweighs_the_hit() -> None:
    policy = LeastCost(2, 32, page_size=16)
    chosen = [policy.choose(range(101), b"", [0, 1]).replica for _ in range(8)]
    assert chosen[0] == 0
    assert {0, 1} == set(chosen)


def test_caches_change_and_are_forgotten() -> None:
    policy = LeastCost(2, 0, page_size=16)
    policy.ended(policy.choose(range(101), b"", [0]))
    policy.resize(0, 16, pages=2)
    assert policy.choose(range(101), b"", [0]).tokens == 101 - 2 * 16
    policy.forget(0)
    assert policy.choose(range(101), b"", [0]).tokens == 101
    policy.resize(1, 32, pages=9)  # pages of another size: none of those that are known
    assert policy.choose(range(101), b"", [0]).tokens == 101
    assert policy.choose(range(101), b"", [0]).tokens == 101 - 2 * 32


def test_texts_go_where_the_least_is_to_do() -> None:
    policy = LeastCost(3, 32)
    assert [policy.choose_for(tokens, [0, 1, 2]).replica for tokens in (500, 100, 10, 10)] == [0, 1, 2, 2]
