"""Prefixes that open rows are computing: requests that begin alike wait for their pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, int, bytes]


class PendingPrefixes:
    """The tokens of open rows, found by the page that a row computes next.

    Pages are shared once they are written. The `n` answers to one prompt, which arrive together, would otherwise all
    compute it, and so would a burst of requests with one system prompt: all but the first find nothing in the tree.
    """

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._rows: dict[int, tuple[Key, str, NDArray[np.int64]]] = {}
        self._by_page: dict[Key, dict[int, None]] = {}

    def open(self, row: int, tokens: NDArray[np.int64], salt: str, pages: int) -> None:
        """A row will compute `tokens`, of which so many pages are there."""
        key = self._key(tokens, salt, pages)
        if key is not None:
            self._rows[row] = (key, salt, tokens)
            self._by_page.setdefault(key, {})[row] = None

    def commit(self, row: int, pages: int) -> None:
        """So many pages of the row are there now."""
        found = self.close(row)
        if found is not None:
            _, salt, tokens = found
            self.open(row, tokens, salt, pages)

    def close(self, row: int) -> tuple[Key, str, NDArray[np.int64]] | None:
        """Forgets the row, if it was known."""
        found = self._rows.pop(row, None)
        if found is not None:
            rows = self._by_page[found[0]]
            del rows[row]
            if not rows:
                del self._by_page[found[0]]
        return found

    def length(self, tokens: NDArray[np.int64], salt: str, found: int) -> int:
        """How many of the leading tokens are there once a row that continues the `found` ones is done."""
        key = self._key(tokens, salt, found // self._page_size) if self._by_page else None
        rows = self._by_page.get(key) if key is not None else None
        if rows is None:
            return found
        _, _, first = self._rows[next(iter(rows))]
        most = min(len(first), len(tokens))
        differs = np.flatnonzero(first[:most] != tokens[:most])
        common = int(differs[0]) if len(differs) else most
        return common // self._page_size * self._page_size

    def _key(self, tokens: NDArray[np.int64], salt: str, pages: int) -> Key | None:
        """The page after the first `pages`; None where the tokens fill none any more."""
        start = pages * self._page_size
        page = tokens[start : start + self._page_size]
        return (salt, start, page.tobytes()) if len(page) == self._page_size else None
