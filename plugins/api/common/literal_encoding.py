"""Prompts in which some characters are nothing but text, and their tokens.

A client wrote them, so they may be part of no special token. `tokenizers` takes every special token that is spelled out
in a text for that token. So the text is encoded by a twin of the tokenizer, which knows the special tokens by secret
names and the same model, normalizer and pre-tokenizer: the special tokens that do count are named so, and the spelling
of the others is text like any other.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import tokenizers
from tokenizers import AddedToken, models

from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.tokenizer import Tokenizer, check_unicode

Span = tuple[int, int]

# Linear B: letters that no normalizer changes and that are never typed.
_LETTERS = [chr(code) for code in range(0x10080, 0x100FB)]
_NAME_LENGTH = 12
_UNKNOWN = "".join(_LETTERS[:3])
_PRIVATE = range(0xE000, 0xF900)


class PromptText(msgspec.Struct, frozen=True):
    """`literal` are indices of characters that no special token may hold, in order: a client wrote them."""

    text: str
    literal: tuple[int, ...] = ()

    @classmethod
    def join(cls, pieces: Iterable[PromptText]) -> PromptText:
        """One prompt of pieces."""
        texts, literal, length = list[str](), list[int](), 0
        for piece in pieces:
            literal += (length + at for at in piece.literal)
            length += len(piece.text)
            texts.append(piece.text)
        return cls("".join(texts), tuple(literal))

    def split(self, separator: str) -> list[PromptText]:
        """The pieces between the separators, a separator with a literal character being none."""
        return [self._piece(start, end) for start, end in self._between(separator)]

    def _between(self, separator: str) -> Iterator[tuple[int, int]]:
        literal, start, at = set(self.literal), 0, self.text.find(separator)
        while at >= 0:
            end = at + len(separator)
            if literal.isdisjoint(range(at, end)):
                yield start, at
                start = end
            else:
                end = at + 1
            at = self.text.find(separator, end)
        yield start, len(self.text)

    def _piece(self, start: int, end: int) -> PromptText:
        return PromptText(self.text[start:end], tuple(at - start for at in self.literal if start <= at < end))

    def holds(self, token: str) -> bool:
        """Whether a token's text is in it, without a literal character."""
        return len(self.split(token)) > 1


class PromptEncoder:
    """Encodes prompts with one tokenizer. Safe from several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, prompt: PromptText) -> list[int]:
        """The ids of a prompt that a template wrote; literal characters in it are part of no special token."""
        if not prompt.literal:
            return self.tokenizer.encode(prompt.text, add_special_tokens=False)
        check_unicode(prompt.text)
        return self._literal.encode(prompt.text, prompt.literal)

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """What the special tokens are spelled like."""
        return frozenset(filter(None, map(self.tokenizer.token, self.tokenizer.special_ids)))

    def special_spans(self, text: str) -> list[Span]:
        """Where special tokens are spelled out in a text."""
        possible = self._literal.normalizes or any(start in text for start in self._starts)
        return self._literal.spans(text) if possible else []

    @cached_property
    def _starts(self) -> frozenset[str]:
        """The first characters of special tokens: few, and rare in texts."""
        return frozenset(text[:2] for text in self.special_texts)

    @cached_property
    def _literal(self) -> LiteralEncoder | CuttingEncoder:
        inner = self.tokenizer.backend_tokenizer
        return CuttingEncoder(self.tokenizer, self.special_texts) if inner is None else LiteralEncoder(inner)


def prompt_encoder(context: ServerContext) -> PromptEncoder:
    """That of one application: `context.once(prompt_encoder)`."""
    return PromptEncoder(context.tokenizer)


class CuttingEncoder:
    """Encodes with a tokenizer of which nothing is known: a text is cut at each literal character."""

    normalizes = False

    def __init__(self, tokenizer: Tokenizer, special: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def spans(self, text: str) -> list[Span]:
        """Where special tokens are spelled out in a text."""
        return [found.span() for found in self._special.finditer(text)]

    def encode(self, text: str, literal: Sequence[int]) -> list[int]:
        """The ids of `text`; characters at the indices `literal` are part of no special token."""
        cuts = sorted({0, len(text), *literal, *(at + 1 for at in literal)})
        pieces = [text[start:end] for start, end in pairwise(cuts)]
        newline = self._ids("\n")
        ids = self._ids(pieces[0])
        for piece in pieces[1:]:
            # Behind a line break, so that sentencepiece adds no space in front of it.
            found = self._ids("\n" + piece)
            cleanly = found[: len(newline)] == newline
            ids += found[len(newline) :] if cleanly else self._ids(piece)
        return ids

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


class LiteralEncoder:
    """Encodes with one tokenizer, which it leaves as it is. Safe from several threads at once."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = [t for _, t in sorted(tokenizer.get_added_tokens_decoder().items()) if t.content]
        self._special = [token for token in self._added if token.special]
        self._ids = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.normalizes = any(token.normalized for token in self._special)

    def spans(self, text: str) -> list[Span]:
        """Where special tokens are spelled out in a text, whatever stands around them."""
        if self._tokenizer.encode_special_tokens:  # then it finds none anywhere
            return []
        encoding = self._loose.encode(text, add_special_tokens=False)
        return [span for id, span in zip(encoding.ids, encoding.offsets, strict=True) if id]

    def encode(self, text: str, literal: Sequence[int]) -> list[int]:
        """The ids of `text`; characters at the indices `literal` are part of no special token."""
        renamed, indices = self._renamed(text, literal)
        ids, leaks = self._encoded(renamed, indices)
        if leaks:  # the model's own vocabulary has the token: cut its text, which a single character cannot be
            ids, _ = self._encoded(*self._cut(renamed, indices))
        return ids

    def _renamed(self, text: str, literal: Sequence[int]) -> tuple[str, list[int]]:
        """The text with special tokens by their secret names, and the indices `literal` in it."""
        indices, pieces, length, start = [], [], 0, 0
        remaining = iter([*literal, len(text) + 1])
        at = next(remaining)
        for first, last, name in [*self._counting(text, literal), (len(text), len(text), "")]:
            while at < first:
                indices.append(length + at - start)
                at = next(remaining)
            pieces += [text[start:first], name]
            length += first - start + len(name)
            start = last
        return "".join(pieces), indices

    def _counting(self, text: str, literal: Sequence[int]) -> Iterator[tuple[int, int, str]]:
        """The special tokens that count, and their names."""
        characters = list(text)
        for at in literal:
            characters[at] = self._blank
        encoding = self._exact.encode("".join(characters), add_special_tokens=False)
        names = {self._exact.token_to_id(token.content): name for token, name in self._names}
        for id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if id in names:
                yield start, end, names[id]

    def _encoded(self, renamed: str, indices: Sequence[int]) -> tuple[list[int], bool]:
        """The ids, and whether literal characters became special tokens all the same."""
        encoding = self._twin.encode(renamed, add_special_tokens=False)
        ids, known = encoding.ids, self._known
        found = [known.get(id, id) for id in ids]
        if self._leaking.isdisjoint(ids):
            return [id for id in found if id is not None], False
        spans = zip(ids, encoding.offsets, strict=True)
        leaks = any(id in self._leaking and _any_within(indices, *span) for id, span in spans)
        return [id for id in found if id is not None], leaks

    def _cut(self, renamed: str, indices: Sequence[int]) -> tuple[str, list[int]]:
        """The text cut before and behind each literal character."""
        pieces, start, moved = [], 0, []
        for i, at in enumerate(indices):
            pieces += [renamed[start:at], self._knife, renamed[at], self._knife]
            moved.append(at + (2 * i + 1) * _NAME_LENGTH)
            start = at + 1
        return "".join([*pieces, renamed[start:]]), moved

    @cached_property
    def _names(self) -> list[tuple[AddedToken, str]]:
        return [(token, _secret()) for token in self._special]

    @cached_property
    def _knife(self) -> str:
        """A token that parts texts and is left out."""
        return _secret()

    @cached_property
    def _unknown(self) -> set[int]:
        """What stands for characters that the model does not know, which is no spelling of anything."""
        return set(self._tokenizer.encode(_LETTERS[0], add_special_tokens=False).ids) & self._ids

    @cached_property
    def _leaking(self) -> set[int]:
        """Special tokens that the model's own vocabulary has: it can make them of plain text."""
        return self._ids - self._known.keys() - self._unknown

    @cached_property
    def _blank(self) -> str:
        used = {char for token in self._added for char in token.content}
        return next(char for char in map(chr, _PRIVATE) if char not in used)

    @cached_property
    def _loose(self) -> tokenizers.Tokenizer:
        """Finds the special tokens alone; every other text is token 0."""
        return _finder([_token(t.content, normalized=t.normalized) for t in self._special], self._normalizer)

    @cached_property
    def _exact(self) -> tokenizers.Tokenizer:
        """Finds added tokens as the tokenizer itself does."""
        found = [token for token in self._added if token.special or not token.normalized or self._normalizer]
        return _finder(found, self._normalizer)

    @property
    def _normalizer(self) -> Any:
        """Tokens that are looked for in normalized text are rare; without any, the text need not be normalized."""
        return self._tokenizer.normalizer if self.normalizes else None

    @cached_property
    def _twin(self) -> tokenizers.Tokenizer:
        twin = tokenizers.Tokenizer(self._tokenizer.model)  # shared, not copied
        if self._tokenizer.normalizer is not None:
            twin.normalizer = self._tokenizer.normalizer
        if self._tokenizer.pre_tokenizer is not None:
            twin.pre_tokenizer = self._tokenizer.pre_tokenizer
        _fill(twin)
        twin.add_tokens([token for token in self._added if not token.special])
        twin.add_special_tokens([_token(name, normalized=token.normalized) for token, name in self._names])
        twin.add_special_tokens([_token(self._knife)])
        return twin

    @cached_property
    def _known(self) -> Mapping[int, int | None]:
        """Ids of the tokenizer by those of its twin, where they differ; None for a token that is left out."""
        same = {token.content: token.content for token in self._added if not token.special}
        contents = same | {name: token.content for token, name in self._names}
        known: dict[int, int | None] = {}
        for twins, content in contents.items():
            known[_id(self._twin, twins)] = _id(self._tokenizer, content)
        return known | {_id(self._twin, self._knife): None}


def _secret() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(_NAME_LENGTH))


def _token(content: str, *, normalized: bool = False) -> AddedToken:
    return AddedToken(content, normalized=normalized, special=True)


def _finder(tokens: Sequence[AddedToken], normalizer: Any) -> tokenizers.Tokenizer:
    finder = tokenizers.Tokenizer(models.WordLevel({_UNKNOWN: 0}, unk_token=_UNKNOWN))
    if normalizer is not None:
        finder.normalizer = normalizer
    finder.add_tokens(list(tokens))
    return finder


def _fill(tokenizer: tokenizers.Tokenizer) -> None:
    """Adds tokens that are never written until new ids lie behind all those of a vocabulary with gaps."""
    missing = max(tokenizer.get_vocab().values(), default=-1) + 1 - tokenizer.get_vocab_size()
    if missing > 0:
        tokenizer.add_tokens([_token(_secret()) for _ in range(missing)])


def _id(tokenizer: tokenizers.Tokenizer, content: str) -> int:
    id = tokenizer.token_to_id(content)
    assert id is not None
    return int(id)


def _any_within(indices: Sequence[int], start: int, end: int) -> bool:
    at = bisect_left(indices, start)
    return at < len(indices) and indices[at] < end
