"""How do the tensors of a checkpoint get into a model?

Files are mapped into memory and read one tensor at a time, so the peak stays near the size of the model. On a CPU a
tensor that needs no change is not even copied: the parameter is the mapped file. Who serves from mapped weights must
not overwrite the files meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from maxserve.core.components import WeightMap
from maxserve.core.errors import ModelError
from maxserve.core.model.progress import Progress
from maxserve.core.model.safetensors_header import read_header
from maxserve.core.model.weight_plan import Parameters, Read, plan_reads

log = logging.getLogger("maxserve.model")

_TORCH: Mapping[str, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_MAPPED_AT_ONCE = 256 << 20


def load_weights(
    model: nn.Module,
    files: Sequence[str],
    weight_map: WeightMap,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: Progress,
) -> None:
    """Fills `model`, built on the meta device, with the tensors of `files`, as `dtype` on `device`.

    Parameters that modules share stay shared, unless the checkpoint has a tensor of its own for each place and they
    differ. Buffers are left alone: `model.prepare()` makes them. ModelError when names or shapes do not fit.
    """
    parameters = _Loaded(model, dtype, torch.device(device))
    headers = {file: read_header(file) for file in files}
    reads = plan_reads(parameters.shapes, headers, weight_map)
    total = sum(read.size for read in reads) or 1
    progress.phase("Loading weights")
    done = 0
    for file in files:
        for read, tensor in _tensors(file, [read for read in reads if read.file == file], parameters):
            parameters.put(read, tensor)
            done += read.size
            progress.advance(done / total)
    parameters.finish()


def _tensors(file: str, reads: Sequence[Read], parameters: _Loaded) -> Iterator[tuple[Read, torch.Tensor]]:
    """Each read and its tensor; those that will be kept mapped last, through a mapping of their own.

    A mapping and the pages read through it stay as long as one of its tensors does. Tensors that are copied are
    therefore read through mappings that end after a few of them.
    """
    copied = [read for read in reads if not parameters.keeps(read)]
    kept = [read for read in reads if parameters.keeps(read)]
    for group in filter(None, [*_groups(copied), kept]):
        try:
            opened = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise ModelError(f"the weight file {file} is damaged ({error}); fetch it again") from error
        with opened as handle:
            for read in group:
                yield read, handle.get_tensor(read.name)


def _groups(reads: Sequence[Read]) -> Iterator[list[Read]]:
    """The reads in groups of about `_MAPPED_AT_ONCE` bytes."""
    group: list[Read] = []
    for read in reads:
        group.append(read)
        if sum(each.size for each in group) >= _MAPPED_AT_ONCE:
            yield group
            group = []
    yield group


class _Loaded:
    """The parameters of a model while they are being replaced by loaded ones."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._places = _places(model)
        self._ready: dict[str, torch.Tensor] = {}
        self._second: dict[str, torch.Tensor] = {}  # by place
        self.shapes = Parameters(
            shapes={names[0]: tuple(parameter.shape) for names, parameter in self._places},
            aliases={name: names[0] for names, _ in self._places for name in names},
            buffers=frozenset(name for name, _ in model.named_buffers()),
        )
        self._model = model

    def keeps(self, read: Read) -> bool:
        """Whether the mapped tensor itself becomes the parameter."""
        return read.offset is None and self._device.type == "cpu" and _TORCH.get(read.dtype) == self._dtype

    def put(self, read: Read, tensor: torch.Tensor) -> None:
        """Takes one tensor: a whole parameter, or the rows of a fused one from `read.offset` on."""
        if read.place is not None:
            self._second[read.place] = tensor.to(device=self._device, dtype=self._dtype)
            return
        if read.offset is None:
            self._ready[read.target] = tensor.to(device=self._device, dtype=self._dtype)
            return
        whole = self._ready.get(read.target)
        if whole is None:
            shape = self.shapes.shapes[read.target]
            whole = self._ready[read.target] = torch.empty(shape, dtype=self._dtype, device=self._device)
        whole[read.offset : read.offset + tensor.shape[0]].copy_(tensor)

    def finish(self) -> None:
        """Puts every tensor where the model has its parameter, at each of the places that share it."""
        for names, _ in self._places:
            shared = self._ready.pop(names[0])
            parameter = nn.Parameter(shared, requires_grad=False)
            for name in names:
                module, _, attribute = name.rpartition(".")
                own = self._own(name, shared)
                value = parameter if own is None else nn.Parameter(own, requires_grad=False)
                setattr(self._model.get_submodule(module), attribute, value)

    def _own(self, name: str, shared: torch.Tensor) -> torch.Tensor | None:
        """The tensor the checkpoint has for this place alone, if it is not the shared one once more."""
        second = self._second.pop(name, None)
        if second is None or torch.equal(second, shared):
            return None
        log.warning("config.json ties %s to another weight, the checkpoint's own one differs and is used", name)
        return second


def _places(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Each parameter and all names under which modules have it."""
    names: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), ([], parameter))[0].append(name)
    return list(names.values())
