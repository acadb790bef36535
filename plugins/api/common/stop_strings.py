"""Text up to the first of several stop strings."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Text up to the first stop string.

    Text that may be the start of a stop string is held back. The stop that starts first wins, of two that start
    together the shorter; how the text is cut into pieces makes no difference. `include`: the stop is part of the text.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        self._matchers = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._first = frozenset(matcher.stop[0] for matcher in self._matchers)
        self._include = include
        self._held = ""
        self._seen = 0  # characters looked at so far
        self._shown = 0  # characters let through so far: where `_held` starts
        self._hit: tuple[int, str] | None = None  # start and text of a complete stop
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """What of the text so far can be shown now and was not shown before; nothing after a match."""
        if self.matched is not None:
            return ""
        if not self._held and self._first.isdisjoint(text):
            self._seen = self._shown = self._seen + len(text)
            return text
        self._held += text
        if any(self._step(char) for char in text):
            return self._end()
        return self._release(self._pending())

    def flush(self) -> str:
        """The text held back, when no more will come."""
        if self._hit is not None and self.matched is None:
            return self._end()
        return self._release(self._shown + len(self._held))

    def _step(self, char: str) -> bool:
        """Takes one character; True when a stop is certain."""
        self._seen += 1
        for matcher in self._matchers:
            if matcher.step(char):
                found = (self._seen - len(matcher.stop), matcher.stop)
                self._hit = min(self._hit or found, found, key=lambda hit: (hit[0], len(hit[1])))
        return self._hit is not None and self._pending() >= self._hit[0]

    def _pending(self) -> int:
        """Where the earliest stop that may still be completed starts."""
        return self._seen - max(matcher.matched for matcher in self._matchers)

    def _end(self) -> str:
        assert self._hit is not None
        start, self.matched = self._hit
        text = self._release(start) + (self.matched if self._include else "")
        self._held = ""
        return text

    def _release(self, position: int) -> str:
        length = position - self._shown
        text, self._held = self._held[:length], self._held[length:]
        self._shown = position
        return text


class _Matcher:
    """Follows how much of one stop string the text ends with (Knuth–Morris–Pratt): constant work per character."""

    def __init__(self, stop: str) -> None:
        if not stop:
            raise ValueError("a stop string must not be empty")
        self.stop = stop
        self.matched = 0
        self._back = _fallbacks(stop)

    def step(self, char: str) -> bool:
        """Takes one character; True when the stop is complete."""
        if self.matched == len(self.stop):
            self.matched = self._back[-1]
        while self.matched and self.stop[self.matched] != char:
            self.matched = self._back[self.matched - 1]
        self.matched += self.stop[self.matched] == char
        return self.matched == len(self.stop)


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper suffix that is a prefix of `stop` too."""
    back = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = back[length - 1]
        length += stop[i] == stop[length]
        back[i] = length
    return back
