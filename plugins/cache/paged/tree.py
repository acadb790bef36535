"""The tree of cached prefixes."""

from __future__ import annotations

from hashlib import blake2b
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, TypeVar

import msgspec

from maxserve.interfaces.cache import CacheListener, Node, NodeOrder


class Evictable(Node):
    """`ticket` names its current item of the eviction heap; 0: it has none."""

    __slots__ = ("ticket",)

    ticket: int


E = TypeVar("E", bound=Evictable)


class Owner(msgspec.Struct):
    """Whose pages a row computes, as eviction policies see it."""

    salt: str = ""
    user: str = ""
    pinned: bool = False


NO_OWNER = Owner()


def chained(before: int, content: bytes) -> int:
    """The number of a page with that content behind page `before`, which is the one of its salt for the first page."""
    return int.from_bytes(blake2b(before.to_bytes(8, "big") + content, digest_size=8).digest(), "big")


class Entry(Evictable):
    """A cached page as a node of the tree. A root (page -1) stands for a salt.

    `users` counts the rows and the `holds` that hold it, so it never exceeds the parent's. `number` is what listeners
    call it.
    """

    __slots__ = ("children", "holds", "key", "number", "parent", "users")

    def __init__(
        self,
        page: int,
        tokens: int,
        last_used: int,
        parent: Entry | None,
        key: bytes,
        owner: Owner = NO_OWNER,
    ) -> None:
        super().__init__(page, tokens, last_used, 0, last_used, owner.salt, owner.user, owner.pinned)
        self.parent = parent
        self.key = key  # the page's tokens, as bytes
        self.children: dict[bytes, Entry] = {}
        self.users = self.holds = 0
        self.ticket = 0
        self.number = 0


class EvictionOrder(Generic[E]):
    """Entries that may be evicted, the one with the smallest key first.

    An entry has one current item in the heap; older ones are skipped when they come up. Without that, an entry whose
    item was dropped while it was in use would never be found again.
    """

    __slots__ = ("_heap", "_policy", "_tickets", "size")

    def __init__(self, policy: NodeOrder) -> None:
        self._policy = policy
        self._heap: list[tuple[tuple[float, ...], int, E]] = []
        self._tickets = 0
        self.size = 0

    def add(self, entry: E) -> None:
        """Lets `entry` be evicted."""
        heappush(self._heap, self._item(entry))
        self.size += 1

    def remove(self, entry: E) -> None:
        """Keeps `entry` from being evicted; nothing happens to one that was not in the order."""
        if not entry.ticket:
            return
        entry.ticket = 0
        self.size -= 1
        if len(self._heap) > 2 * self.size + 64:
            self._heap = [item for item in self._heap if item[2].ticket == item[1]]
            heapify(self._heap)

    def pop(self) -> E:
        """The entry to evict now. A key that changed since it was added counts as it is now."""
        newest = self._tickets
        while True:
            key, ticket, entry = self._heap[0]
            if entry.ticket != ticket:
                heappop(self._heap)
            elif ticket <= newest and self._policy.key(entry) != key:
                heapreplace(self._heap, self._item(entry))  # once per call, lest a drifting key keeps us here
            else:
                heappop(self._heap)
                entry.ticket = 0
                self.size -= 1
                return entry

    def check(self, expected: list[E]) -> None:
        """Recounts: exactly the `expected` entries are in the order, each once."""
        current = sorted(entry.page for _, ticket, entry in self._heap if entry.ticket == ticket)
        pages = sorted(entry.page for entry in expected)
        assert current == pages, f"pages {current} may be evicted, but {pages} are unused leaves"
        assert self.size == len(pages), f"{len(pages)} evictable leaves, {self.size} are counted"

    def _item(self, entry: E) -> tuple[tuple[float, ...], int, E]:
        self._tickets += 1
        entry.ticket = self._tickets
        return (self._policy.key(entry), entry.ticket, entry)


class PrefixTree:
    """Cached pages by what they hold.

    A child is found by the very tokens of its page, below its parent, below its salt: pages are shared only when all
    of that is equal, never because two hashes are. The `listeners` hear of pages of `tier`.
    """

    __slots__ = ("_order", "_roots", "_tier", "clock", "held", "listeners", "size", "unused")

    def __init__(self, policy: NodeOrder, tier: str = "device") -> None:
        self.listeners: tuple[CacheListener, ...] = ()
        self._tier = tier
        self._roots: dict[str, Entry] = {}
        self._order: EvictionOrder[Entry] = EvictionOrder(policy)
        self.clock = 0
        self.size = 0
        self.held = 0  # entries with holds
        self.unused = 0  # entries without users; all can be evicted, leaves first, since a user holds the whole path

    def match(self, tokens: bytes, width: int, salt: str) -> list[Entry]:
        """The entries of the longest cached prefix of `tokens`, which is cut into pages of `width` bytes."""
        found: list[Entry] = []
        node = self._roots.get(salt)
        if node is None:
            return found
        for start in range(0, len(tokens), width):
            node = node.children.get(tokens[start : start + width])
            if node is None:
                break
            found.append(node)
        return found

    def root(self, salt: str) -> Entry:
        """The root of a salt, with one user more."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = Entry(-1, 0, 0, None, salt.encode("utf-8", "surrogatepass"))
            if self.listeners:
                root.number = chained(0, root.key)
        root.users += 1
        return root

    def hold(self, entry: Entry) -> None:
        """Counts one user more."""
        entry.users += 1
        entry.last_used = self.clock
        if entry.users == 1:
            self.unused -= 1
            self._order.remove(entry)

    def add(self, parent: Entry, key: bytes, page: int, tokens: int, owner: Owner = NO_OWNER) -> Entry:
        """A new entry below `parent`, with one user."""
        entry = parent.children[key] = Entry(page, tokens, self.clock, parent, key, owner)
        entry.users = 1
        self.size += 1
        if self.listeners:
            entry.number = chained(parent.number, key)
            before = None if parent.parent is None else parent.number
            for listener in self.listeners:
                listener.stored(self._tier, entry.number, before, key, entry.salt, None)
        return entry

    def release(self, entry: Entry) -> None:
        """Counts one user less, on the whole path up to the root."""
        node = entry
        while node.parent is not None:
            node.users -= 1
            node.last_used = self.clock
            if not node.users:
                self.unused += 1
                if not node.children:
                    self._order.add(node)
            node = node.parent
        node.users -= 1
        self._forget_root(node)

    def evict(self, count: int) -> list[int]:
        """Forgets `count` unused pages, the policy's choice among the ends of prefixes each time."""
        return [self._evict_one() for _ in range(count)]

    def entries(self) -> list[Entry]:
        """Every cached page."""
        stack = list(self._roots.values())
        found: list[Entry] = []
        while stack:
            children = stack.pop().children.values()
            found.extend(children)
            stack.extend(children)
        return found

    def check(self, page_size: int, users: dict[int, int], open_roots: list[Entry]) -> None:
        """Recounts; `users` are the rows by page that hold it, `open_roots` the roots that rows stand on."""
        entries = self.entries()
        for entry in entries:
            parent = entry.parent
            assert parent is not None, f"page {entry.page} has no parent"
            assert parent.children.get(entry.key) is entry, f"page {entry.page} is not where its tokens say"
            assert entry.tokens == parent.tokens + page_size, f"page {entry.page} ends at {entry.tokens} tokens"
            held = users.get(entry.page, 0)
            assert entry.users == held, f"page {entry.page}: {held} users, {entry.users} are counted"
        assert len(entries) == self.size, f"{len(entries)} pages in the tree, {self.size} are counted"
        unused = [entry for entry in entries if not entry.users]
        assert len(unused) == self.unused, f"{len(unused)} pages unused, {self.unused} are counted"
        self._order.check([entry for entry in unused if not entry.children])
        for salt, root in self._roots.items():
            standing = sum(other is root for other in open_roots)
            assert root.users == standing, f"salt {salt!r}: {standing} rows, {root.users} are counted"
            assert root.users or root.children, f"salt {salt!r} is remembered for nothing"

    def _evict_one(self) -> int:
        entry = self._order.pop()
        parent = entry.parent
        assert parent is not None, "a root was up for eviction"
        del parent.children[entry.key]
        self.size -= 1
        self.unused -= 1
        for listener in self.listeners:
            listener.removed(self._tier, entry.number, entry.salt, None)
        if parent.parent is None:
            self._forget_root(parent)
        elif not parent.users and not parent.children:
            self._order.add(parent)
        return entry.page

    def _forget_root(self, root: Entry) -> None:
        if not root.users and not root.children:
            del self._roots[root.key.decode("utf-8", "surrogatepass")]
