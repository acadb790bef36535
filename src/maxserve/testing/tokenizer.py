"""Checks of tokenizers.

class TestAcme(TokenizerChecks):
    plugin = acme  # the module with the hook

    def write_files(self, folder):
        (folder / "acme.vocab").write_text(...)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.tokenizer import Tokenizer, TokenizerContext, TokenizerFiles, Truncation
from maxserve.core.registry.contracts import contract_fault
from maxserve.plugins.api.common.detokenizer import Detokenizer

__all__ = ["TokenizerChecks"]

TEXTS = ("Hello, world.", "naïve Köln: 日本語 😀", "  two  spaces\n\tand a tab ", "x")


class TokenizerChecks:
    """Subclass it, give the `plugin`, a module with `maxserve_tokenizer`, and `write_files`.

    `texts` come back from their tokens as they are, unless `exact` is off, as for vocabularies that lose characters.
    `sections` are the plugin's settings, by schema.
    """

    plugin: ClassVar[ModuleType]
    texts: ClassVar[Sequence[str]] = TEXTS
    exact: ClassVar[bool] = True
    sections: ClassVar[dict[type[Any], Any]] = {}

    def write_files(self, folder: Path) -> None:
        """Writes the files of a tokenizer into the folder of a model."""
        raise NotImplementedError(f"{type(self).__name__} has no write_files(folder)")

    def answer(self, folder: Path) -> TokenizerFiles | None:
        """What the hook says of a folder."""
        found: TokenizerFiles | None = self.plugin.maxserve_tokenizer(
            context=TokenizerContext(sections=self.sections, path=str(folder))
        )
        return found

    @pytest.fixture
    def files(self, tmp_path: Path) -> TokenizerFiles:
        """The files of a tokenizer, found by the hook."""
        self.write_files(tmp_path)
        found = self.answer(tmp_path)
        assert found is not None, "the hook knows its own files"
        assert contract_fault("maxserve_tokenizer", found) is None, contract_fault("maxserve_tokenizer", found)
        return found

    @pytest.fixture
    def tokenizer(self, files: TokenizerFiles) -> Tokenizer:
        """The tokenizer of these files."""
        made = files.load()
        assert contract_fault("tokenizer", made) is None, contract_fault("tokenizer", made)
        return made

    def test_other_folders_are_left_to_others(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        assert self.answer(tmp_path / "other") is None

    def test_texts_come_back(self, tokenizer: Tokenizer) -> None:
        for text in self.texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert all(0 <= id < tokenizer.vocab_size for id in ids), f"{text!r}: ids beyond the vocabulary"
            assert tokenizer.fewest_tokens(text) <= len(ids), f"{text!r} has fewer tokens than its fewest"
            assert not self.exact or tokenizer.decode(ids) == text

    def test_pieces_make_the_text(self, tokenizer: Tokenizer) -> None:
        """Token by token comes what decoding everything at once gives."""
        for text in self.texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            stream = Detokenizer(tokenizer)
            assert "".join([*(stream.add([id]) for id in ids), stream.finish()]) == tokenizer.decode(ids)

    def test_entries_have_ids_and_bytes(self, tokenizer: Tokenizer) -> None:
        for text in self.texts:
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert [tokenizer.token_id(tokenizer.token(id)) for id in ids] == ids
            if tokenizer.joins_bytes:
                parts = [tokenizer.token_bytes(id) or b"" for id in ids]
                assert b"".join(parts).decode(errors="replace") == tokenizer.decode(ids)
        for outside in (-1, tokenizer.vocab_size, 1 << 40):
            assert tokenizer.token(outside) == ""
            assert tokenizer.decode([outside]) == ""

    def test_special_tokens_are_the_same_without_the_tokenizer(
        self, files: TokenizerFiles, tokenizer: Tokenizer
    ) -> None:
        declared = files.special_tokens()
        assert dict(declared.roles) == dict(tokenizer.special_tokens)
        for text in {*declared.roles.values(), *declared.added}:
            assert declared.id(text) == tokenizer.token_id(text), f"the id of {text!r}"
        end = declared.roles.get("eos_token")
        assert tokenizer.eos_token_id == (None if end is None else declared.id(end))

    def test_special_tokens_are_hidden_and_added(self, tokenizer: Tokenizer) -> None:
        special = sorted(tokenizer.special_ids)
        assert tokenizer.decode(special) == "", "special tokens are no text"
        for id in special:
            assert tokenizer.token(id) in tokenizer.decode([id], skip_special_tokens=False)
        before, after = tokenizer.affixes
        for text in self.texts:
            plain = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.encode(text, add_special_tokens=True) == [*before, *plain, *after]

    def test_what_is_too_long_is_cut(self, tokenizer: Tokenizer) -> None:
        for text in self.texts:
            whole, _ = tokenizer.encode_input(text)
            for most in range(len(tokenizer.affixes[0]) + len(tokenizer.affixes[1]) + 1, len(whole) + 2):
                for side in ("left", "right"):
                    cut, _ = tokenizer.encode_input(text, truncation=Truncation(most, side))
                    assert len(cut) == min(most, len(whole))
            plain = tokenizer.encode(text, add_special_tokens=False)
            assert len(tokenizer.encode(tokenizer.cut_text(text, 3), add_special_tokens=False)) <= max(3, len(plain))
            assert text.startswith(tokenizer.cut_text(text, 3)) or not self.exact

    def test_what_is_no_unicode_is_refused(self, tokenizer: Tokenizer) -> None:
        with pytest.raises(RequestError):
            tokenizer.encode("half a \ud83d", add_special_tokens=False)

    def test_threads_share_it(self, tokenizer: Tokenizer) -> None:
        texts = list(self.texts) * 20
        alone = [tokenizer.encode(text, add_special_tokens=True) for text in texts]
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda text: tokenizer.encode(text, add_special_tokens=True), texts))
        assert together == alone
