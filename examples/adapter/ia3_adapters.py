"""IA3: adapters that multiply outcomes of projections by trained vectors, as PEFT saves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from maxserve import Adapter, ConfigSection, hookimpl
from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import RequestError, SettingsError

PREFIX, SUFFIX = "base_model.model.", ".ia3_l"


@dataclass(frozen=True, slots=True)
class Config:
    """Which adapters are served."""

    slots: Annotated[int, Option(used_by="adapters")] = 0  # adapters that can be in use in one step
    adapters: Annotated[tuple[str, ...], Option(used_by="adapters", metavar="NAME=FOLDER")] = ()


class Scaling:
    """A Correction: rows times the vector of their slot. The one of slot 0 is all ones."""

    def __init__(self, projection, context, slots):
        import torch

        self.vectors = torch.ones(slots + 1, projection.outputs, dtype=context.compute, device=context.device)

    def __call__(self, x, out, rows):
        return out * self.vectors[rows.adapter_slots]


class IA3:
    """The slots of the adapters."""

    def __init__(self, context):
        config = context.config(Config)
        self.context, self.slots, self.scalings = context, config.slots, {}
        self.sources = dict(each.partition("=")[::2] for each in config.adapters)
        if self.sources and not self.slots:
            raise SettingsError("--ia3.adapters needs --ia3.slots, the number of adapters that can be in use at once")

    def initial(self):
        return self.sources

    def memory(self):
        outputs = sum(each.outputs for each in self.context.projections.values())
        return (self.slots + 1) * outputs * self.context.compute.itemsize

    def correction(self, projection):
        made = self.scalings[projection.name] = Scaling(projection, self.context, self.slots)
        return made

    def place(self, adapter, slot):
        for name, scaling in self.scalings.items():
            scaling.vectors[slot] = adapter.get(name, 1.0)

    def load(self, name, source):
        """Vectors by projection."""
        from safetensors.torch import load_file

        try:
            config = json.loads((Path(source) / "adapter_config.json").read_text())
            if config["peft_type"] != "IA3" or config.get("modules_to_save"):
                raise ValueError("only IA3 without further modules is served")
            adapter = {}
            for key, vector in load_file(Path(source) / "adapter_model.safetensors").items():
                self.add(adapter, key.removeprefix(PREFIX).removesuffix(SUFFIX), vector.float())
            return adapter
        except Exception as error:  # whatever is wrong with files that others wrote
            raise RequestError(f"the adapter {source!r} cannot be served: {error}", param="lora_path") from error

    def add(self, adapter, module, vector):
        """Adds a column, which multiplies the outcome of a module, or the row that multiplies its inputs.

        The inputs of down_proj are a function of gate_proj times the outcome of up_proj, which is multiplied instead.
        """
        import torch

        block, _, last = module.rpartition(".")
        gated = last == "down_proj" and self.context.locate(f"{block}.gate_proj")
        of_inputs = vector.shape[0] == 1
        places = self.context.locate(f"{block}.up_proj" if of_inputs else module) if gated or not of_inputs else ()
        if not places:
            raise ValueError(f"the model has no projection whose outcome the vector of {module} could multiply")
        rows = vector.reshape(-1, 1)
        if not torch.isfinite(rows).all() or len(rows) != sum(self.size(place) for place in places):
            raise ValueError(f"the vector of {module} has {len(rows)} numbers, which do not fit or are not finite")
        for place, part in zip(places, rows.split([self.size(place) for place in places]), strict=True):
            projection = self.context.projections[place.projection]
            own = adapter.setdefault(place.projection, torch.ones(projection.outputs))
            start = 0
            for name, size in projection.parts.items() if place.part else ():
                if name == place.part:
                    break
                start += size
            changed = part if place.change is None else place.change(part)
            own[start : start + len(part)] *= changed[:, 0]

    def size(self, place):
        projection = self.context.projections[place.projection]
        return projection.parts[place.part] if place.part else projection.outputs


@hookimpl
def maxserve_config():
    yield ConfigSection(name="ia3", schema=Config)


@hookimpl
def maxserve_adapters():
    yield Adapter(name="ia3", build=IA3, summary="trained vectors that keys, values and MLPs are multiplied by")
