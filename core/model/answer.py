"""How do the outputs of one request become the text of its answer?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from maxserve.core.errors import EngineError
from maxserve.core.model.detokenizer import Detokenizer, StopStrings
from maxserve.core.model.tokenizer import Tokenizer
from maxserve.core.nouns import FinishReason, Output, Request

_LOOK_BACK = 128  # prompt tokens the detokenizer sees; what it needs of them are the last few


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """What one step added to an answer.

    `tokens` are the new ones, a final stop or eos token included, which `text` never shows. `generated` counts all
    tokens of the answer so far, `cached` the prompt tokens that were found in the prefix cache.
    """

    text: str
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    generated: int = 0
    cached: int = 0


class AnswerText:
    """Makes text of the outputs of one request; holds half characters, and what may be the start of a stop string.

    `eos` are the tokens that end a text unless the request ignores them, `kept` special tokens that are shown in it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        eos: Iterable[int],
        stop: Sequence[str],
        *,
        kept: Iterable[str] = (),
    ) -> None:
        ends = () if request.params.ignore_eos and request.params.constraint is None else eos
        self._ends = frozenset((*ends, *request.params.stop_token_ids))
        self._detokenizer = Detokenizer(tokenizer, prompt=request.prompt[-_LOOK_BACK:], kept=kept)
        self._stop = StopStrings(stop)
        self._watched = bool(stop)
        self._generated = 0
        self._cached = 0

    def add(self, output: Output) -> Piece:
        """What an output adds; EngineError when the engine gave the request up."""
        if output.finish in ("error", "abort"):
            raise EngineError(output.error or "the engine aborted the request")
        self._cached = max(self._cached, output.cached)
        text, tokens = self._shown(output)
        finish = output.finish
        if finish is not None and self._stop.matched is None:
            text += self._rest()
        if self._stop.matched is not None:
            finish = "stop"
        return Piece(text=text, tokens=tokens, finish=finish, generated=self._generated, cached=self._cached)

    def _shown(self, output: Output) -> tuple[str, tuple[int, ...]]:
        """The text of the output's tokens and those of them that count: none after a stop string."""
        tokens = output.tokens
        ended = output.finish == "stop" and bool(tokens) and tokens[-1] in self._ends
        visible = tokens[:-1] if ended else tokens
        if not self._watched:
            self._generated += len(tokens)
            return self._detokenizer.add(visible), tokens
        text = ""
        for used, token in enumerate(visible, 1):
            text += self._stop.feed(self._detokenizer.add((token,)))
            if self._stop.matched is not None:
                self._generated += used
                return text, tokens[:used]
        self._generated += len(tokens)
        return text, tokens

    def _rest(self) -> str:
        text = self._stop.feed(self._detokenizer.finish())
        return text if self._stop.matched is not None else text + self._stop.flush()
