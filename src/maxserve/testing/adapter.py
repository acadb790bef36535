"""Checks of adapters; and an adapter that adds a constant to the outcome of some projections: a stub for the seam.

class TestAcme(AdapterChecks):
    adapter = "acme"
    sections = {Config: Config(...)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from msgspec import Struct
from torch import Tensor

from maxserve.adapters import SharedProjection, SharesAdapters, StepRows, locator_of, rows_by_slot
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.adapter import Adapter, AdapterContext, AdapterTable, Correction, Projection
from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.inputs import AdapterRows, ExpertRows
from maxserve.core.loading.linear import Part, Role
from maxserve.core.loading.shard import Shard
from maxserve.plugins.adapters.shares import shared
from maxserve.testing.resolve import load, resolve

__all__ = ["AdapterChecks", "ConstantTable", "constant_adapters"]

CPU = torch.device("cpu")
# Those of a small model whose second layer has experts, fused as it has them, under the names of their weights.
PROJECTIONS = (
    Projection(
        name="model.layers.0.self_attn.qkv_proj",
        inputs=64,
        outputs=128,
        parts={"q_proj": 64, "k_proj": 32, "v_proj": 32},
    ),
    Projection(name="model.layers.0.self_attn.o_proj", inputs=64, outputs=64),
    Projection(name="model.layers.0.mlp.gate_up_proj", inputs=64, outputs=192, parts={"gate_proj": 96, "up_proj": 96}),
    Projection(name="model.layers.0.mlp.down_proj", inputs=96, outputs=64),
    Projection(name="model.embed_tokens", inputs=160, outputs=64, kind="embedding"),
    Projection(name="lm_head", inputs=64, outputs=160, kind="head"),
    Projection(
        name="model.layers.1.mlp.experts.gate_up_proj",
        inputs=64,
        outputs=64,
        parts={"gate_proj": 32, "up_proj": 32},
        kind="experts",
        experts=4,
    ),
    Projection(name="model.layers.1.mlp.experts.down_proj", inputs=32, outputs=64, kind="experts", experts=4),
)
NAMES = WeightMap(
    stacked=("experts",), fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
)
DTYPES = (torch.float32, torch.bfloat16)


class AdapterChecks:
    """Subclass it and name a registered `adapter`, or give the `component` itself.

    `sections` are the plugin's settings, by schema, with which adapters are served. `projections` are what a model
    offers, the weights of their parts under the names of the parts; those of kinds that it does not adapt are left out.
    `adapters` may be written: sources by name of at least one adapter, and two where there can be two; they are the
    `initial` ones of the table unless it is. `broken` likewise: sources that must be refused. `expected`: what an
    adapter makes of the outcome of a projection.
    """

    adapter: ClassVar[str] = ""
    component: ClassVar[Adapter | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    projections: ClassVar[Sequence[Projection]] = PROJECTIONS
    tolerance: ClassVar[float] = 1e-5

    def adapters(self, folder: Path) -> Mapping[str, str]:
        """Sources by name; files may be written to `folder`."""
        return self.table().initial()

    def broken(self, folder: Path) -> Sequence[str]:
        """Sources of adapters that cannot be served."""
        return (str(folder / "nothing-is-here"),)

    def expected(self, name: str, projection: Projection, x: Tensor, out: Tensor) -> Tensor | None:
        """The outcome of rows that all have this adapter, in float32; None: nothing to compare with."""
        return None

    def declared(self) -> Adapter:
        return resolve(Adapter, self.adapter, self.component)

    def offered(self) -> list[Projection]:
        """Those of the projections that are of kinds which it adapts."""
        kinds = {*self.declared().kinds} - {"latent"}  # which is called in another way
        return [each for each in self.projections if each.kind in kinds]

    def table(self, dtype: torch.dtype = torch.float32, shard: Shard | None = None) -> AdapterTable:
        """A fresh table; of a rank, where there is a `shard`."""
        build: Callable[[AdapterContext], AdapterTable] = load(self.declared().build)
        projections = {each.name: each if shard is None else of_rank(each, shard) for each in self.offered()}
        context = AdapterContext(
            compute=dtype,
            rows=dtype,
            device=CPU,
            sections=self.sections,
            projections=projections,
            locate=locator_of(projections, NAMES),
        )
        return build(context)

    def placed(
        self, sources: Mapping[str, str], names: Sequence[str], dtype: torch.dtype = torch.float32
    ) -> list[tuple[Projection, Correction]]:
        """The corrections of a fresh table, which has these adapters in its slots, from the first on."""
        table = self.table(dtype)
        found = self.corrections(table)
        for slot, name in enumerate(names, start=1):
            table.place(table.load(name, sources[name]), slot)
        return found

    def corrections(self, table: AdapterTable) -> list[tuple[Projection, Correction]]:
        """What a table corrects, of the projections that are offered."""
        found: list[tuple[Projection, Any]] = [(each, table.correction(each)) for each in self.offered()]
        return [(projection, correction) for projection, correction in found if correction is not None]

    def names(self, sources: Mapping[str, str]) -> list[str]:
        """As many as there are slots for."""
        return list(sources)[: self.table().slots]

    def test_it_says_what_it_takes(self, tmp_path: Path) -> None:
        table, sources = self.table(), self.adapters(tmp_path)
        assert table.slots > 0, f"{type(self).__name__}: with these sections no adapters are served"
        assert table.memory() >= 0, "memory() is a number of bytes"
        assert all(isinstance(each, str) and each for item in table.initial().items() for each in item)
        assert sources, "there is no adapter to check"

    def test_every_adapter_changes_something(self, tmp_path: Path) -> None:
        sources = self.adapters(tmp_path)
        for name in sources:
            assert any(self.changes(*each) for each in self.placed(sources, [name])), f"{name!r} corrects nothing"

    def changes(self, projection: Projection, correction: Correction) -> bool:
        x, out = rows(projection, 5)
        return not torch.equal(correction(x, out.clone(), in_rows(projection, [1] * 5)), out)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_rows_without_an_adapter_stay_as_they_are(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """To the bit, whatever the other rows have."""
        sources = self.adapters(tmp_path)
        for projection, correction in self.placed(sources, self.names(sources), dtype):
            x, out = rows(projection, 7, dtype)
            slots = [0, 1, 0, 0, 1, 0, 1]
            result = correction(x, out.clone(), in_rows(projection, slots))
            assert (result.shape, result.dtype) == (out.shape, out.dtype), f"{projection.name}: another tensor"
            plain = [row for row, slot in enumerate(slots) if not slot]
            assert torch.equal(result[plain], out[plain]), f"{projection.name}: rows without an adapter are changed"

    def test_a_row_does_not_depend_on_the_others(self, tmp_path: Path) -> None:
        sources = self.adapters(tmp_path)
        names = self.names(sources)
        for projection, correction in self.placed(sources, names):
            x, out = rows(projection, 3 * len(names) + 2)
            slots = [(5 * row) % (len(names) + 1) for row in range(len(x))]
            mixed = correction(x, out.clone(), in_rows(projection, slots))
            for row, slot in enumerate(slots):
                if slot:
                    own = slice(row, row + 1)
                    alone = correction(x[own], out[own].clone(), in_rows(projection, [slot]))
                    torch.testing.assert_close(mixed[own], alone, atol=self.tolerance, rtol=0)

    def test_inputs_are_not_written_to(self, tmp_path: Path) -> None:
        sources = self.adapters(tmp_path)
        for projection, correction in self.placed(sources, self.names(sources)):
            x, out = rows(projection, 4)
            before = x.clone()
            correction(x, out, in_rows(projection, [1, 0, 1, 0]))
            assert torch.equal(x, before), f"{projection.name}: the inputs are another projection's, too"

    def test_a_slot_forgets_the_adapter_before(self, tmp_path: Path) -> None:
        sources = self.adapters(tmp_path)
        first, *_, last = (*sources, *sources)
        table = self.table()
        corrections = self.corrections(table)
        for name in (first, last):
            table.place(table.load(name, sources[name]), 1)
        fresh = {projection.name: correction for projection, correction in self.placed(sources, [last])}
        for projection, correction in corrections:
            x, out = rows(projection, 3)
            slots = in_rows(projection, [1, 1, 1])
            alone = fresh[projection.name](x, out.clone(), slots)
            assert torch.equal(correction(x, out.clone(), slots), alone), f"{projection.name}: {first!r} is left"

    def test_an_adapter_may_be_read_in_another_thread(self, tmp_path: Path) -> None:
        """As the engine has it read, while others are placed and corrections called."""
        sources = self.adapters(tmp_path)
        names = self.names(sources)
        table = self.table()
        corrections = self.corrections(table)
        with ThreadPoolExecutor(1) as thread:
            reading = [thread.submit(table.load, name, sources[name]) for name in names]
            for slot, read in enumerate(reading, start=1):
                table.place(read.result(), slot)
        fresh = {projection.name: correction for projection, correction in self.placed(sources, names)}
        for projection, correction in corrections:
            slots = in_rows(projection, [1 + row % len(names) for row in range(3)])
            x, out = rows(projection, 3)
            alone = fresh[projection.name](x, out.clone(), slots)
            assert torch.equal(correction(x, out.clone(), slots), alone), f"{projection.name}: it depends on the thread"

    def test_broken_adapters_are_refused_by_name_and_change_nothing(self, tmp_path: Path) -> None:
        sources = self.adapters(tmp_path)
        name = next(iter(sources))
        for source in self.broken(tmp_path):
            table = self.table()
            corrections = self.corrections(table)
            table.place(table.load(name, sources[name]), 1)
            before = [self.outcome(projection, correction) for projection, correction in corrections]
            with pytest.raises(RequestError) as raised:
                table.load("broken", source)
            assert source in str(raised.value), f"the message does not name {source}: {raised.value}"
            assert 400 <= raised.value.status < 500, "it is the client's mistake"
            after = [self.outcome(projection, correction) for projection, correction in corrections]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), f"{source} changed something"

    def test_two_ranks_correct_their_parts(self, tmp_path: Path) -> None:
        """With what the first rank has loaded and sent; where the table SharesAdapters."""
        table, sources = self.table(), self.adapters(tmp_path)
        if not isinstance(table, SharesAdapters):
            return
        name = next(iter(sources))
        sent = table.encode(table.load(name, sources[name]))
        wanted = {
            projection.name: correction(*rows(projection, 4), in_rows(projection, [1] * 4))
            for projection, correction in self.placed(sources, [name])
        }
        found = {name: torch.zeros_like(each) for name, each in wanted.items()}
        for rank in range(2):
            for part, out in self.corrected_by_rank(Shard(rank=rank, size=2), sent):
                if not isinstance(part, SharedProjection):
                    found[part.name] = out
                elif part.share.inputs is not None:
                    found[part.name] += out
                else:
                    for span in part.share.spans:
                        found[part.name][:, span.start : span.stop] = out[:, span.at : span.at + span.stop - span.start]
        for name, each in wanted.items():
            torch.testing.assert_close(found[name], each, atol=self.tolerance, rtol=0)

    def corrected_by_rank(self, shard: Shard, sent: bytes) -> Iterator[tuple[Projection, Tensor]]:
        """The rank's outcomes of random rows, with the adapter that was sent to it."""
        table = self.table(shard=shard)
        assert isinstance(table, SharesAdapters)
        parts = [of_rank(projection, shard) for projection in self.offered()]
        corrections: list[Any] = [table.correction(part) for part in parts]
        table.place(table.decode(sent), 1)
        for part, correction in zip(parts, corrections, strict=True):
            x, out = rows(part, 4)
            if isinstance(part, SharedProjection) and part.share.inputs is not None:
                x, out = x[:, slice(*part.share.inputs)], out / shard.size
            elif isinstance(part, SharedProjection):
                out = part.share.share(out.T).T.contiguous()
            if correction is not None:
                yield part, correction(x, out, in_rows(part, [1] * 4))

    def outcome(self, projection: Projection, correction: Correction) -> Tensor:
        x, out = rows(projection, 3)
        return correction(x, out, in_rows(projection, [1, 0, 1]))

    def test_corrections_are_as_expected(self, tmp_path: Path) -> None:
        sources = self.adapters(tmp_path)
        for name in sources:
            for projection, correction in self.placed(sources, [name]):
                x, out = rows(projection, 4)
                wanted = self.expected(name, projection, x, out)
                if wanted is not None:
                    result = correction(x, out.clone(), in_rows(projection, [1] * 4))
                    torch.testing.assert_close(result, wanted, atol=self.tolerance, rtol=0)


class _Module(Struct, frozen=True):
    """What a module says of its shares."""

    role: Role
    parts: Mapping[str, Part]
    shard: Shard


def of_rank(projection: Projection, shard: Shard) -> Projection:
    """The projection as a rank has it, of whose sort those of the names o_proj and down_proj share their inputs."""
    role: Role = "row" if projection.name.endswith(("o_proj", "down_proj")) else "column"
    parts = {name: Part(size) for name, size in projection.parts.items()} or {"": Part(projection.outputs)}
    return shared(projection, _Module(role, parts, shard))


def in_slots(slots: Sequence[int]) -> AdapterRows:
    """Rows whose adapters are in these slots."""
    found = rows_by_slot(np.array(slots, dtype=np.int64), CPU)
    assert found is not None, "some row has an adapter"
    return found


def in_rows(projection: Projection, slots: Sequence[int]) -> AdapterRows | ExpertRows:
    """The same as a correction of that projection gets it; the last expert has all the rows."""
    step = StepRows()
    step.rows = in_slots(slots)
    if projection.kind != "experts":
        return step.rows
    ends = torch.zeros(projection.experts, dtype=torch.int64)
    ends[-1] = len(slots)
    found = step.of_experts(torch.arange(len(slots)), ends)
    assert found is not None, "some row has an adapter"
    return found


def rows(projection: Projection, count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Random inputs and outcomes of a projection."""
    generator = torch.Generator().manual_seed(count)
    x, out = (
        torch.randn(count, size, generator=generator).to(dtype) for size in (projection.inputs, projection.outputs)
    )
    if projection.kind == "embedding":
        x = torch.randint(projection.inputs, (count,), generator=generator)
    return x, out


class ConstantTable:
    """An AdapterTable. Each adapter adds a constant, its source, to projections whose name ends with `ending`."""

    def __init__(self, context: AdapterContext, constants: Mapping[str, float], ending: str, slots: int) -> None:
        self.slots, self._initial, self._ending = slots, constants, ending
        self._constants = torch.zeros(slots + 1, dtype=context.compute, device=context.device)

    def initial(self) -> Mapping[str, str]:
        return {name: str(constant) for name, constant in self._initial.items()}

    def memory(self) -> int:
        return self._constants.nbytes

    def correction(self, projection: Projection) -> ConstantTable | None:
        return self if projection.name.endswith(self._ending) else None

    def load(self, name: str, source: str) -> float:
        try:
            return float(source)
        except ValueError:
            raise RequestError(f"the adapter {source!r} is no number") from None

    def place(self, adapter: float, slot: int) -> None:
        self._constants[slot] = adapter

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        return out + self._constants[rows.adapter_slots][:, None]


def constant_adapters(constants: Mapping[str, float], ending: str = "o_proj", slots: int = 4) -> SimpleNamespace:
    """A plugin with the adapters of these names and constants."""
    declared = Adapter(name="constant", build=lambda context: ConstantTable(context, constants, ending, slots))
    return SimpleNamespace(maxserve_adapters=hookimpl(lambda: [declared]))
