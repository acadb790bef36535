"""From a request for vectors or scores to these."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from uuid import uuid4

import msgspec

from maxserve.interfaces.engine import EMBEDDINGS, SCORING, VectorInfo
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.served_names import ServedName
from maxserve.interfaces.tokenizer import Truncation
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.common.models import no_vectors
from maxserve.plugins.api.common.prompt_threads import prompt_threads
from maxserve.plugins.embeddings.encoder_input import EncoderInputs, Input, encode_request
from maxserve.plugins.embeddings.vectors import Collected, Vector, cosines, settle_size

MOST_INPUTS = 2048


class ScoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How texts of pairs are cut, first each by itself and then the pair, and whether scores are activated.

    `adapter` is the one that the pairs are encoded with, "" for none.
    """

    truncation: Truncation | None = None
    query_tokens: int | None = None
    document_tokens: int | None = None
    activation: bool | None = None
    adapter: str = ""


class Embedder:
    """Encodes texts for the routes of a plugin. Only where `ServerContext.model.vectors` is there."""

    def __init__(self, context: ServerContext) -> None:
        assert context.model.vectors is not None, "the model encodes no texts"
        self._context = context
        self._vectors: VectorInfo = context.model.vectors
        self.inputs = EncoderInputs(context.tokenizer, context.model)
        self.threads = context.once(prompt_threads)

    def check_count(self, count: int, field: str) -> None:
        """RequestError for more texts than are taken at once, or none."""
        if not 1 <= count <= MOST_INPUTS:
            raise RequestError(f"{field} must have 1 to {MOST_INPUTS} entries, got {count}", param=field)
        self._check_capacity(count, field)

    def _check_capacity(self, count: int, field: str) -> None:
        """What could never be admitted is refused for good: trying again later would not help."""
        capacity = self._context.engine.capacity
        if capacity is not None and count > capacity:
            message = (
                f"{field} has {count} entries, and the server takes {capacity} texts at once (--max-batch-size and "
                "--max-queue-size together); send fewer"
            )
            raise RequestError(message, param=field)

    async def encode(
        self,
        inputs: Sequence[Input],
        meter: Meter,
        *,
        size: int | None = None,
        prompt_prefix: int = 0,
        activation: bool | None = None,
        adapter: str = "",
    ) -> list[Vector]:
        """The vectors of `inputs` in their order, cut to `size` numbers. The meter hears of tokens and of the end.

        With `activation` embeddings have the length 1, and with False what the model has before its last function;
        None: as the model was made.
        """
        activated = activation is not False
        request = encode_request(uuid4().hex, inputs, prompt_prefix, activation=activated, adapter=adapter)
        meter.prompt_tokens += sum(map(len, request.texts))
        collected = Collected(len(inputs), self._vectors)
        async with aclosing(self._context.engine.encode(request)) as answers:
            async for encoded in answers:
                collected.add(encoded)
        meter.add(0, TextDelta(finish="stop"))
        return collected.vectors(size, normalized=self._normalized(activation))

    def _normalized(self, activation: bool | None) -> bool:
        """Whether the vectors of a request have the length 1."""
        if self._context.model.task == SCORING:
            return False
        return self._vectors.normalized if activation is None else activation

    def size(self, wanted: int | None) -> int | None:
        """The size to cut vectors to; RequestError for one that the model was not trained for."""
        return settle_size(wanted, self._vectors)

    async def scores(
        self, pairs: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]], meter: Meter, options: ScoreOptions
    ) -> list[float]:
        """How well the texts of each pair go together; `names` are their parameters in the request.

        From a model of pairs what it says, from one of embeddings the cosine.
        """
        if self._context.model.task == SCORING:
            return await self._model_scores(pairs, names, meter, options)
        if not self._vectors.pooled:
            message = "this server gives a vector for each token (--no-pool-embeddings), which cannot be compared"
            raise RequestError(message, param="model", code="unsupported_model")
        return await self._cosines(pairs, names, meter, options)

    async def _model_scores(
        self, pairs: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]], meter: Meter, options: ScoreOptions
    ) -> list[float]:
        def read() -> list[Input]:
            cases = zip(self._cut(pairs, options), names, strict=True)
            truncation = options.truncation
            return [self.inputs.pair(one, other, param, truncation=truncation) for (one, other), (_, param) in cases]

        inputs = await self.threads.run(read)
        vectors = await self.encode(inputs, meter, activation=options.activation, adapter=options.adapter)
        return [float(score[0]) for score in vectors]

    async def _cosines(
        self, pairs: Sequence[tuple[str, str]], names: Sequence[tuple[str, str]], meter: Meter, options: ScoreOptions
    ) -> list[float]:
        """Every different text is encoded once: one query has many documents."""
        prompt = self.inputs.prompt(None)
        shortened = await self.threads.run(lambda: self._cut(pairs, options))
        params = {
            text: name
            for pair, both in zip(shortened, names, strict=True)
            for text, name in zip(pair, both, strict=True)
        }
        texts = list(params)
        self._check_capacity(len(texts), names[0][1].partition("[")[0])

        def read() -> list[Input]:
            truncation = options.truncation
            return [self.inputs.text(text, params[text], prompt=prompt, truncation=truncation) for text in texts]

        prompt_prefix = self.inputs.skipped(prompt)
        inputs = await self.threads.run(read)
        found = await self.encode(inputs, meter, prompt_prefix=prompt_prefix, adapter=options.adapter)
        vectors = dict(zip(texts, found, strict=True))
        return [cosines(vectors[one], [vectors[other]])[0] for one, other in shortened]

    def _cut(self, pairs: Sequence[tuple[str, str]], options: ScoreOptions) -> Sequence[tuple[str, str]]:
        """The pairs with each side cut to the tokens that it may have."""
        if options.query_tokens is None and options.document_tokens is None:
            return pairs
        cut = self.inputs.cut_text
        queries = {one: cut(one, options.query_tokens) for one, _ in pairs}  # one query has many documents
        return [(queries[one], cut(other, options.document_tokens)) for one, other in pairs]


async def served_name(context: ServerContext, model: str | None) -> ServedName:
    """Who is asked, loaded first where it is an adapter that was not used yet. RequestError 404 for others."""
    await context.names.load(model)
    return context.names.get(model)


def require_vectors(context: ServerContext) -> Embedder:
    """What encodes texts; RequestError when the model generates them."""
    if context.model.vectors is None:
        raise no_vectors(context.model)
    return context.once(Embedder)


def require_embeddings(context: ServerContext) -> Embedder:
    """What gives embeddings; RequestError for any other model."""
    embedder = require_vectors(context)
    info = context.model
    if info.task != EMBEDDINGS:
        message = f"{info.name!r} ({info.architecture}) gives scores and no embeddings; ask /v1/rerank or /score"
        raise RequestError(message, param="model", code="unsupported_model")
    return embedder
