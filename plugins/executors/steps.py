"""Steps of a model that several ranks share: the first sends what each shall compute, and the others compute it.

Ranks meet within the forward pass: all must run the same steps in the same order, which is that of the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
import torch

from maxserve.adapters import rows_by_slot
from maxserve.interfaces.architecture import SharesEmbedding
from maxserve.interfaces.inputs import StepInputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.architecture import Model
    from maxserve.interfaces.inputs import AdapterRows
    from maxserve.interfaces.memory import PlannedMemory
    from maxserve.interfaces.runner import ModelOutput, Runner
    from maxserve.interfaces.step_context import StepContext


Array: TypeAlias = "NDArray[Any]"
Frame = bytes  # of a message
Kind: TypeAlias = Literal["plan", "run", "logits", "embed", "adapter", "copies", "end"]
NO_SLOTS: Array = np.zeros(0, dtype=np.int64)
T = TypeVar("T")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What the frames behind it are for, and the type and shape of the array in each."""

    kind: Kind
    arrays: tuple[tuple[str, tuple[int, ...]], ...] = ()


class SharedPlan(msgspec.Struct, kw_only=True):
    """A PlannedMemory as it travels: ranks have as many pages each, of their own heads."""

    max_batch_size: int
    max_length: int
    pages: int
    page_size: int
    page_bounds: tuple[int | None, ...]
    soft_pages: int | None
    host_pages: int
    warnings: tuple[str, ...] = ()

    def table(self) -> str:
        return f"as the first rank has planned it: {self.pages} pages"


class Followers(Protocol):
    """The other ranks, as the first sees them."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Sends each of them a message."""

    def fail(self, error: Exception) -> NoReturn:
        """Ends all ranks: they have not computed the same."""
        ...


class LeadingRunner:
    """A Runner of the first rank, which tells the others what it computes before it does.

    An error of its own comes after they have begun, and would leave them waiting in the middle of a step.
    """

    def __init__(self, runner: Runner, followers: Followers) -> None:
        self._runner = runner
        self._followers = followers

    def run(self, inputs: StepInputs) -> ModelOutput:
        self._followers.send(encode_inputs(inputs))
        return met(self._followers, lambda: self._runner.run(inputs))

    def logits(self, hidden: torch.Tensor, *slots: Any) -> torch.Tensor:
        """`slots` are those of the rows' adapters, where there are adapters."""
        self._followers.send(_message("logits", [_on_host(hidden), *(NO_SLOTS if s is None else s for s in slots)]))
        return met(self._followers, lambda: self._runner.logits(hidden, *slots))


def met(followers: Followers, compute: Callable[[], T]) -> T:
    """What the first rank computes with the others."""
    try:
        return compute()
    except Exception as error:
        followers.fail(error)


class LentModel:
    """The first rank's model as its drafter calls it: SharesEmbedding where that does, but has no head of its own."""

    def __init__(self, model: Model, followers: Followers) -> None:
        self._model, self._followers = model, followers

    def prepare(self) -> None:
        self._model.prepare()

    def forward(self, step: StepContext) -> torch.Tensor:
        raise NotImplementedError("steps of the model are its runner's")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self._followers.send(_message("logits", [_on_host(hidden)]))
        return met(self._followers, lambda: self._model.logits(hidden))


class LentTable(LentModel):
    """The same of a model that SharesEmbedding."""

    def __init__(self, model: Model, followers: Followers, embed: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(model, followers)
        self._embed = embed

    def get_input_embeddings(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self._rows

    def _rows(self, ids: torch.Tensor) -> torch.Tensor:
        self._followers.send(_message("embed", [_on_host(ids)]))
        return met(self._followers, lambda: self._embed(ids))


def lent(model: Model, followers: Followers) -> LentModel:
    embed = table_of(model)
    return LentModel(model, followers) if embed is None else LentTable(model, followers, embed)


def table_of(model: Model) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What makes rows of token ids."""
    return model.get_input_embeddings() if isinstance(model, SharesEmbedding) else None


class Beside(msgspec.Struct, kw_only=True):
    """What a rank does beside steps: rows of its part of the table, adapters that it is given, copies of pages."""

    embed: Callable[[torch.Tensor], torch.Tensor] | None = None
    take: Callable[[int, bytes], None] | None = None
    copy: Callable[[bool, Sequence[tuple[int, int]]], None] | None = None


@torch.inference_mode()
def follow(runner: Runner, receive: Callable[[], Sequence[bytes]], beside: Beside | None = None) -> None:
    """Computes what the first rank sends, until that is the end."""
    beside = beside or Beside()
    while True:
        header, *arrays = receive()
        read = msgspec.msgpack.decode(header, type=Header)
        if read.kind == "end":
            return
        found = _arrays(read, arrays)
        if read.kind == "run":
            runner.run(decode_inputs(found))
        elif read.kind == "adapter":
            assert beside.take is not None, "this rank serves no adapters"
            beside.take(int(found[0][0]), found[1].tobytes())
        elif read.kind == "copies":
            assert beside.copy is not None, "this rank keeps no copies"
            beside.copy(bool(found[0][0]), [(int(page), int(kept)) for page, kept in found[1]])
        elif read.kind == "embed":
            assert beside.embed is not None, "this rank's model has no table that it shares"
            beside.embed(torch.from_numpy(found[0]))
        else:
            runner.logits(torch.from_numpy(found[0]), *found[1:])


def encode_inputs(inputs: StepInputs) -> list[Frame]:
    """A step of text."""
    assert not inputs.images, "ranks do not share models that take images"
    assert inputs.mrope_positions is None, "nor those whose positions have several axes"
    own: list[Array] = [
        *(inputs.query_start, inputs.seq_lens, inputs.prompt_lens, inputs.block_tables),
        *map(_on_host, (inputs.input_ids, inputs.positions, inputs.slot_mapping, inputs.logit_rows)),
        *map(_slots, (inputs.adapter_rows, inputs.logit_adapter_rows)),
    ]
    groups = [array for group in inputs.groups for array in (_on_host(group.slot_mapping), group.block_tables)]
    return _message("run", [*own, *groups])


def decode_inputs(arrays: Sequence[Array]) -> StepInputs:
    """The step that `encode_inputs` was given."""
    query_start, seq_lens, prompt_lens, block_tables, *tensors = arrays
    input_ids, positions, slot_mapping, logit_rows = map(torch.from_numpy, tensors[:4])
    adapter_rows, logit_adapter_rows = (rows_by_slot(slots, input_ids.device) for slots in tensors[4:6])
    inputs = StepInputs(
        input_ids=input_ids,
        positions=positions,
        slot_mapping=slot_mapping,
        query_start=query_start,
        seq_lens=seq_lens,
        prompt_lens=prompt_lens,
        block_tables=block_tables,
        logit_rows=logit_rows,
        adapter_rows=adapter_rows,
        logit_adapter_rows=logit_adapter_rows,
    )
    own = zip(tensors[6::2], tensors[7::2], strict=True)
    inputs.groups = tuple(
        replace(inputs, slot_mapping=torch.from_numpy(mapping), block_tables=tables) for mapping, tables in own
    )
    return inputs


def encode_plan(plan: PlannedMemory) -> list[Frame]:
    fields = {name: getattr(plan, name) for name in SharedPlan.__struct_fields__}
    return [*_message("plan", []), msgspec.msgpack.encode(SharedPlan(**fields))]


def decode_plan(frames: Sequence[bytes]) -> SharedPlan:
    return msgspec.msgpack.decode(frames[1], type=SharedPlan)


def encode_adapter(slot: int, data: bytes) -> list[Frame]:
    return _message("adapter", [np.array([slot]), np.frombuffer(data, dtype=np.uint8)])


def encode_copies(to_host: bool, pairs: Sequence[tuple[int, int]]) -> list[Frame]:
    return _message("copies", [np.array([to_host]), np.array(pairs, dtype=np.int64)])


def encode_end() -> list[Frame]:
    return _message("end", [])


def _slots(rows: AdapterRows | None) -> Array:
    return NO_SLOTS if rows is None else _on_host(rows.adapter_slots)


def _message(kind: Kind, arrays: Sequence[Array]) -> list[Frame]:
    whole = [np.ascontiguousarray(array) for array in arrays]
    header = Header(kind=kind, arrays=tuple((array.dtype.str, array.shape) for array in whole))
    return [msgspec.msgpack.encode(header), *(array.tobytes() for array in whole)]


def _arrays(header: Header, frames: Sequence[bytes]) -> list[Array]:
    return [
        np.frombuffer(bytearray(frame), dtype=dtype).reshape(shape)
        for (dtype, shape), frame in zip(header.arrays, frames, strict=True)
    ]


def _on_host(tensor: torch.Tensor) -> Array:
    array: Array = tensor.cpu().numpy()
    return array
