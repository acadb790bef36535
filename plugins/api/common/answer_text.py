"""The outputs of one request, made into the deltas of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from maxserve.interfaces.errors import EngineError
from maxserve.interfaces.request import Output, Request
from maxserve.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.detokenizer import Detokenizer
from maxserve.plugins.api.common.output_parsing import OutputParser
from maxserve.plugins.api.common.stop_strings import StopStrings

_LOOK_BACK = 128  # prompt tokens the detokenizer sees; what it needs of them are the last few


class AnswerText:
    """Makes deltas of the outputs of one request; holds half characters, and what may be the start of a stop string.

    `eos` are the tokens that end a text unless the request ignores them. With `include_stop` the stop string, or the
    stop token of the request, is part of the text. Of the tokens that a request has at least (`min_stop_tokens`), no
    text is taken for a stop string. A `parser` finds reasoning and calls in the text. `prompt_only`: what was generated
    is left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        eos: Iterable[int],
        stop: Sequence[str],
        *,
        parser: OutputParser | None = None,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        prompt_only: bool = False,
    ) -> None:
        ends = () if request.params.ignore_eos and request.params.constraint is None else eos
        self._ends = frozenset((*ends, *request.params.stop_token_ids))
        self._shown_ends = frozenset(request.params.stop_token_ids) if include_stop else frozenset[int]()
        self._detokenizer = Detokenizer(
            tokenizer,
            skip_special_tokens=skip_special_tokens,
            prompt=request.prompt[-_LOOK_BACK:],
            visible=() if parser is None else parser.markers,
        )
        self._parser = parser
        self._prompt_only = prompt_only
        self._stop = StopStrings(stop, include=include_stop)
        self._unstoppable = request.params.min_stop_tokens
        self._watched = bool(stop)
        self._generated = 0
        self._cached = 0
        self._accepted = self._rejected = 0  # drafts

    def add(self, output: Output) -> TextDelta:
        """What an output adds; EngineError when the engine gave the request up."""
        if output.finish in ("error", "abort"):
            raise EngineError(output.error or "the engine aborted the request")
        self._cached = max(self._cached, output.cached)
        text, tokens = self._shown(output)
        self._accepted += min(output.accepted, len(tokens))
        self._rejected += output.rejected
        finish = output.finish
        if finish is not None and self._stop.matched is None:
            text += self._rest()
        if self._stop.matched is not None:
            finish = "stop"
        if self._prompt_only:
            return TextDelta(
                finish="length", cached=self._cached, prompt_logprobs=output.prompt_logprobs, transfer=output.transfer
            )
        parser = self._parser
        read = None if parser is None else parser.read(text, last=finish is not None, cut=finish != "stop")
        return TextDelta(
            text=text if read is None else read.content,
            reasoning="" if read is None else read.reasoning,
            calls=() if read is None else read.calls,
            called=parser is not None and parser.called,
            tokens=tokens,
            finish=finish,
            generated=self._generated,
            cached=self._cached,
            logprobs=output.logprobs and output.logprobs[: self._visible(output, len(tokens))],
            prompt_logprobs=output.prompt_logprobs,
            stop=self._stop.matched,
            stop_token=self._stop_token(output) if finish == "stop" else None,
            queued=output.queued,
            scheduled=output.scheduled,
            preemptions=output.preemptions,
            accepted=self._accepted,
            rejected=self._rejected,
            transfer=output.transfer,
        )

    def _stop_token(self, output: Output) -> int | None:
        """The token that ended the text: none where a stop string or a grammar did."""
        last = output.tokens[-1] if output.tokens and self._stop.matched is None else None
        return last if last in self._ends else None

    def _visible(self, output: Output, count: int) -> int:
        """How many of the output's first `count` tokens are shown: an end token is not."""
        tokens = output.tokens
        ended = output.finish == "stop" and count == len(tokens) and bool(tokens) and tokens[-1] in self._ends
        return count - 1 if ended and tokens[-1] not in self._shown_ends else count

    def _shown(self, output: Output) -> tuple[str, tuple[int, ...]]:
        """The text of the output's tokens and those of them that count: none after a stop string."""
        tokens = output.tokens
        visible = tokens[: self._visible(output, len(tokens))]
        if not self._watched:
            self._generated += len(tokens)
            return self._detokenizer.add(visible), tokens
        text = ""
        for used, token in enumerate(visible, 1):
            added = self._detokenizer.add((token,))
            text += added if self._generated + used <= self._unstoppable else self._stop.feed(added)
            if self._stop.matched is not None:
                self._generated += used
                return text, tokens[:used]
        self._generated += len(tokens)
        return text, tokens

    def _rest(self) -> str:
        text = self._stop.feed(self._detokenizer.finish())
        return text if self._stop.matched is not None else text + self._stop.flush()
