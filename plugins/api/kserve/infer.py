"""POST …/infer: a tensor of texts in, a tensor of texts out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response

from maxserve.interfaces.engine import ModelInfo
from maxserve.plugins.api.common.answering import Generation
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.parts import Answer, answers
from maxserve.plugins.api.kserve.bodies import InferBody, texts_of, wished
from maxserve.plugins.api.kserve.completing import Completing, check_model
from maxserve.plugins.api.kserve.generate import head_of


class Infer:
    """The `run` of an `Endpoint`."""

    def __init__(self, completing: Completing, info: ModelInfo) -> None:
        self._completing = completing
        self._info = info

    async def answer(self, body: InferBody, call: Call) -> Response:
        check_model(call.path, self._info)
        texts, outputs = texts_of(body), wished(body)
        generation = await self._completing.begin(texts, body.parameters or {}, call)
        gathered = await _gathered(generation, call)
        shape = [len(texts), *body.inputs[0].shape[1:]]
        tensors = [_tensor(name, shape, gathered) for name in outputs]
        answer = {**head_of(body.id, self._info, generation.warnings), "outputs": tensors}
        call.meter.finish(200)
        return Response(msgspec.json.encode(answer), media_type="application/json")


async def _gathered(generation: Generation, call: Call) -> list[Answer]:
    gathered = answers(len(generation.job.requests))
    async with aclosing(generation.parts) as parts:
        async for index, part in parts:
            call.meter.piece(index, part.piece)
            gathered[index].add(part)
    return gathered


def _tensor(name: str, shape: Sequence[int], gathered: Sequence[Answer]) -> dict[str, Any]:
    data = [answer.content if name == "text_output" else answer.finish for answer in gathered]
    return {"name": name, "datatype": "BYTES", "shape": list(shape), "data": data}
