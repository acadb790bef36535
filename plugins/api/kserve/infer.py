"""POST …/infer: a tensor of texts in, a tensor of texts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maxserve.interfaces.served_names import ServedNames
from maxserve.plugins.api.common.answer import Answer
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.text_route import ResponsePlan
from maxserve.plugins.api.kserve.bodies import InferBody, texts_of, wished
from maxserve.plugins.api.kserve.completing import Completing, named_by
from maxserve.plugins.api.kserve.generate import head_of


class Infer:
    """The `Dialect` of this path, which never streams."""

    def __init__(self, completing: Completing, names: ServedNames) -> None:
        self._completing = completing
        self._names = names

    async def plan(self, body: InferBody, call: Call) -> ResponsePlan:
        await self._names.load(call.path["name"])
        named_by(call.path, self._names)
        texts, outputs = texts_of(body), wished(body)
        generation = await self._completing.begin(texts, body.parameters or {}, call)
        head, shape = head_of(body.id, generation), [len(texts), *body.inputs[0].shape[1:]]

        def whole(answers: Sequence[Answer]) -> dict[str, Any]:
            return {**head, "outputs": [_tensor(name, shape, answers) for name in outputs]}

        return ResponsePlan(generation=generation, whole=whole)


def _tensor(name: str, shape: Sequence[int], answers: Sequence[Answer]) -> dict[str, Any]:
    data = [answer.content if name == "text_output" else answer.finish for answer in answers]
    return {"name": name, "datatype": "BYTES", "shape": list(shape), "data": data}
