"""The checks of tokenizers take what is right and find what is wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.tokenizer import Tokenizer, TokenizerContext
from maxserve.plugins.tokenizers.folder import TokenizerFolder
from maxserve.testing.scripted import byte_tokenizer
from maxserve.testing.tokenizer import TokenizerChecks


def _own(context: TokenizerContext) -> TokenizerFolder | None:
    own = (Path(context.path) / "tokenizer.json").is_file()
    return TokenizerFolder(context.path, trust_remote_code=False) if own else None


class TestBytes(TokenizerChecks):
    plugin: Any = SimpleNamespace(maxserve_tokenizer=_own)

    def write_files(self, folder: Path) -> None:
        byte_tokenizer(folder)


class Wrong:
    """A tokenizer that does one thing wrongly."""

    def __init__(self, inner: Tokenizer, **wrong: Any) -> None:
        self._inner, self._wrong = inner, wrong

    def __getattr__(self, name: str) -> Any:
        return self._wrong[name] if name in self._wrong else getattr(self._inner, name)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        ({"decode": lambda ids, skip_special_tokens=True: "else"}, "test_texts_come_back"),
        ({"fewest_tokens": lambda text: len(text) + 99}, "test_texts_come_back"),
        ({"token_id": lambda token: 0}, "test_entries_have_ids_and_bytes"),
        ({"token_bytes": lambda id: b"?"}, "test_entries_have_ids_and_bytes"),
        ({"affixes": ((), (1,))}, "test_special_tokens_are_hidden_and_added"),
        ({"special_ids": frozenset({65})}, "test_special_tokens_are_hidden_and_added"),
        ({"encode_input": lambda text, truncation=None: ([0] * 9, 0)}, "test_what_is_too_long_is_cut"),
        ({"token_bytes": lambda id: b"?"}, "test_pieces_make_the_text"),
    ],
)
def test_what_is_wrong_is_found(wrong: dict[str, Any], check: str, tmp_path: Path) -> None:
    tokenizer: Any = Wrong(byte_tokenizer(tmp_path), **wrong)
    with pytest.raises(AssertionError):
        getattr(TestBytes(), check)(tokenizer)


def test_a_plugin_that_answers_for_all_is_found(tmp_path: Path) -> None:
    class Greedy(TestBytes):
        plugin: Any = SimpleNamespace(maxserve_tokenizer=lambda context: TokenizerFolder("/x", trust_remote_code=False))

    with pytest.raises(AssertionError):
        Greedy().test_other_folders_are_left_to_others(tmp_path)


def test_special_tokens_that_differ_are_found(tmp_path: Path) -> None:
    tokenizer: Any = byte_tokenizer(tmp_path)
    files: Any = SimpleNamespace(
        special_tokens=lambda: SimpleNamespace(roles=tokenizer.special_tokens, added=("</s>",), id=lambda text: 3)
    )
    with pytest.raises(AssertionError, match="the id of"):
        TestBytes().test_special_tokens_are_the_same_without_the_tokenizer(files, tokenizer)
