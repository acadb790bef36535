"""How do logprobs look in an answer? OpenAI's form for chats, its older one for completions, vLLM's for prompts.

They are the model's own: log-softmax of its logits before penalties, masks and temperature. The entry of a token that
ends an answer is left out, as its text is.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from maxserve.interfaces.request import TokenLogprob
from maxserve.interfaces.tokenizer import Tokenizer

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say


class TokenTexts:
    """Single tokens as text and as bytes; a part of a character is U+FFFD as text.

    With `as_ids` the text of a token is `token_id:N` with its id, as vLLM's `return_tokens_as_token_ids` has it.
    """

    def __init__(self, tokenizer: Tokenizer, *, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def wanted(self, as_ids: bool | None) -> TokenTexts:
        """The same tokens as ids, if that is wanted."""
        return TokenTexts(self._tokenizer, as_ids=True) if as_ids else self

    def bytes(self, token: int) -> bytes:
        known = self._tokenizer.token_bytes(token)
        return self._tokenizer.decode([token], skip_special_tokens=False).encode() if known is None else known

    def text(self, token: int) -> str:
        if self._as_ids:
            return f"token_id:{token}"
        return self.bytes(token).decode(errors="replace")

    def key(self, token: int) -> str:
        """A text that tells it from others: what is no whole character is spelled `bytes:\\xNN`."""
        if self._as_ids:
            return self.text(token)
        data = self.bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(texts: TokenTexts, entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat choice or of a chunk of one."""
    content = [
        {**_named(texts, entry.token, entry.logprob), "top_logprobs": [_named(texts, *pair) for pair in _best(entry)]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _named(texts: TokenTexts, token: int, logprob: float) -> dict[str, Any]:
    return {"token": texts.text(token), "logprob": _finite(logprob), "bytes": list(texts.bytes(token))}


class CompletionLogprobs:
    """The `logprobs` of a completion choice, piece by piece: offsets go on from one piece to the next.

    `text_offset` counts characters of the text, an echoed prompt included, that are whole before the token. `hidden`
    are tokens that the text does not show.
    """

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def prompt(
        self, prompt: Sequence[int], entries: Sequence[TokenLogprob], hidden: Collection[int] = ()
    ) -> dict[str, Any]:
        """Of an echoed prompt: nothing is known of its first token, before which there was none."""
        first: dict[str, list[Any]] = {
            "tokens": [self._texts.key(prompt[0])],
            "token_logprobs": [None],
            "top_logprobs": [None],
            "text_offset": [self._advance(prompt[0], hidden)],
        }
        rest = self.answer(entries, hidden)
        return {name: [*first[name], *rest[name]] for name in first}

    def answer(self, entries: Sequence[TokenLogprob], hidden: Collection[int] = ()) -> dict[str, Any]:
        """Of generated tokens; the drawn one is always among the likeliest that are listed."""
        return {
            "tokens": [self._texts.key(entry.token) for entry in entries],
            "token_logprobs": [_finite(entry.logprob) for entry in entries],
            "top_logprobs": [self._top(entry) for entry in entries],
            "text_offset": [self._advance(entry.token, hidden) for entry in entries],
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        pairs = dict(_best(entry)) | {entry.token: entry.logprob}
        return {self._texts.key(token): _finite(logprob) for token, logprob in pairs.items()}

    def _advance(self, token: int, hidden: Collection[int]) -> int:
        start = self._offset
        if token in hidden:
            return start
        self._offset += len(self._decoder.decode(self._texts.bytes(token)))
        return start


def prompt_logprobs(texts: TokenTexts, entries: Iterable[TokenLogprob]) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: null for the first token; ranks count from 1, the likeliest."""
    listed: list[dict[str, Any] | None] = [None]
    for entry in entries:
        ranked = {token: (logprob, rank) for rank, (token, logprob) in enumerate(_best(entry), 1)}
        ranked[entry.token] = (entry.logprob, entry.rank)
        listed.append(
            {
                str(token): {"logprob": _finite(logprob), "rank": rank, "decoded_token": texts.text(token)}
                for token, (logprob, rank) in ranked.items()
            }
        )
    return listed


def _best(entry: TokenLogprob) -> zip[tuple[int, float]]:
    return zip(entry.ids, entry.logprobs, strict=True)


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
