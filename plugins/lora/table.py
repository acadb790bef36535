"""The slots of LoRA adapters, and what fills them."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping

import torch

from maxserve.adapters import SharedProjection, own_part
from maxserve.interfaces.adapter import AdapterContext, Location, Projection
from maxserve.interfaces.errors import ModelError, RequestError, SettingsError
from maxserve.loading import size_text
from maxserve.plugins.lora.checks import named
from maxserve.plugins.lora.corrections import (
    CORRECTIONS,
    LoRACorrection,
    Packed,
    SlotMemory,
    ends_of,
    factor_sizes,
    part_sizes,
)
from maxserve.plugins.lora.folders import is_name, real_folder
from maxserve.plugins.lora.options import LoRAOptions
from maxserve.plugins.lora.peft import Factors, PeftFile, read_adapter, refused

log = logging.getLogger("maxserve.lora")

RANKS = 16  # ranks in slots are multiples of it
LARGEST_ITEM = 8  # bytes of a number in a file
SPARE = 16 << 20  # bytes for names, and to name what is wrong with an adapter that is somewhat too large

Parts = dict[tuple[int, int], Factors]  # of a projection, by expert and part


class LoRATable:
    """An AdapterTable of PEFT's folders that SharesAdapters: whole ones, of which each rank places its part."""

    def __init__(self, context: AdapterContext) -> None:
        options = context.config(LoRAOptions)
        self._context = context
        self._paths = options.lora_paths
        self._corrections: dict[str, LoRACorrection] = {}
        self._memory: SlotMemory | None = None  # of all projections, once the first is corrected
        self._most = options.max_lora_rank
        self._room = -(-options.max_lora_rank // RANKS) * RANKS
        self._targets = options.lora_target_modules
        self._within = options.lora_dir
        self.slots = options.max_num_loras if options.enable_lora else 0
        for target in self._targets if options.enable_lora else ():
            if not any(_names(target, each) for each in context.projections.values()):
                raise SettingsError(
                    f"--lora-target-modules {target}: the model has no such module; it has {self._modules()}"
                )

    def initial(self) -> Mapping[str, str]:
        return {name: self._found(source) for name, source in map(named, self._paths)}

    def _found(self, source: str) -> str:
        """The real path of a folder, so that the same one is known again; or where a source has what is named so."""
        try:
            return real_folder(source)
        except RequestError as error:
            try:
                found = self._context.find(source) if is_name(source) else None
            except RequestError as refusal:
                raise SettingsError(f"--lora-paths: {refusal.message}") from refusal
            if found is None:
                raise SettingsError(f"--lora-paths: {error.message}, and no source has one of that name") from error
            return found

    def memory(self) -> int:
        """Of a model with experts it says what takes it: theirs are most of it, though few adapters change them."""
        kinds = {each.kind: 0 for each in self._context.projections.values()}
        for each in self._context.projections.values():
            kinds[each.kind] += self._numbers((each,)) * self._context.rows.itemsize
        if self.slots and kinds.get("experts"):
            parts = ", ".join(f"{kind} {size_text(taken)}" for kind, taken in kinds.items() if taken)
            log.info("each slot of adapters takes: %s; --lora-target-modules leaves modules out", parts)
        return self.slots * sum(kinds.values())

    def _numbers(self, projections: Iterable[Projection]) -> int:
        """Numbers of a slot for those of the projections that have one."""
        return sum(sum(factor_sizes(each, self._room)) for each in projections if self._has_slots(each))

    def _values(self, projections: Iterable[Projection]) -> int:
        """Numbers of an adapter for those of the projections that have slots, for each of its ranks."""
        own = [each for each in projections if self._has_slots(each)]
        return sum((each.inputs * len(part_sizes(each)) + each.outputs) * each.experts for each in own)

    def _has_slots(self, projection: Projection, module: str = "") -> bool:
        """Whether adapters may change it; of a `module` in it that has a name of its own in checkpoints, that one."""
        if not self._targets:
            return True
        named = (_part_of(target, module) if module else False for target in self._targets)
        whole = (_names(target, projection, whole=bool(module)) for target in self._targets)
        return any(named) or any(whole) or (bool(module) and self._names_all_parts(projection))

    def _names_all_parts(self, projection: Projection) -> bool:
        """Whether what is fused in it is named part by part, as PEFT has it for the weights of experts."""
        parts = _fused(projection)
        return bool(parts) and all(any(_part_of(target, part) for target in self._targets) for part in parts)

    def _modules(self) -> str:
        """The last parts of the names of modules."""
        projections = self._context.projections.values()
        last = {name.rpartition(".")[2] for each in projections for name in (each.name, *each.parts)}
        return ", ".join(sorted(last))

    def correction(self, projection: Projection) -> LoRACorrection | None:
        if not self._has_slots(projection):
            return None
        if self._memory is None:
            numbers = self._numbers(map(own_part, self._context.projections.values()))
            self._memory = SlotMemory(self.slots, numbers, self._context.rows, self._context.device)
        made = CORRECTIONS[projection.kind](own_part(projection), self._room, self._memory)
        self._corrections[projection.name] = made
        return made

    def load(self, name: str, source: str) -> dict[str, Packed]:
        """A source is a real path; with --lora-dir a link that has taken its place leads to no other folder."""
        if self._within and os.path.realpath(source) != source:
            source = real_folder(source, self._within)
        file = read_adapter(
            source,
            (self._most * self._values(self._context.projections.values()) + self._table_values()) * LARGEST_ITEM
            + SPARE,
        )
        try:
            self._check_tables(file.tables)
            packed = {name: self._packed(name, parts) for name, parts in self._by_projection(file).items()}
        except ModelError as error:
            raise refused(source, str(error), file.base) from error
        log.info("adapter %s: %d projections of %s", name, len(packed), file.base or "an unnamed base model")
        return packed

    def changes(self, adapter: dict[str, Packed]) -> Collection[str]:
        return adapter.keys()

    def place(self, adapter: dict[str, Packed], slot: int) -> None:
        for name, correction in self._corrections.items():
            packed, projection = adapter.get(name), self._context.projections[name]
            if packed is not None and isinstance(projection, SharedProjection):
                packed = packed.share(projection.share)
            correction.place(packed, slot)

    def encode(self, adapter: dict[str, Packed]) -> bytes:
        from safetensors.torch import save

        sides = {f"{name}:{side}": getattr(each, side) for name, each in adapter.items() for side in ("down", "up")}
        return save(sides)

    def decode(self, data: bytes) -> dict[str, Packed]:
        from safetensors.torch import load

        sides = load(data)
        names = {key.rpartition(":")[0] for key in sides}
        return {name: Packed(sides[f"{name}:down"], sides[f"{name}:up"]) for name in names}

    def _table_values(self) -> int:
        """Numbers of the tables that PEFT writes beside factors of embeddings and heads."""
        tables = [each for each in self._context.projections.values() if each.kind in ("embedding", "head")]
        return sum(each.inputs * each.outputs for each in tables)

    def _check_tables(self, tables: Mapping[str, tuple[int, ...]]) -> None:
        """ModelError for tables [entries, width] of embeddings and heads that are not as large as the model's."""
        for module, shape in tables.items():
            for place in self._context.locate(module):
                projection = self._context.projections[place.projection]
                if projection.kind not in ("embedding", "head"):
                    raise ModelError(f"it has a whole weight for {module}; merge it into the base model")
                if sorted(shape) != sorted((projection.inputs, projection.outputs)):
                    raise ModelError(
                        f"it was trained with a table {list(shape)} in {module}, and the model's has the sizes "
                        f"{projection.inputs} and {projection.outputs}; if tokens were added, serve the model that has "
                        "them"
                    )

    def _by_projection(self, file: PeftFile) -> dict[str, Parts]:
        """The factors by projection; a head that shares its embedding's table shares its factors, where it says so."""
        found: dict[str, Parts] = {}
        swapped = self._other_way_round(file)
        for module, factors in file.factors.items():
            self._add(found, module, factors.swapped() if factors.experts and swapped else factors)
        if file.tied:
            for projection in self._context.projections.values():
                if projection.tied in found and projection.name not in found:
                    own = found[projection.tied][0, 0]
                    found[projection.name] = {(0, 0): Factors(own.up.T, own.down.T)}
        return found

    def _add(self, found: dict[str, Parts], module: str, factors: Factors) -> None:
        """Adds the factors of a module to the projections that have its weight."""
        places = self._context.locate(module)
        if not places:
            raise ModelError(f"it adapts {module}, and the model has no such projection that can be adapted")
        projection = self._context.projections[places[0].projection]
        if not self._has_slots(projection, module):
            raise ModelError(f"it adapts {module}, for which there are no slots; add it to --lora-target-modules")
        if factors.embedding != (projection.kind == "embedding"):
            due = "lora_A and lora_B" if factors.embedding else "lora_embedding_A and lora_embedding_B"
            raise ModelError(f"the factors of {module} have other names than {due}, which are due there")
        if factors.rank > self._most:
            raise ModelError(f"the rank of {module} is {factors.rank}; --max-lora-rank allows {self._most}")
        every = projection.kind == "experts" and places[0].expert is None
        if factors.experts != (projection.experts if every else 0):
            raise ModelError(
                f"{module} has factors for {max(1, factors.experts)} weights; the model has "
                f"{projection.experts if every else 1} there"
            )
        sizes = [self._sizes(place) for place in places]
        outputs = sum(sum(each.values()) for each in sizes)
        if factors.shape != (outputs, projection.inputs):
            raise ModelError(
                f"the factors of {module} are for a weight {list(factors.shape)}; the model has "
                f"[{outputs}, {projection.inputs}] there"
            )
        for expert in range(max(1, factors.experts)):
            own = factors.of_expert(expert) if factors.experts else factors
            for place, rows in zip(places, torch.split(own.up, [sum(each.values()) for each in sizes]), strict=True):
                self._add_place(found, module, place, Factors(own.down, rows), expert)

    def _add_place(self, found: dict[str, Parts], module: str, place: Location, own: Factors, expert: int) -> None:
        up = own.up if place.change is None else place.change(own.up)
        expert, sizes = expert if place.expert is None else place.expert, self._sizes(place)
        parts = found.setdefault(place.projection, {})
        for part, rows in zip(sizes, torch.split(up, [*sizes.values()]), strict=True):
            if (expert, part) in parts:
                raise ModelError(f"two of its modules are the weight of {place.projection}, one of them {module}")
            parts[expert, part] = Factors(own.down, rows)

    def _other_way_round(self, file: PeftFile) -> bool:
        """Whether factors of all experts are those of weights [inputs, outputs]: that is known where sizes differ."""
        for module, factors in file.factors.items():
            for place in self._context.locate(module) if factors.experts else ():
                projection = self._context.projections[place.projection]
                if projection.inputs != projection.outputs:
                    return factors.shape == (projection.inputs, projection.outputs)
        return False

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
        rank = -(-max(each.rank for each in parts.values()) // RANKS) * RANKS
        down = torch.zeros(projection.experts, projection.inputs, len(sizes), rank)
        up = torch.zeros(projection.experts, rank, projection.outputs)
        ends = ends_of(sizes)
        for (expert, part), own in parts.items():
            down[expert, :, part, : own.rank] = own.down.T
            up[expert, : own.rank, ends[part] : ends[part + 1]] = own.up.T
        largest = max(down.abs().max().item(), up.abs().max().item())
        dtype = self._context.rows
        if largest > torch.finfo(dtype).max:
            raise ModelError(f"{name} has a factor of {largest:.3g}, more than {dtype} holds")
        return Packed(down.to(dtype), up.to(dtype))


def _names(target: str, projection: Projection, *, whole: bool = False) -> bool:
    """Whether it is the name of a projection, or a part of that; or, unless `whole`, of what is fused in it."""
    return any(_part_of(target, name) for name in (projection.name, *(() if whole else _fused(projection))))


def _fused(projection: Projection) -> list[str]:
    """The names of what is fused in it."""
    above = projection.name.rpartition(".")[0]
    return [f"{above}.{part}" for part in projection.parts]


def _part_of(target: str, name: str) -> bool:
    return f".{target}." in f".{name}."
