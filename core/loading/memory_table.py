"""Sizes of memory, written for people."""

from __future__ import annotations

from collections.abc import Sequence


def size_text(size: int) -> str:
    """Bytes in the unit that fits: "512 B", "1.5 MiB", "23.4 GiB"."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def aligned(rows: Sequence[tuple[str, str, str]]) -> str:
    """Lines of name, size (to the right) and note."""
    names = max(len(name) for name, _, _ in rows)
    sizes = max(len(size) for _, size, _ in rows)
    return "\n".join(f"{name:<{names}}  {size:>{sizes}}  {note}".rstrip() for name, size, note in rows)
