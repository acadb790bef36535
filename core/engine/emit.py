"""The outputs of a completed step: tokens and ends of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from maxserve.core.engine.step import FAILED, INVALID, NO_ALLOWED_TOKEN
from maxserve.core.interfaces.errors import cause
from maxserve.core.interfaces.request import FinishReason, Output

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as SequenceOf

    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.engine.sequence import Sequence

NO_CHOICE = "the logits of the next token are not finite: of the model, or after a sampler of this request"


class Emitter:
    """Gives sequences their tokens and makes the outputs.

    Of the last call, `ended` are those whose last output came with it, and `drawn` is how many tokens its outputs have.
    """

    def __init__(self, eos: SequenceOf[int]) -> None:
        self._eos = eos
        self.ended: list[Sequence] = []
        self.drawn = 0

    def outputs(self, in_flight: InFlightStep) -> list[Output]:
        """One per sequence that drew and still lives; one more where an error follows tokens."""
        self.ended = []
        counts, drawing, tokens = in_flight.counts, in_flight.drawing, in_flight.tokens
        special = self._special(in_flight) if counts is None else list(range(len(drawing)))
        if not special:
            self.drawn = len(drawing)
            return _outputs(drawing, tokens.tolist())
        ends = range(1, len(drawing) + 1) if counts is None else np.cumsum(counts).tolist()
        outputs: list[Output] = []
        done = 0
        for i in special:
            outputs += _outputs(drawing[done:i], tokens[done:i].tolist())
            first = ends[i] - (1 if counts is None else int(counts[i]))
            outputs += self._outputs_of(in_flight, drawing[i], range(first, ends[i]), int(in_flight.lengths[i]))
            done = i + 1
        if counts is None:
            outputs += _outputs(drawing[done:], tokens[done:].tolist())
        self.drawn = sum(len(output.tokens) for output in outputs)
        return outputs

    def _outputs_of(self, in_flight: InFlightStep, sequence: Sequence, indices: range, length: int) -> Iterable[Output]:
        """Those of a sequence for the tokens at `indices`, up to one that ends it; `length` counts all of them."""
        if not sequence.alive:
            return
        tokens: list[int] = []
        finish: FinishReason | None = None
        error: str | None = None
        for i in indices:
            token = int(in_flight.tokens[i])
            sequence.fresh.append(token)
            finish, error = self._end(in_flight, sequence, token, length - (indices.stop - 1 - i))
            if token >= 0 and error is None:
                tokens.append(token)
            if finish is not None:
                self.ended.append(sequence)
                break
        if tokens or error is None:
            scores, sequence.scores = sequence.scores, []
            accepted = sum(token == draft for token, draft in zip(tokens, sequence.drafts, strict=False))
            yield Output(
                id=sequence.id,
                tokens=tuple(tokens),
                finish=None if error is not None else finish,
                cached=sequence.cached,
                preemptions=sequence.preemptions,
                queued=sequence.queued if sequence.scheduled else 0.0,
                scheduled=sequence.scheduled,
                accepted=accepted,
                rejected=len(sequence.drafts) - accepted,
                logprobs=tuple(in_flight.logprobs[i] for i in indices[: len(tokens)] if i in in_flight.logprobs),
                prompt_logprobs=tuple(scores),
            )
            sequence.scheduled = 0.0
        if error is not None:
            yield Output(id=sequence.id, finish="error", error=error, cached=sequence.cached)

    def failures(self, in_flight: InFlightStep) -> list[Output]:
        """The end of all requests in a step that failed."""
        self.ended = [sequence for sequence in in_flight.step.sequences if sequence.alive]
        assert in_flight.error is not None
        error = f"the model step failed: {cause(in_flight.error)}"
        return [Output(id=s.id, finish="error", error=error, cached=s.cached) for s in self.ended]

    def _special(self, in_flight: InFlightStep) -> list[int]:
        """Indices of those to be looked at one by one: at their end perhaps, or with more to say than a token."""
        ledger, slots = in_flight.step.ledger, in_flight.slots
        tokens = in_flight.tokens
        found = ledger.needs_check[slots] | ~ledger.alive[slots] | (in_flight.lengths >= ledger.limit[slots])
        found |= tokens < 0
        for eos in self._eos:
            found |= (tokens == eos) & ledger.eos_ends[slots]
        if in_flight.logprobs:
            found[list(in_flight.logprobs)] = True
        if in_flight.prompt_tokens:  # the first output of a sequence has the time that it waited
            found |= np.fromiter((s.scheduled > 0 for s in in_flight.drawing), dtype=np.bool_, count=len(found))
        indices: list[int] = found.nonzero()[0].tolist()
        return indices

    def _end(
        self, in_flight: InFlightStep, sequence: Sequence, token: int, length: int
    ) -> tuple[FinishReason | None, str | None]:
        """How a sequence ends with a token, and with what error; None while it goes on."""
        grammar, ends = sequence.grammar, token in sequence.ends
        whole = grammar is not None and token >= 0 and not ends and grammar.take(token)
        fault = in_flight.faults[sequence] if token == FAILED else None if grammar is None else grammar.fault
        if token == INVALID or fault is not None:
            return "error", fault or NO_CHOICE
        if ends or whole or token == NO_ALLOWED_TOKEN:  # that: several masks together
            return "stop", None
        return "length" if length >= sequence.limit else None, None


def _outputs(sequences: SequenceOf[Sequence], tokens: SequenceOf[int]) -> list[Output]:
    """Those of sequences that go on with a token each."""
    outputs: list[Output] = []
    for sequence, token in zip(sequences, tokens, strict=True):
        sequence.fresh.append(token)
        outputs.append(
            Output(id=sequence.id, tokens=(token,), cached=sequence.cached, preemptions=sequence.preemptions)
        )
    return outputs


def merged(before: Iterable[Output], after: Iterable[Output]) -> list[Output]:
    """The outputs of two steps in a row as if they were one; an error stays behind the tokens it follows."""
    by_id = {output.id: output for output in before}
    errors = []
    for output in after:
        first = by_id.get(output.id)
        if first is None or output.error is not None:
            errors.append(output)
        else:
            by_id[output.id] = msgspec.structs.replace(
                first,
                tokens=first.tokens + output.tokens,
                finish=output.finish,
                logprobs=first.logprobs + output.logprobs,
            )
    return [*by_id.values(), *errors]
