"""The operations of a layer, traced. Its code is traced by torch.fx and read as operations that the sources know.

Values of a trace are places in buffers: so many floats per token, an offset, a shape and steps. Slicing and viewing
move places around and cost nothing when the layer runs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, cast

import msgspec
import torch
from torch import fx, nn
from torch.nn import functional as F

from maxserve.architectures.layers import Linear, OffsetRMSNorm, RMSNorm

LEAVES = (Linear, RMSNorm, OffsetRMSNorm)
ACTIVATIONS: Mapping[Callable[..., Any], int] = {F.silu: 0, torch.relu: 2, F.relu: 2}
TANH_GELU = 1


class UnknownError(Exception):
    """The layer does something that no operation stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A value [T, *shape] in a buffer; `steps` are the floats between neighbours along each axis of `shape`."""

    buffer: int
    offset: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def dense(self) -> bool:
        """Whether the value of a token lies together."""
        return self.steps == _dense_steps(self.shape)


class Operation(msgspec.Struct, kw_only=True):
    """One operation: `kind` as the source names it, its operands, and what it makes."""

    kind: str
    operands: list[Place]
    out: int
    sizes: tuple[int, ...] = ()
    module: nn.Module | None = None
    layer: int = 0
    number: float = 0.0


class _Tokens:
    """Stands for T, the number of tokens, wherever a trace speaks of it."""


TOKENS = _Tokens()


class _Activated(msgspec.Struct, frozen=True):
    """An activation that waits for what it gates."""

    place: Place
    number: int


class _Scaled(msgspec.Struct, frozen=True):
    """A value times a number, which waits for what it is added to."""

    place: Place
    number: float


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LEAVES  # a class that derives from one may compute something else


class Reading:
    """Reads a layer: its operations in order, with the floats per token of each buffer (0: input, 1: output)."""

    def __init__(self, layer: nn.Module) -> None:
        self.operations: list[Operation] = []
        self.widths: list[int] = [0, 0]
        self._layer = layer
        self._values: dict[fx.Node, Any] = {}
        try:
            graph = _Tracer().trace(layer)
        except Exception as error:  # whatever the layer does with what is no tensor
            raise UnknownError(f"it cannot be traced: {error}") from error
        self._inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(self._inputs) != 2:
            raise UnknownError("it takes other arguments than (x, step)")
        self._step = self._inputs[1]
        try:
            self._read_all(graph)
        except UnknownError:
            raise
        except Exception as error:  # arguments of another kind than they have in layers that are known
            raise UnknownError(f"it cannot be read: {error}") from error

    def _read_all(self, graph: fx.Graph) -> None:
        self._values[self._inputs[0]] = Place(buffer=0, offset=0, shape=(self._dim(graph),), steps=(1,))
        self.widths[0] = self.widths[1] = self._values[self._inputs[0]].size
        for node in graph.nodes:
            self._read(node)

    def _dim(self, graph: fx.Graph) -> int:
        """The width of the layer's input, as the first module that gets it, or an even part of it, has it.

        Whether parts are even is only known where rows are there: callers compare.
        """
        parts: dict[Any, int] = {self._inputs[0]: 1}  # nodes that are the input, or one of so many parts of it
        for node in graph.nodes:
            source = parts.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
            if source is None:
                continue
            if node.op == "call_method" and node.target == "chunk" and len(node.args) > 1:
                parts[node] = source * cast("int", node.args[1])
            elif node.target is operator.getitem and cast("fx.Node", node.args[0]).target == "chunk":
                parts[node] = source
            elif node.op == "call_module":
                module = self._layer.get_submodule(str(node.target))
                if isinstance(module, Linear):
                    return source * module.inputs
                if isinstance(module, RMSNorm):
                    return source * int(module.weight.shape[0])
        raise UnknownError("nothing in it takes its input")

    def _read(self, node: fx.Node) -> None:
        if node.op == "output":
            self._finish(self._value(node.args[0]))
        elif node.op == "call_module":
            self._values[node] = self._module(self._layer.get_submodule(str(node.target)), self._value(node.args[0]))
        elif node.op == "call_method":
            self._values[node] = self._method(str(node.target), node)
        elif node.op == "call_function":
            self._values[node] = self._function(node)
        elif node.op != "placeholder":
            raise UnknownError(f"it reads {node.target}")

    def _value(self, argument: Any) -> Any:
        return self._values.get(argument, argument) if isinstance(argument, fx.Node) else argument

    def _place(self, argument: Any) -> Place:
        value = self._value(argument)
        if not isinstance(value, Place):
            raise UnknownError("it computes with something that is not one value a token")
        return value

    def _made(self, kind: str, operands: list[Place], shape: tuple[int, ...], **rest: Any) -> Place:
        self.widths.append(prod(shape))
        out = len(self.widths) - 1
        self.operations.append(Operation(kind=kind, operands=operands, out=out, **rest))
        return Place(buffer=out, offset=0, shape=shape, steps=_dense_steps(shape))

    # --- what the nodes of a trace become ---------------------------------------------------------------------------

    def _module(self, module: nn.Module, x: Any) -> Place:
        if not isinstance(x, Place):
            raise UnknownError("a module gets something that is not one value a token")
        if isinstance(module, Linear):
            if not x.dense or x.shape != (module.inputs,):
                raise UnknownError("a projection gets rows that do not lie together")
            return self._made("LINEAR", [x], (module.outputs,), module=module)
        assert isinstance(module, RMSNorm)
        dim = int(module.weight.shape[0])
        if x.shape[-1] != dim or x.steps[-1] != 1 or len(x.shape) > 2:
            raise UnknownError("a norm gets rows of another size")
        rows, step = (x.shape[0], x.steps[0]) if len(x.shape) == 2 else (1, 0)
        return self._made("NORM", [x], x.shape, module=module, sizes=(rows, dim, step), number=module.eps)

    def _method(self, name: str, node: fx.Node) -> Any:
        if node.args[0] is self._step:
            return self._of_step(name, node)
        x = self._place(node.args[0])
        arguments = [self._value(argument) for argument in node.args[1:]]
        if name in ("view", "reshape"):
            return _viewed(x, arguments)
        if name == "flatten" and arguments == [1] and x.dense:
            return replace(x, shape=(x.size,), steps=(1,))
        if name == "chunk" and node.kwargs.get("dim", arguments[1:2] or None) in (-1, [-1]):
            return _chunks(x, arguments[0])
        raise UnknownError(f"it calls {name}")

    def _of_step(self, name: str, node: fx.Node) -> Place:
        if name == "apply_rope":
            x = self._place(node.args[1])
            if len(x.shape) != 2 or x.steps[1] != 1:
                raise UnknownError("what is rotated has no heads")
            return self._made("ROPE", [x], x.shape, sizes=(*x.shape, x.steps[0]))
        if name == "attend":
            operands = [self._place(argument) for argument in node.args[2:]]
            if len(operands) != 3 or len(node.kwargs):
                raise UnknownError("its attention has sinks")
            q, k, v = operands
            if not all(len(x.shape) == 2 and x.dense for x in operands):
                raise UnknownError("heads of queries, keys or values do not lie together")
            layer = node.args[1]
            if not isinstance(layer, int) or k.shape != v.shape or k.shape[1] != q.shape[1]:
                raise UnknownError("its attention is of another kind")
            return self._made("ATTEND", operands, q.shape, layer=layer)
        raise UnknownError(f"it asks the step for {name}")

    def _function(self, node: fx.Node) -> Any:
        arguments = [self._value(argument) for argument in node.args]
        target: Any = node.target
        if target is getattr and arguments[1] == "shape" and isinstance(arguments[0], Place):
            return (TOKENS, *arguments[0].shape)
        if target is operator.getitem:
            return _item(*arguments)
        if target is torch.cat:
            rows = self._value(node.args[0])  # a list of values, or what a chunk gave
            return self._joined([row if isinstance(row, Place) else self._place(row) for row in rows], node)
        if target in (operator.add, torch.add):
            return self._added(*arguments)
        if target in (operator.mul, torch.mul):
            return self._multiplied(*arguments)
        if target in ACTIVATIONS:
            return _Activated(self._place(node.args[0]), ACTIVATIONS[target])
        if target is F.gelu and node.kwargs.get("approximate") == "tanh":
            return _Activated(self._place(node.args[0]), TANH_GELU)
        raise UnknownError(f"it calls {getattr(target, '__name__', target)}")

    def _added(self, a: Any, b: Any) -> Place:
        """The second operand of a sum is multiplied by the operation's number."""
        if isinstance(a, _Scaled):
            a, b = b, a
        b, number = (b.place, b.number) if isinstance(b, _Scaled) else (b, 1.0)
        if not (isinstance(a, Place) and isinstance(b, Place) and a.shape == b.shape and a.dense and b.dense):
            raise UnknownError("it adds what is not of one shape")
        return self._made("ADD", [a, b], a.shape, sizes=(a.size,), number=number)

    def _joined(self, parts: list[Place], node: fx.Node) -> Place:
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if len(parts) != 2 or axis != -1 or not all(len(x.shape) == 1 and x.dense for x in parts):
            raise UnknownError("it joins something else than two rows")
        sizes = (parts[0].size, parts[1].size)
        return self._made("JOIN", parts, (sum(sizes),), sizes=sizes)

    def _multiplied(self, a: Any, b: Any) -> Any:
        if isinstance(a, int | float):
            a, b = b, a
        if isinstance(a, Place) and isinstance(b, int | float):
            return _Scaled(a, float(b))
        return self._gated(a, b)

    def _gated(self, a: Any, b: Any) -> Place:
        if isinstance(b, _Activated):
            a, b = b, a
        if not (isinstance(a, _Activated) and isinstance(b, Place) and a.place.shape == b.shape):
            raise UnknownError("it multiplies something else than a gate and what it gates")
        if not (a.place.dense and b.dense):
            raise UnknownError("a gate does not lie together")
        return self._made("GATE", [a.place, b], b.shape, sizes=(b.size, a.number))

    def _finish(self, value: Any) -> None:
        """The last operation writes to the output; what is not made here last cannot be the result."""
        last = self.operations[-1] if self.operations else None
        if not isinstance(value, Place) or last is None or value.buffer != last.out or len(value.shape) != 1:
            raise UnknownError("its result is not what it computes last")
        last.out, self.widths[1] = 1, value.size


def _dense_steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _viewed(x: Place, sizes: list[Any]) -> Place:
    sizes = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], tuple) else sizes
    if not x.dense or sizes[0] is not TOKENS or not all(isinstance(size, int) for size in sizes[1:]):
        raise UnknownError("it views a value in another shape than tokens first")
    known = prod(size for size in sizes[1:] if size != -1)
    shape = tuple(x.size // known if size == -1 else size for size in sizes[1:])
    if prod(shape) != x.size:
        raise UnknownError("it views a value in a shape that does not hold it")
    return replace(x, shape=shape, steps=_dense_steps(shape))


def _chunks(x: Place, count: int) -> tuple[Place, ...]:
    size = -(-x.shape[-1] // count)
    starts = range(0, x.shape[-1], size)
    return tuple(_cut(x, len(x.shape) - 1, start, min(size, x.shape[-1] - start)) for start in starts)


def _cut(x: Place, axis: int, start: int, count: int) -> Place:
    shape = tuple(count if i == axis else size for i, size in enumerate(x.shape))
    return replace(x, offset=x.offset + start * x.steps[axis], shape=shape)


def _item(x: Any, index: Any) -> Any:
    if isinstance(x, tuple):
        return x[index]
    indices = index if isinstance(index, tuple) else (index,)
    if not isinstance(x, Place) or indices[0] not in (slice(None), Ellipsis):
        raise UnknownError("it takes tokens apart")
    if indices[0] is Ellipsis and len(indices) == 2:
        indices = (slice(None),) * len(x.shape) + (indices[1],)
    for axis, part in enumerate(indices[1:]):
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise UnknownError("it takes single entries of a value")
        start, stop, _ = part.indices(x.shape[axis])
        x = _cut(x, axis, start, stop - start)
    return x
