"""Texts encoded in the caller's own process: what `LLM.encode` and `LLM.score` do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from maxserve.interfaces.engine import EMBEDDINGS, SCORING
from maxserve.interfaces.errors import RequestError
from maxserve.plugins.embeddings.encoder_input import EncoderInputs, Input, encode_request
from maxserve.plugins.embeddings.vectors import Collected, settle_size

if TYPE_CHECKING:
    from maxserve.interfaces.tokenizer import Tokenizer, Truncation
    from maxserve.plugins.embeddings.engine import EncoderEngine
    from maxserve.plugins.embeddings.vectors import Vector


class Encoding:
    """An encoder and its tokenizer."""

    def __init__(self, engine: EncoderEngine, tokenizer: Tokenizer) -> None:
        assert engine.info.vectors is not None, "every encoder says what its vectors are"
        self._engine = engine
        self._vectors = engine.info.vectors
        self._inputs = EncoderInputs(tokenizer, engine.info)
        self._ids = map(str, itertools.count())

    def encode(
        self,
        texts: Sequence[str | Sequence[int]],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        cut: int | None = None,
        adapter: str = "",
    ) -> list[Vector]:
        """The vectors of texts, or of token ids, which get no prompt."""
        self._insist_on(EMBEDDINGS, "gives scores of pairs and no embeddings; use score")
        size, prompt, most = (
            settle_size(dimensions, self._vectors),
            self._inputs.prompt(prompt_name),
            self._inputs.truncation(cut),
        )
        found: dict[int, Vector] = {}
        spelled = [index for index, text in enumerate(texts) if isinstance(text, str)]
        coded = [index for index, text in enumerate(texts) if not isinstance(text, str)]
        for indices, prefix in ((spelled, self._inputs.skipped(prompt)), (coded, 0)):
            inputs = [self._input(texts[index], f"texts[{index}]", prompt, most) for index in indices]
            found.update(zip(indices, self._run(inputs, size=size, prompt_prefix=prefix, adapter=adapter), strict=True))
        return [found[index] for index in range(len(texts))]

    def score(self, first: str, seconds: Sequence[str], *, cut: int | None = None, adapter: str = "") -> list[float]:
        """How well each of `seconds` goes with `first`."""
        self._insist_on(SCORING, "gives embeddings and no scores; use encode")
        most = self._inputs.truncation(cut)
        inputs = [self._inputs.pair(first, each, f"seconds[{i}]", truncation=most) for i, each in enumerate(seconds)]
        return [float(score[0]) for score in self._run(inputs, adapter=adapter)]

    def _insist_on(self, task: str, otherwise: str) -> None:
        if self._engine.info.task != task:
            raise RequestError(f"{self._engine.info.name!r} {otherwise}")

    def _input(self, text: str | Sequence[int], param: str, prompt: str, truncation: Truncation | None) -> Input:
        if isinstance(text, str):
            return self._inputs.text(text, param, prompt=prompt, truncation=truncation)
        return self._inputs.ids(text, param, truncation=truncation)

    def _run(
        self, inputs: Sequence[Input], *, size: int | None = None, prompt_prefix: int = 0, adapter: str = ""
    ) -> list[Vector]:
        if not inputs:
            return []
        request = encode_request(next(self._ids), inputs, prompt_prefix, adapter=adapter)
        collected = Collected(len(inputs), self._vectors)
        self._engine.add(request)
        try:
            while self._engine.busy:
                for encoded in self._engine.step():
                    collected.add(encoded)
        finally:
            self._engine.abort([request.id])
        return collected.vectors(size)
