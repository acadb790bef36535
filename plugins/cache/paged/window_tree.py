"""The tree of cached prefixes where some layers have windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from maxserve.interfaces.cache import CacheGroup, CacheListener, NodeOrder
from maxserve.plugins.cache.paged.tree import NO_OWNER, Evictable, EvictionOrder, Owner, chained


class Reach(msgspec.Struct, frozen=True):
    """Groups `start` … `stop` - 1, which look back equally far: what they hold of a row comes and goes together."""

    start: int
    stop: int
    group: CacheGroup  # any of them

    @property
    def width(self) -> int:
        """Pages that they have of one page of tokens."""
        return self.stop - self.start


def reaches(groups: Sequence[CacheGroup]) -> list[Reach]:
    """The groups by how far they look back; those that look back equally far are neighbours."""
    found: list[Reach] = []
    for index, group in enumerate(groups):
        last = found[-1] if found else None
        if last is not None and (last.group.window, last.group.chunk) == (group.window, group.chunk):
            found[-1] = Reach(last.start, index + 1, last.group)
        else:
            found.append(Reach(index, index + 1, group))
    return found


class Piece(Evictable):
    """What the groups of one reach have of a page of tokens: a page each. `users` counts the rows that hold it."""

    __slots__ = ("entry", "pages", "reach", "users")

    def __init__(self, entry: Entry, reach: int, pages: tuple[int, ...], clock: int, owner: Owner) -> None:
        super().__init__(pages[0], entry.tokens, clock, 0, clock, owner.salt, owner.user, owner.pinned)
        self.entry = entry
        self.reach = reach
        self.pages = pages
        self.users = 0
        self.ticket = 0


class Entry:
    """A page of tokens of a cached prefix, with a piece by reach, or None. A root stands for a salt and has none.

    `standing` counts the rows whose last full page it is. A piece of groups that see everything is there as long as its
    entry; other entries stay while they have pieces, children or rows. `number` is what listeners call it.
    """

    __slots__ = ("children", "key", "number", "parent", "pieces", "standing", "tokens")

    def __init__(self, parent: Entry | None, key: bytes, tokens: int, reaches: int) -> None:
        self.parent = parent
        self.key = key
        self.tokens = tokens
        self.children: dict[bytes, Entry] = {}
        self.pieces: list[Piece | None] = [None] * reaches
        self.standing = 0
        self.number = 0

    def piece(self, reach: int) -> Piece:
        """The piece that must be there."""
        found = self.pieces[reach]
        assert found is not None, f"the piece of reach {reach} that ends at {self.tokens} tokens is gone"
        return found


class WindowTree:
    """Cached pieces by what they hold, found as PrefixTree finds pages.

    A prefix is as long as every reach has the pieces that the next token sees. Pieces that windows have passed stay
    until they are evicted, for prefixes that branch off there; a row that computes such a page again fills the gap.
    """

    def __init__(self, policy: NodeOrder, reaches: Sequence[Reach], page_size: int) -> None:
        self._reaches = reaches
        self._page_size = page_size
        self._roots: dict[str, Entry] = {}
        self._order: EvictionOrder[Piece] = EvictionOrder(policy)
        self.listeners: tuple[CacheListener, ...] = ()
        self.clock = 0
        self.unused = 0  # pages of pieces without users; all of them can be evicted

    def match(self, tokens: bytes, width: int, salt: str) -> list[Entry]:
        """The entries of the longest prefix of `tokens` that can be used; they are cut into pages of `width` bytes."""
        found: list[Entry] = []
        node = self._roots.get(salt)
        for start in range(0, len(tokens), width):
            node = node.children.get(tokens[start : start + width]) if node is not None else None
            if node is None:
                break
            found.append(node)
        while found and (gap := self._last_gap(found)) >= 0:
            del found[gap:]
        return found

    def firsts(self, pages: int) -> list[int]:
        """By reach, the first page that is needed once so many pages are full."""
        return [reach.group.first_page(pages * self._page_size, self._page_size) for reach in self._reaches]

    def root(self, salt: str) -> Entry:
        """The root of a salt, which `stand` keeps."""
        root = self._roots.get(salt)
        if root is None:
            name = salt.encode("utf-8", "surrogatepass")
            root = self._roots[salt] = Entry(None, name, 0, len(self._reaches))
            root.number = chained(0, name) if self.listeners else 0
        return root

    def child(self, parent: Entry, key: bytes) -> Entry:
        """The entry of the page `key` below `parent`, made if it is new; the caller holds what the parent has."""
        child = parent.children.get(key)
        if child is None:
            child = Entry(parent, key, parent.tokens + self._page_size, len(self._reaches))
            parent.children[key] = child
            child.number = chained(parent.number, key) if self.listeners else 0
        return child

    def put(self, entry: Entry, reach: int, pages: tuple[int, ...], owner: Owner = NO_OWNER) -> None:
        """A new piece, with one user."""
        piece = entry.pieces[reach] = Piece(entry, reach, pages, self.clock, owner)
        piece.users = 1
        if self.listeners:
            parent, group = entry.parent, self._reaches[reach].group
            before = None if parent is None or parent.parent is None else parent.number
            for listener in self.listeners:
                listener.stored("device", entry.number, before, entry.key, piece.salt, group)

    def hold(self, piece: Piece) -> None:
        """Counts one user more."""
        piece.users += 1
        piece.last_used = self.clock
        if piece.users == 1:
            self.unused -= len(piece.pages)
            self._order.remove(piece)

    def drop(self, piece: Piece) -> None:
        """Counts one user less."""
        piece.users -= 1
        piece.last_used = self.clock
        if not piece.users:
            self.unused += len(piece.pages)
            if not (self._lasting(piece) and piece.entry.children):
                self._order.add(piece)

    def stand(self, entry: Entry) -> None:
        """Counts one row more whose last full page `entry` is."""
        entry.standing += 1

    def leave(self, entry: Entry) -> None:
        """Counts one less, once it holds no piece any more."""
        entry.standing -= 1
        self._prune(entry)

    def evict(self, count: int) -> list[int]:
        """Forgets unused pieces of `count` pages at least, the policy's choice each time; their pages."""
        pages: list[int] = []
        while len(pages) < count:
            piece = self._order.pop()
            entry = piece.entry
            pages += self._forget(piece)
            if self._lasting(piece):
                for other in [other for other in entry.pieces if other is not None]:
                    self._order.remove(other)
                    pages += self._forget(other)
            self._prune(entry)
        return pages

    def entries(self) -> Iterator[Entry]:
        """Every entry but the roots."""
        stack = list(self._roots.values())
        while stack:
            children = stack.pop().children.values()
            yield from children
            stack.extend(children)

    def pieces(self) -> Iterator[Piece]:
        """Every cached piece."""
        return (piece for entry in self.entries() for piece in entry.pieces if piece is not None)

    def check(self, users: dict[int, int], standing: dict[int, int]) -> None:
        """Recounts; `users` are the rows by first page of the piece they hold, `standing` those by id of the entry."""
        for entry in self.entries():
            self._check_entry(entry)
        for node in [*self._roots.values(), *self.entries()]:
            rows = standing.get(id(node), 0)
            assert node.standing == rows, f"{rows} rows end at {node.tokens} tokens, {node.standing} are counted"
            assert self._of_use(node), f"an entry of {node.tokens} tokens is remembered for nothing"
        pieces = list(self.pieces())
        for piece in pieces:
            held = users.get(piece.page, 0)
            assert piece.users == held, f"page {piece.page}: {held} users, {piece.users} are counted"
        unused = [piece for piece in pieces if not piece.users]
        assert sum(len(piece.pages) for piece in unused) == self.unused, f"{self.unused} unused pages are wrong"
        self._order.check([piece for piece in unused if not (self._lasting(piece) and piece.entry.children)])

    def _last_gap(self, found: list[Entry]) -> int:
        """The last entry of `found` that lacks a piece which is needed after all of them; -1: nothing is missing."""
        gap = -1
        for number, first in enumerate(self.firsts(len(found))):
            for index in range(len(found) - 1, max(first, gap + 1) - 1, -1):
                if found[index].pieces[number] is None:
                    gap = index
                    break
        return gap

    def _lasting(self, piece: Piece) -> bool:
        """Whether it is of groups that see everything: it goes after what continues it, and takes its entry along."""
        return not self._reaches[piece.reach].group.bounded

    def _forget(self, piece: Piece) -> tuple[int, ...]:
        piece.entry.pieces[piece.reach] = None
        self.unused -= len(piece.pages)
        for listener in self.listeners:
            listener.removed("device", piece.entry.number, piece.salt, self._reaches[piece.reach].group)
        return piece.pages

    def _of_use(self, entry: Entry) -> bool:
        return bool(entry.children or entry.standing or any(piece is not None for piece in entry.pieces))

    def _prune(self, entry: Entry) -> None:
        """Removes an entry that is of no use any more, and those above it that were there for it alone."""
        while not self._of_use(entry):
            parent = entry.parent
            if parent is None:
                del self._roots[entry.key.decode("utf-8", "surrogatepass")]
                return
            del parent.children[entry.key]
            if not parent.children:
                for piece in parent.pieces:
                    if piece is not None and self._lasting(piece) and not piece.users:
                        self._order.add(piece)
            entry = parent

    def _check_entry(self, entry: Entry) -> None:
        parent = entry.parent
        assert parent is not None, f"an entry of {entry.tokens} tokens has no parent"
        assert parent.children.get(entry.key) is entry, f"an entry of {entry.tokens} tokens is below the wrong parent"
        assert entry.tokens == parent.tokens + self._page_size, f"an entry of a page has {entry.tokens} tokens"
        for number, (reach, piece) in enumerate(zip(self._reaches, entry.pieces, strict=True)):
            assert piece is not None or reach.group.bounded, f"a page that ends at {entry.tokens} tokens is gone"
            if piece is not None:
                assert (piece.entry, piece.reach) == (entry, number), f"page {piece.page} is not where it says"
                assert len(piece.pages) == reach.width, f"page {piece.page} has not a page for each group"
