"""What a completed step means for its requests: tokens, and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from maxserve.core.engine.step import FAILED, INVALID, NO_ALLOWED_TOKEN
from maxserve.core.interfaces.request import FinishReason, Output
from maxserve.core.registry.entries import cause

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

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
        if in_flight.counts is not None:
            return self._outputs_of_several(in_flight, in_flight.counts)
        outputs: list[Output] = []
        for sequence, token in zip(in_flight.drawing, in_flight.tokens, strict=True):
            sequence.fresh.append(token)
            outputs.append(
                Output(id=sequence.id, tokens=(token,), cached=sequence.cached, preemptions=sequence.preemptions)
            )
        self.drawn = len(outputs)
        special = self._special(in_flight)
        if not len(special):
            return _with_times(_with_logprobs(outputs, in_flight), in_flight)
        for i in special.tolist():
            sequence, token = in_flight.drawing[i], in_flight.tokens[i]
            if sequence.alive:
                outputs[i] = _with_prompt(
                    self._last(in_flight, sequence, token, int(in_flight.lengths[i])) or outputs[i], sequence
                )
        outputs = _with_times(_with_logprobs(outputs, in_flight), in_flight)
        alive = in_flight.step.ledger.alive[in_flight.slots]
        if not alive.all():
            outputs = [outputs[i] for i in np.flatnonzero(alive).tolist()]
        self.drawn = sum(len(output.tokens) for output in outputs)
        return outputs

    def _outputs_of_several(self, in_flight: InFlightStep, counts: NDArray[np.int64]) -> list[Output]:
        """The same of a step in which drafts were accepted: each sequence has its tokens one after another."""
        outputs: list[Output] = []
        ends = np.cumsum(counts).tolist()
        for i, (sequence, count, end) in enumerate(zip(in_flight.drawing, counts.tolist(), ends, strict=True)):
            if sequence.alive:
                first = Output(id=sequence.id, cached=sequence.cached, preemptions=sequence.preemptions)
                first = _with_prompt(_with_time(first, sequence), sequence)
                outputs += self._run(in_flight, sequence, range(end - count, end), int(in_flight.lengths[i]), first)
        self.drawn = sum(len(output.tokens) for output in outputs)
        return outputs

    def _run(
        self, in_flight: InFlightStep, sequence: Sequence, indices: range, length: int, output: Output
    ) -> list[Output]:
        """`output` with the tokens at `indices`, as far as none ends the sequence, and with that end."""
        tokens: list[int] = []
        last: Output | None = None
        for i in indices:
            token = in_flight.tokens[i]
            sequence.fresh.append(token)
            last = self._last(in_flight, sequence, token, length - (indices.stop - 1 - i))
            if last is not None and not last.tokens:  # an error, or nothing that may follow
                break
            tokens.append(token)
            if last is not None:
                break
        logprobs = tuple(in_flight.logprobs[i] for i in indices[: len(tokens)] if i in in_flight.logprobs)
        output = msgspec.structs.replace(output, tokens=tuple(tokens), logprobs=logprobs)
        if last is None:
            return [output]
        if last.error is not None:
            return [output, last] if tokens else [last]
        return [msgspec.structs.replace(output, finish=last.finish)]

    def failures(self, in_flight: InFlightStep) -> list[Output]:
        """The end of all requests in a step that failed."""
        self.ended = [sequence for sequence in in_flight.step.sequences if sequence.alive]
        assert in_flight.error is not None
        error = f"the model step failed: {cause(in_flight.error)}"
        return [Output(id=s.id, finish="error", error=error, cached=s.cached) for s in self.ended]

    def _special(self, in_flight: InFlightStep) -> NDArray[np.int64]:
        """Indices of those to be looked at one by one: maybe at their end, or over already."""
        ledger, slots = in_flight.step.ledger, in_flight.slots
        tokens = np.asarray(in_flight.tokens, dtype=np.int64)
        found = ledger.needs_check[slots] | ~ledger.alive[slots] | (in_flight.lengths >= ledger.limit[slots])
        found |= tokens < 0
        for eos in self._eos:
            found |= (tokens == eos) & ledger.eos_ends[slots]
        return np.flatnonzero(found)

    def _last(self, in_flight: InFlightStep, sequence: Sequence, token: int, length: int) -> Output | None:
        """The output that ends a sequence, if this is its end."""
        reason: FinishReason | None = "length" if length >= sequence.limit else None
        grammar = sequence.grammar
        whole = grammar is not None and token >= 0 and token not in sequence.ends and grammar.take(token)
        if token in sequence.ends or whole:
            reason = "stop"
        fault = grammar.fault if grammar is not None else None
        if token == FAILED:
            fault = in_flight.faults[sequence]
        if token == INVALID or fault is not None:
            self.ended.append(sequence)
            return Output(id=sequence.id, finish="error", error=fault or NO_CHOICE, cached=sequence.cached)
        if token == NO_ALLOWED_TOKEN:  # it may not go on: several masks together, which could not be told beforehand
            self.ended.append(sequence)
            return Output(id=sequence.id, finish="stop", cached=sequence.cached, preemptions=sequence.preemptions)
        if reason is None:
            return None
        self.ended.append(sequence)
        return Output(
            id=sequence.id,
            tokens=(token,),
            finish=reason,
            cached=sequence.cached,
            preemptions=sequence.preemptions,
        )


def _with_logprobs(outputs: list[Output], in_flight: InFlightStep) -> list[Output]:
    """`outputs`, one per sequence that drew, with the logprobs of their tokens, where they are wanted."""
    for i, found in in_flight.logprobs.items():
        if outputs[i].tokens:
            outputs[i] = msgspec.structs.replace(outputs[i], logprobs=(found,))
    return outputs


def _with_times(outputs: list[Output], in_flight: InFlightStep) -> list[Output]:
    """The first output of a sequence tells how long it waited; none does in a step that only decodes."""
    for i, sequence in enumerate(in_flight.drawing) if in_flight.prompt_tokens else ():
        outputs[i] = _with_time(outputs[i], sequence)
    return outputs


def _with_time(output: Output, sequence: Sequence) -> Output:
    if not sequence.scheduled:
        return output
    output = msgspec.structs.replace(output, queued=sequence.queued, scheduled=sequence.scheduled)
    sequence.scheduled = 0.0
    return output


def _with_prompt(output: Output, sequence: Sequence) -> Output:
    """The first output tells what was found out about the prompt's tokens."""
    if not sequence.scores or output.error is not None:
        return output
    scores, sequence.scores = sequence.scores, []
    return msgspec.structs.replace(output, prompt_logprobs=tuple(scores))


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
