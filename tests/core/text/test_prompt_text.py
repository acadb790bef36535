from __future__ import annotations

import pytest

from maxserve.core.text.prompt_text import PromptText, joined


@pytest.mark.parametrize(
    ("text", "literal", "pieces"),
    [
        ("a<i>b<i>c", (), [("a", ()), ("b", ()), ("c", ())]),
        ("a<i>b<i>c", (6,), [("a", ()), ("b<i>c", (2,))]),
        ("a<i>b<i>c", (2, 5), [("a<i>b<i>c", (2, 5))]),
        ("<i>", (), [("", ()), ("", ())]),
        ("<<i>", (0,), [("<", (0,)), ("", ())]),
        ("", (), [("", ())]),
    ],
)
def test_pieces_between_separators_that_are_no_clients_text(
    text: str, literal: tuple[int, ...], pieces: list[tuple[str, tuple[int, ...]]]
) -> None:
    prompt = PromptText(text, literal)
    found = prompt.split("<i>")
    assert [(piece.text, piece.literal) for piece in found] == pieces
    assert prompt.holds("<i>") is (len(pieces) > 1)


def test_pieces_joined_again() -> None:
    prompt = PromptText("a<i>b<i>c", (6, 8))
    first, second = prompt.split("<i>")
    whole = joined([first, PromptText("<i>"), second])
    assert whole == prompt
