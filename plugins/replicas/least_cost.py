"""Which replica has the least to do until it has computed a prompt, without sockets or clocks.

What a request costs at a replica: the tokens of its prompt that are not in the replica's cache, those of prompts that
were sent there and are not computed yet, and some for each request that is open there, whose answer is delayed by
tokens of prompts as these are by it. So a cold prompt goes where the least is to do, and a prefix that many ask for
stays with one replica until the work before it outweighs what the cache spares.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from maxserve.plugins.replicas.prefixes import Prefixes, page_chain

UNTOLD_SIZE = 64  # tokens of a page, before a replica has said how many it has


class Ticket(msgspec.Struct, eq=False):
    """A request that was sent to `replica`, which had to compute so many `tokens` for it; 0 once they are computed."""

    replica: int
    tokens: int
    open: bool = True


class _Replica:
    def __init__(self) -> None:
        self.open = self.pending = 0
        self.prefixes = Prefixes()


class LeastCost:
    """Chooses replicas, numbered from 0, and counts what they have to do."""

    def __init__(self, replicas: int, tokens_per_request: int, page_size: int = UNTOLD_SIZE) -> None:
        self._replicas = [_Replica() for _ in range(replicas)]
        self._page_size = page_size
        self._each = tokens_per_request
        self._turn = 0

    def choose(self, prompt: Sequence[int], root: bytes, among: Sequence[int]) -> Ticket:
        """The best of some replicas, which is sent the request at once.

        Of equal ones the one with the fewest open requests is chosen, else the next in turn.
        """
        chain = page_chain(prompt, self._page_size, root)
        hits = {number: self._page_size * self._replicas[number].prefixes.hits(chain) for number in among}
        best = min(among, key=lambda number: self._rank(number, len(prompt) - hits[number]))
        self._replicas[best].prefixes.enter(chain)
        return self._send(best, len(prompt) - hits[best])

    def choose_for(self, tokens: int, among: Sequence[int]) -> Ticket:
        """Likewise for tokens of which no cache knows any."""
        return self._send(min(among, key=lambda number: self._rank(number, tokens)), tokens)

    def _rank(self, number: int, tokens: int) -> tuple[int, int, int]:
        replica = self._replicas[number]
        cost = tokens + replica.pending + self._each * replica.open
        return cost, replica.open, (number - self._turn) % len(self._replicas)

    def _send(self, number: int, tokens: int) -> Ticket:
        replica = self._replicas[number]
        replica.open += 1
        replica.pending += tokens
        self._turn = (number + 1) % len(self._replicas)
        return Ticket(number, tokens)

    def began(self, ticket: Ticket) -> None:
        """The prompt is computed: its first token is there."""
        self._replicas[ticket.replica].pending -= ticket.tokens
        ticket.tokens = 0

    def ended(self, ticket: Ticket) -> None:
        """The request is over, however; harmless when it was."""
        if ticket.open:
            self.began(ticket)
            self._replicas[ticket.replica].open -= 1
            ticket.open = False

    def resize(self, number: int, page_size: int, pages: int) -> None:
        """A replica's cache has so many pages, of so many tokens, as all of them have; 0: it has none."""
        self._replicas[number].prefixes.resize(pages)
        if page_size not in (0, self._page_size):
            self._page_size = page_size
            for replica in self._replicas:
                replica.prefixes.forget()

    def forget(self, number: int) -> None:
        """A replica's cache is empty."""
        self._replicas[number].prefixes.forget()
