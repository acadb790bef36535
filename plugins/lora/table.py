"""The slots of LoRA adapters, and what fills them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maxserve.interfaces.adapter import AdapterContext, Location, Projection
from maxserve.interfaces.errors import ModelError, RequestError, SettingsError
from maxserve.plugins.lora.folders import NAMES, is_name, real_folder
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.plugins.lora.peft import Factors, read_adapter, refused

if TYPE_CHECKING:
    from maxserve.interfaces.inputs import AdapterRows

log = logging.getLogger("maxserve.lora")

RANKS = 16  # ranks in slots are multiples of it
LARGEST_ITEM = 8  # bytes of a number in a file
SPARE = 16 << 20  # bytes for names, and to name what is wrong with an adapter that is somewhat too large

Parts = dict[int, Factors]  # of a projection, by the number of the part


@dataclass(frozen=True, slots=True)
class Packed:
    """What fills a slot of one projection: down [inputs, parts, rank] and up [rank, outputs]."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[0]


class LoRACorrection:
    """A LowRank. Adds x · down · up of the slot to each row that has one."""

    def __init__(self, projection: Projection, slots: int, rank: int, context: AdapterContext) -> None:
        self.parts = part_sizes(projection)
        self._ends = _ends(self.parts)
        self._inputs, self._outputs = projection.inputs, projection.outputs
        dtype, device, width = context.compute, context.device, len(self.parts) * rank
        self.down = torch.zeros(slots, projection.inputs * width, dtype=dtype, device=device)
        self.up = torch.zeros(slots, projection.outputs * rank, dtype=dtype, device=device)
        self.ranks = torch.zeros(slots, dtype=torch.int64)

    def place(self, packed: Packed | None, slot: int) -> None:
        """Has the slot hold this; None: its adapter changes nothing here."""
        index = slot - 1
        self.ranks[index] = 0 if packed is None else packed.rank
        if packed is not None:
            self.down[index, : packed.down.numel()] = packed.down.flatten()
            self.up[index, : packed.up.numel()] = packed.up.flatten()

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        for slot, start, stop in rows.groups.tolist():
            rank = int(self.ranks[slot - 1])
            if rank:
                own = rows.order[start:stop]
                out.index_add_(0, own, self._change(x.index_select(0, own), slot - 1, rank).to(out.dtype))
        return out

    def _change(self, x: Tensor, index: int, rank: int) -> Tensor:
        width = len(self.parts) * rank
        made: Tensor = x.to(self.down.dtype) @ self.down[index, : self._inputs * width].view(self._inputs, width)
        up = self.up[index, : self._outputs * rank].view(rank, self._outputs)
        if len(self.parts) == 1:
            return torch.mm(made, up)
        parts = made.view(-1, len(self.parts), rank)
        return torch.cat([parts[:, i] @ up[:, a:b] for i, (a, b) in enumerate(pairwise(self._ends))], dim=-1)


class LoRATable:
    """An AdapterTable of PEFT's folders."""

    def __init__(self, context: AdapterContext) -> None:
        options = context.config(LoRAOptions)
        self._context = context
        self._paths = options.lora_paths
        self._corrections: dict[str, LoRACorrection] = {}
        self._most = options.max_lora_rank
        self._room = -(-options.max_lora_rank // RANKS) * RANKS
        self.slots = options.max_num_loras if options.enable_lora else 0
        if not options.enable_lora and options != LoRAOptions():
            raise SettingsError(
                "--lora-paths, --lora-dir, --max-lora-rank and --max-num-loras mean nothing without --enable-lora; "
                "give that, too, or leave them out"
            )
        if options.lora_dir and not os.path.isdir(os.path.expanduser(options.lora_dir)):
            raise SettingsError(f"--lora-dir: there is no folder {options.lora_dir!r}")

    def initial(self) -> Mapping[str, str]:
        named = [_named(path) for path in self._paths]
        names = [name for name, _ in named]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SettingsError(f"--lora-paths: two adapters have the name {min(twice)}; give them names, NAME=PATH")
        for name, source in named:
            if name != source and not is_name(name):
                raise SettingsError(f"--lora-paths: {name!r} is no name for an adapter; names are {NAMES}")
        return {name: _real(source) for name, source in named}

    def memory(self) -> int:
        return self.slots * self._room * self._values() * self._context.compute.itemsize

    def _values(self) -> int:
        """Numbers of an adapter for all projections, for each of its ranks."""
        projections = self._context.projections.values()
        return sum(each.inputs * len(part_sizes(each)) + each.outputs for each in projections)

    def correction(self, projection: Projection) -> LoRACorrection:
        made = LoRACorrection(projection, self.slots, self._room, self._context)
        self._corrections[projection.name] = made
        return made

    def load(self, name: str, source: str) -> dict[str, Packed]:
        file = read_adapter(source, self._most * self._values() * LARGEST_ITEM + SPARE)
        try:
            found: dict[str, Parts] = {}
            for module, factors in file.factors.items():
                self._add(found, module, factors)
            packed = {name: self._packed(name, parts) for name, parts in found.items()}
        except ModelError as error:
            raise refused(source, str(error)) from error
        log.info("adapter %s: %d projections of %s", name, len(packed), file.base or "an unnamed base model")
        return packed

    def place(self, adapter: dict[str, Packed], slot: int) -> None:
        for name, correction in self._corrections.items():
            correction.place(adapter.get(name), slot)

    def _add(self, found: dict[str, Parts], module: str, factors: Factors) -> None:
        """Adds the factors of a module to the projections that have its weight."""
        places = self._context.locate(module)
        if not places:
            raise ModelError(f"it adapts {module}, and the model has no such projection that can be adapted")
        rank = factors.down.shape[0]
        if rank > self._most:
            raise ModelError(f"the rank of {module} is {rank}; --max-lora-rank allows {self._most}")
        sizes = [self._sizes(place) for place in places]
        outputs = sum(sum(each.values()) for each in sizes)
        inputs = self._context.projections[places[0].projection].inputs
        if factors.up.shape[0] != outputs or factors.down.shape[1] != inputs:
            raise ModelError(
                f"the factors of {module} are for a weight [{factors.up.shape[0]}, {factors.down.shape[1]}]; the model "
                f"has [{outputs}, {inputs}] there"
            )
        start = 0
        for place, own in zip(places, sizes, strict=True):
            up = factors.up[start : start + sum(own.values())]
            start += len(up)
            up = up if place.change is None else place.change(up)
            parts = found.setdefault(place.projection, {})
            for part, rows in zip(own, torch.split(up, [*own.values()]), strict=True):
                if part in parts:
                    raise ModelError(f"two of its modules are the weight of {place.projection}, one of them {module}")
                parts[part] = Factors(factors.down, rows)

    def _sizes(self, place: Location) -> dict[int, int]:
        """The parts that a place is, by number, and their sizes."""
        projection = self._context.projections[place.projection]
        sizes = part_sizes(projection)
        if not place.part:
            return dict(enumerate(sizes))
        index = list(projection.parts).index(place.part)
        return {index: sizes[index]}

    def _packed(self, name: str, parts: Parts) -> Packed:
        projection = self._context.projections[name]
        sizes = part_sizes(projection)
        rank = -(-max(each.down.shape[0] for each in parts.values()) // RANKS) * RANKS
        down = torch.zeros(projection.inputs, len(sizes), rank)
        up = torch.zeros(rank, projection.outputs)
        ends = _ends(sizes)
        for part, own in parts.items():
            count = own.down.shape[0]
            down[:, part, :count] = own.down.T
            up[:count, ends[part] : ends[part + 1]] = own.up.T
        largest = max(down.abs().max().item(), up.abs().max().item())
        if largest > torch.finfo(self._context.compute).max:
            raise ModelError(f"{name} has a factor of {largest:.3g}, more than {self._context.compute} holds")
        return Packed(down, up)


def part_sizes(projection: Projection) -> tuple[int, ...]:
    """The sizes of the parts, one or more."""
    return tuple(projection.parts.values()) or (projection.outputs,)


def _ends(sizes: tuple[int, ...]) -> list[int]:
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return ends


def _named(path: str) -> tuple[str, str]:
    """Name and source of NAME=PATH, or of PATH, which is its own name then, as is a folder with = in its path."""
    name, equals, source = path.partition("=")
    if not equals or Path(path).expanduser().is_dir():
        return path, path
    if not name or not source:
        raise SettingsError(f"--lora-paths {path}: a name or a path is missing; give NAME=PATH, or PATH")
    return name, source


def _real(source: str) -> str:
    """The real path of a folder, so that the same one is known again."""
    try:
        return real_folder(source)
    except RequestError as error:
        raise SettingsError(f"--lora-paths: {error.message}") from error
