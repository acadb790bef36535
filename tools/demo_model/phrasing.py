"""In how many ways can one question be typed? Case, punctuation, synonyms, small talk around it, typing mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from corpus import normal

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Phrasing:
    """Rewrites questions as different people would type them, never into a forbidden one."""

    def __init__(self, phrases: Mapping[str, Any], forbidden: frozenset[str]) -> None:
        self._phrases = phrases
        self._fillers = frozenset(phrases["fillers"])
        self._forbidden = forbidden

    def vary(self, question: str, rng: Random) -> str:
        """The question in one way of asking it; the plain question when every variant is forbidden."""
        for _ in range(8):
            varied = self._once(question, rng)
            if normal(varied) not in self._forbidden:
                return varied
        return question

    def _once(self, question: str, rng: Random) -> str:
        words = question.split()
        if rng.random() < 0.4:
            words = [self._synonym(word, rng) for word in words]
        if rng.random() < 0.1:
            words = self._keywords(words, rng)
        if rng.random() < 0.1:
            words = [word for word in words if word not in ("the", "a", "an")] or words
        if rng.random() < 0.15:
            words = _mistyped(words, rng)
        text = " ".join(words)
        if rng.random() < 0.12:
            text = rng.choice(self._phrases["prefixes"]) + text
        if rng.random() < 0.12:
            text += rng.choice(self._phrases["suffixes"])
        return _punctuated(_cased(text, rng), rng)

    def _synonym(self, word: str, rng: Random) -> str:
        others = self._phrases["synonyms"].get(word)
        return rng.choice(others) if others and rng.random() < 0.5 else word

    def _keywords(self, words: list[str], rng: Random) -> list[str]:
        """Only the words that carry meaning, now and then in another order; all of them when none does."""
        kept = [word for word in words if word.lower() not in self._fillers]
        if not kept or len(kept) == len(words):
            return words
        if rng.random() < 0.3:
            rng.shuffle(kept)
        return [*kept, rng.choice(("how", "help", "please", "info"))] if rng.random() < 0.1 else kept


def _cased(text: str, rng: Random) -> str:
    draw = rng.random()
    if draw < 0.45:
        return text[:1].upper() + text[1:]
    if draw < 0.75:
        return text if "--" in text or "_" in text else text.lower()
    return text.upper() if draw > 0.99 else text


def _punctuated(text: str, rng: Random) -> str:
    draw = rng.random()
    if draw < 0.55:
        return text + "?"
    return text + rng.choice((".", "!", " ?", "...", "??")) if draw > 0.93 else text


def _mistyped(words: list[str], rng: Random) -> list[str]:
    """One longer plain word with a letter lost, doubled, swapped or replaced."""
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not places:
        return words
    i = rng.choice(places)
    word, at = words[i], rng.randrange(1, len(words[i]) - 1)
    wrong = rng.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + rng.choice(LETTERS) + word[at + 1 :],
        )
    )
    return [*words[:i], wrong, *words[i + 1 :]]
