"""What may a request in the Open Inference Protocol say? Names are those of version 2 and its generate extension."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.bodies import FAIL_FAST
from maxserve.plugins.api.common.fields import Body

INPUTS = ("text_input", "prompt")
OUTPUTS = ("text_output", "finish_reason")
MOST_PROMPTS = 2048


class InputTensor(Body):
    name: str
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=2), FAIL_FAST]
    datatype: str
    data: Annotated[list[Any], FAIL_FAST] | None = None
    parameters: dict[str, Any] | None = None


class OutputWish(Body):
    name: str
    parameters: dict[str, Any] | None = None


class InferBody(Body):
    """Texts to be continued, as one tensor of them; `parameters` are the fields of plain completions."""

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=1), FAIL_FAST]
    outputs: Annotated[list[OutputWish], FAIL_FAST] | None = None


class GenerateBody(Body):
    """One text to be continued. Fields of plain completions may stand in `parameters` or beside them."""

    id: str | None = None
    text_input: str
    parameters: dict[str, Any] | None = None


class Fields(Body):
    """The `parameters` of a request, before it is known what they mean."""


def texts_of(body: InferBody) -> list[str]:
    """The texts of the one tensor that holds them. RequestError for any other."""
    if len(body.inputs) > 1:
        raise RequestError("inputs: one tensor is taken, with a text for each prompt", param="inputs")
    tensor = body.inputs[0]
    if tensor.name not in INPUTS:
        message = f"inputs[0].name: must be {' or '.join(INPUTS)}, got {tensor.name[:64]!r}"
        raise RequestError(message, param="inputs[0].name")
    if tensor.datatype != "BYTES":
        message = f"inputs[0].datatype: must be BYTES, got {tensor.datatype[:64]!r}"
        raise RequestError(message, param="inputs[0].datatype")
    if tensor.data is None or (tensor.parameters or {}).get("binary_data_size") is not None:
        message = "inputs[0].data: needed as JSON; binary tensors are not supported"
        raise RequestError(message, param="inputs[0].data")
    return _checked(_flat(tensor.data), tensor.shape)


def wished(body: InferBody) -> tuple[str, ...]:
    """The outputs to be given: all, unless some are named. RequestError for an unknown one, or a binary one."""
    for index, wish in enumerate(body.outputs or ()):
        if wish.name not in OUTPUTS:
            message = f"outputs[{index}].name: must be {' or '.join(OUTPUTS)}, got {wish.name[:64]!r}"
            raise RequestError(message, param=f"outputs[{index}].name")
        if (wish.parameters or {}).get("binary_data"):
            where = f"outputs[{index}].parameters.binary_data"
            raise RequestError(f"{where}: binary tensors are not supported", param=where)
    return tuple(dict.fromkeys(wish.name for wish in body.outputs)) if body.outputs else OUTPUTS


def _flat(data: list[Any]) -> list[Any]:
    """The elements of a tensor that is written flat, or row by row."""
    return [item for row in data for item in (row if isinstance(row, list) else [row])]


def _checked(texts: list[Any], shape: list[int]) -> list[str]:
    if len(shape) == 2 and shape[1] != 1:
        raise RequestError(f"inputs[0].shape: must be [n] or [n, 1], got {shape}", param="inputs[0].shape")
    if shape[0] != len(texts):
        message = f"inputs[0].shape: says {shape[0]} texts, and data has {len(texts)}"
        raise RequestError(message, param="inputs[0].shape")
    if not 0 < len(texts) <= MOST_PROMPTS:
        raise RequestError(f"inputs[0].data: 1 to {MOST_PROMPTS} texts are taken", param="inputs[0].data")
    if not all(isinstance(text, str) for text in texts):
        raise RequestError("inputs[0].data: must be strings", param="inputs[0].data")
    return texts
