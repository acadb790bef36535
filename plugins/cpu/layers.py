"""A whole layer, or all layers of a model, as one call.

Operations go to the compiled code as a list, weights by address. Python costs as much as a third of a decoding step
when it calls each small operation by itself, and a tenth when it calls each layer.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from maxserve.architectures.layers import Linear, OffsetRMSNorm, RMSNorm
from maxserve.interfaces.adapter import Correction, LowRank
from maxserve.interfaces.attention import Attention
from maxserve.interfaces.errors import Unavailable
from maxserve.interfaces.inputs import AdapterRows
from maxserve.interfaces.layer_compiler import LayerContext
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import HasParts
from maxserve.plugins.cpu.attention import NativeAttention
from maxserve.plugins.cpu.codes import CodePanels
from maxserve.plugins.cpu.drafts import NativeDrafts
from maxserve.plugins.cpu.library import Library, library_for, only_float32, rows
from maxserve.plugins.cpu.panels import Panels
from maxserve.plugins.cpu.tracing import Operation, Reading, UnknownError

log = logging.getLogger("maxserve.native")

KINDS = {"NORM": 0, "LINEAR": 1, "ROPE": 2, "ATTEND": 3, "GATE": 4, "ADD": 5, "JOIN": 6}
NOTHING = -1
MOST_PARTS = 8  # of a projection that adapters correct
KEPT_ARENA = 4 << 20  # floats


class _Operation(ctypes.Structure):
    """`Operation` of layers.cpp."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("operands", ctypes.c_int64 * 3),
        ("offsets", ctypes.c_int64 * 3),
        ("out", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * 7),
        ("addresses", ctypes.c_int64 * 3),
        ("number", ctypes.c_double),
        ("cap", ctypes.c_double),
    )


class _Listing(ctypes.Structure):
    """`Program` of layers.cpp."""

    _fields_ = (
        ("operations", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("widths", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
    )


class _LowRank(ctypes.Structure):
    """`LowRank` of low_rank.h."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("down", "up", "ranks", "down_step", "up_step", "inputs", "outputs", "parts", "in_bfloat16")
        ),
        ("sizes", ctypes.c_int64 * MOST_PARTS),
    )


FRAME = 10  # numbers of a `Frame` of layers.cpp


class NativeLayers:
    """A CompilesLayers for layers of norms, projections, rope, attention, gates, sums and joints.

    It is a CompilesStacks, and a CompilesCorrections for products of low rank.
    """

    def __init__(self, context: LayerContext) -> None:
        only_float32(context)
        self._library = library_for(context)
        self._arena = Arena()
        self._said = False

    def compile(self, layer: nn.Module, attention: Attention) -> Callable[..., Tensor] | None:
        if not isinstance(attention, (NativeAttention, HasParts)):
            return None
        try:
            return _Layer(self._library, self._arena, Program(Reading(layer), attention, self._arena), layer)
        except (UnknownError, Unavailable) as error:
            if not self._said:
                log.info("layers of class %s run as they are written: %s", type(layer).__name__, error)
            self._said = True
            return None

    def corrects(self, correction: Correction) -> bool:
        if not isinstance(correction, LowRank) or len(correction.parts) > MOST_PARTS:
            return False
        rounded = self._library.ms_dot_units() and correction.down.dtype == torch.bfloat16
        return correction.up.dtype == correction.down.dtype and (rounded or correction.down.dtype == torch.float32)

    def compile_stack(
        self, calls: Sequence[Callable[..., Tensor]]
    ) -> Callable[[Tensor, Sequence[StepContext]], Tensor] | None:
        layers = [call for call in calls if isinstance(call, _Layer)]
        programs = [layer.program for layer in layers]
        if len(programs) < len(calls) or len({d for p in programs for d in (p.inputs, p.dim)}) != 1:
            return None
        return _Stack(self._library, self._arena, programs, layers)

    def compile_drafts(self, call: Callable[..., Tensor]) -> NativeDrafts | None:
        if not isinstance(call, _Layer) or not call.program.makes_rows_alone:
            return None
        return NativeDrafts(self._library, self._arena, call.program)


class Arena:
    """Memory for what a layer computes on the way; all layers use the same.

    What a long prompt needs beyond KEPT_ARENA is kept until the last layer has run, and not for one layer each: memory
    that the system gives anew costs a fault for every page of it.
    """

    def __init__(self) -> None:
        self._kept = self._lent = torch.empty(0)
        self._layers = 0

    def enrol(self) -> int:
        """The number of a layer that will use this."""
        self._layers += 1
        return self._layers

    def take(self, size: int) -> Tensor:
        """At least `size` floats, good until the next call."""
        if size > KEPT_ARENA:
            if size > len(self._lent):
                self._lent = torch.empty(size)
            return self._lent
        if size > len(self._kept):
            self._kept = torch.empty(min(size + size // 4, KEPT_ARENA))
        return self._kept

    def done(self, number: int) -> None:
        """The layer of that number has run."""
        if number == self._layers:
            self._lent = torch.empty(0)


class Program:
    """The operations of one layer."""

    def __init__(self, reading: Reading, attention: NativeAttention | HasParts, arena: Arena) -> None:
        self.attention = _attention_for(reading, attention)
        operations = _fused(reading)
        self.inputs, self.dim = reading.widths[:2]
        starts, self.width = _layout(operations, reading.widths)
        self._widths = (ctypes.c_int64 * len(starts))(*reading.widths)
        self._starts = (ctypes.c_int64 * len(starts))(*starts)
        self._factors: list[Tensor] = []  # made here, whose addresses the operations have
        self._corrections: list[tuple[_LowRank, LowRank]] = []  # likewise
        self._operations = (_Operation * len(operations))(*(self._encoded(o) for o in operations))
        self._modules = [o.module for o in operations]  # whose weights the addresses are
        self.rope = any(o.kind == "ROPE" for o in operations)
        self.behind_attention = max((i + 1 for i, o in enumerate(operations) if o.kind == "ATTEND"), default=0)
        before, behind = operations[: self.behind_attention], operations[self.behind_attention :]
        # Whether what is behind the attention needs no rows but those whose outcome is wanted.
        self.makes_rows_alone = all(o.out != 1 for o in before) and all(o.kind != "ROPE" for o in behind)
        self.number = arena.enrol()  # last: a layer that cannot be compiled does not count

    def listing(self) -> _Listing:
        """What layers.cpp reads; alive as long as this."""
        widths, starts = ctypes.addressof(self._widths), ctypes.addressof(self._starts)
        return _Listing(ctypes.addressof(self._operations), len(self._operations), widths, starts)

    def frame(self, context: StepContext) -> tuple[int, ...]:
        """A Frame of layers.cpp. `context` has rotations, where the layer applies rope."""
        step = self.attention.step
        rotations = _rotations(context) if self.rope else (0, 0)
        return (*rotations, *step.addresses, step.table_step, *_adapted(context.inputs.adapter_rows))

    def _encoded(self, operation: Operation) -> _Operation:
        made = _Operation(kind=KINDS[operation.kind], out=operation.out)
        made.operands[:] = _padded([place.buffer for place in operation.operands], 3)
        made.offsets[:] = _padded([place.offset for place in operation.operands], 3, 0)
        sizes, addresses, made.number = self._resources(operation)
        made.sizes[:] = _padded(sizes, 7, 0)
        made.addresses[:] = _padded(addresses, 3, 0)
        made.cap = self.attention.cap(operation.layer) if operation.kind == "ATTEND" else 0.0
        return made

    def _resources(self, operation: Operation) -> tuple[Sequence[int], Sequence[int], float]:
        """Sizes, addresses and a number as layers.cpp reads them for that kind."""
        module = operation.module
        if isinstance(module, Linear):
            if not isinstance(module.packed, (Panels, CodePanels)):
                raise UnknownError("its weights are stored in another way")
            bias = 0 if module.bias is None else module.bias.data_ptr()
            addresses = (module.packed.address, bias, self._correction_of(module))
            return (module.inputs, module.outputs, module.packed.kind), addresses, 0.0
        if isinstance(module, RMSNorm):
            return operation.sizes, (self._factors_of(module).data_ptr(),), operation.number
        if operation.kind == "ATTEND":
            return self.attention.resources(operation.layer, heads=operation.operands[0].shape[0])
        return operation.sizes, (), operation.number

    def _correction_of(self, linear: Linear) -> int:
        """The address of what adapters change in the outcome, 0 for nothing."""
        low_rank = None if linear.correction is None else linear.correction.correction
        if low_rank is None:
            return 0
        assert isinstance(low_rank, LowRank), "the others are not offered"
        low_rank.lay_in_panels()
        made = _LowRank(
            down=low_rank.down.data_ptr(),
            up=low_rank.up.data_ptr(),
            ranks=low_rank.ranks.data_ptr(),
            down_step=low_rank.down.stride(0),
            up_step=low_rank.up.stride(0),
            inputs=linear.inputs,
            outputs=linear.outputs,
            parts=len(low_rank.parts),
            in_bfloat16=low_rank.down.dtype == torch.bfloat16,
        )
        made.sizes[:] = _padded(low_rank.parts, MOST_PARTS, 0)
        self._corrections.append((made, low_rank))
        return ctypes.addressof(made)

    def _factors_of(self, norm: RMSNorm) -> Tensor:
        """What a norm multiplies by, [dim], which lives as long as this."""
        factors = norm.factors() if isinstance(norm, OffsetRMSNorm) else norm.weight
        self._factors.append(factors)
        return factors


class _Stack:
    """Programs that run one after another in one call."""

    def __init__(
        self, library: Library, arena: Arena, programs: Sequence[Program], layers: Sequence[_Layer] = ()
    ) -> None:
        self._library, self._arena, self._programs, self._layers = library, arena, programs, layers
        self._listings = (_Listing * len(programs))(*(program.listing() for program in programs))
        self._frames = np.zeros((len(programs), FRAME), dtype=np.int64)
        self._kept = np.zeros(len(programs), dtype=np.int64)  # where outputs go that are wanted
        self._one_attention = len({id(program.attention) for program in programs}) == 1
        self._roped = next((program for program in programs if program.rope), programs[0])
        self._dim = programs[0].dim
        self._between = -(-2 * self._dim // 16) * 16  # floats a token for what layers hand on
        self._width = max(program.width for program in programs)

    def __call__(self, x: Tensor, contexts: Sequence[StepContext]) -> Tensor:
        """[T, inputs] to [T, dim]. Each layer has a context."""
        return self.keeping(x, contexts, [])[0]

    def keeping(self, x: Tensor, contexts: Sequence[StepContext], layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The same, and the outputs [T, dim] of some layers before the last one."""
        if self._layers and x.shape[1] != self._programs[0].inputs:  # they say what they make of it
            outputs = []
            for layer, context in zip(self._layers, contexts, strict=True):
                x = layer(x, context)
                outputs.append(x)
            return x, [outputs[layer] for layer in layers]
        if not x.shape[0]:  # an empty step, of which the attention knows nothing
            return x[:, : self._dim], [x[:, : self._dim] for _ in layers]
        self._fill(contexts)
        x = rows(x).contiguous()
        tokens = x.shape[0]
        out = torch.empty(tokens, self._dim)
        kept = [torch.empty(tokens, self._dim) for _ in layers]
        if layers:
            self._kept[list(layers)] = [each.data_ptr() for each in kept]
        arena = self._arena.take((self._between + self._width) * tokens)
        self._library.ms_layers(
            self._listings,
            self._frames.ctypes.data,
            len(self._programs),
            x.data_ptr(),
            out.data_ptr(),
            arena.data_ptr(),
            arena.data_ptr() + self._between * tokens * arena.itemsize,
            self._kept.ctypes.data,
            tokens,
            self._programs[0].attention.step.sequences,
        )
        if layers:
            self._kept[list(layers)] = 0
        self._arena.done(self._programs[-1].number)
        return out, kept

    def _fill(self, contexts: Sequence[StepContext]) -> None:
        """Frames of the step; layers of one rope and one attention have the same."""
        first = contexts[0]
        if self._one_attention and all(context is first for context in contexts):
            self._frames[:] = self._roped.frame(first)
            return
        for row, program, context in zip(self._frames, self._programs, contexts, strict=True):
            row[:] = program.frame(context)


class _Layer:
    """One program, called as its layer is, which runs as it was written where its input has another width than read."""

    def __init__(self, library: Library, arena: Arena, program: Program, written: nn.Module) -> None:
        self.program, self._written = program, written
        self._alone = _Stack(library, arena, [program])

    def __call__(self, x: Tensor, context: StepContext) -> Tensor:
        if x.shape[1] != self.program.inputs:
            found: Tensor = self._written(x, context)
            return found
        return self._alone(x, (context,))


def _adapted(rows: AdapterRows | None) -> tuple[int, int, int]:
    """Rows by adapter: their numbers, the groups that they are in, and how many of these there are."""
    return (0, 0, 0) if rows is None else (rows.order.data_ptr(), rows.groups.ctypes.data, len(rows.groups))


def _rotations(context: StepContext) -> tuple[int, int]:
    """Where cosines and sines lie, and the width they rotate."""
    assert context.rotations is not None
    return context.rotations.data_ptr(), context.rotations.shape[-1]


def _attention_for(reading: Reading, attention: NativeAttention | HasParts) -> NativeAttention:
    """What attends for the layer; of an attention in parts, the part, by whose numbers operations now name layers."""
    if isinstance(attention, NativeAttention):
        return attention
    places = [
        (operation, *attention.of(operation.layer)) for operation in reading.operations if operation.kind == "ATTEND"
    ]
    parts = {id(part): part for _, part, _ in places}
    found = next(iter(parts.values())) if parts else attention.of(0)[0]
    if len(parts) > 1 or not isinstance(found, NativeAttention):
        raise UnknownError("its attention is not the native one, or is of several groups of layers")
    for operation, _, place in places:
        operation.layer = place
    return found


def _padded(values: Sequence[int], length: int, filler: int = NOTHING) -> list[int]:
    return [*values, *[filler] * (length - len(values))]


def _fused(reading: Reading) -> list[Operation]:
    """A sum whose second operand a projection has just made becomes part of the projection."""
    fused: list[Operation] = []
    for operation in reading.operations:
        before = fused[-1] if fused else None
        if operation.kind == "ADD" and operation.number == 1.0 and before is not None and before.kind == "LINEAR":
            others = [place for place in operation.operands if place.buffer != before.out]
            if len(others) == 1 and not _used(reading, before.out, besides=operation):
                before.operands.append(others[0])
                before.out = operation.out
                continue
        fused.append(operation)
    return fused


def _used(reading: Reading, buffer: int, *, besides: Operation) -> bool:
    return any(p.buffer == buffer for o in reading.operations if o is not besides for p in o.operands)


def _layout(operations: Sequence[Operation], widths: Sequence[int]) -> tuple[list[int], int]:
    """Where in the arena each buffer starts, in floats per token, and the arena's width; room is used again.

    Every start is a multiple of 16 floats times the tokens, so vectors of a buffer do not share a line with another's.
    """
    last = {place.buffer: i for i, o in enumerate(operations) for place in o.operands}
    starts = [0] * len(widths)
    live: dict[int, tuple[int, int]] = {}  # by buffer: start and end
    total = 0
    for i, operation in enumerate(operations):
        if operation.out > 1:
            size = -(-widths[operation.out] // 16) * 16
            start = _gap(sorted(live.values()), size)
            starts[operation.out] = start
            live[operation.out] = (start, start + size)
            total = max(total, start + size)
        live = {buffer: span for buffer, span in live.items() if last.get(buffer, i) > i}
    return starts, total


def _gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The first place of `size` that no span of `taken` is in."""
    start = 0
    for first, end in taken:
        if first - start >= size:
            break
        start = max(start, end)
    return start
