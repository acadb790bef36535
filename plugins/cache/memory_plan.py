"""The memory plan of a model and its cache, decided with numbers alone, before anything is allocated.

    KV cache = free memory x utilization - weights - adapters - activations

Activations of a step are estimated as 20 values of the model's width per token (input, residual, projections, MLP)
in the compute type, what the config says that layers and images need besides, and 3 float32 rows of logits per
running request, and for each draft that it may have, beside a row of what that was drawn from.
On a CPU the cache takes at most 4 GiB unless
--device-memory-utilization is given, because the machine is seldom ours alone. There, memory is taken when a page is
first used; what running requests need they get, but unused prefixes shall not hold more than a third of the
size of the weights (192 MiB at least).

Where groups of layers have pages of their own, a page is one group's, and a request
holds no more of them than the group's window needs, however long it is.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from maxserve.interfaces.cache import Bounds, CacheGroup, pages_of, token_bytes
from maxserve.interfaces.errors import ModelError

if TYPE_CHECKING:
    from maxserve.interfaces.architecture import ModelSpec
    from maxserve.interfaces.cache import BuiltCacheFormat, CacheLayer
    from maxserve.interfaces.memory import MemoryContext
    from maxserve.options import Settings


def size_text(size: int) -> str:
    """Bytes in the unit that fits: "512 B", "1.5 MiB", "23.4 GiB"."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{size} B" if units[0] == "B" else f"{value:.1f} {units[0]}"


def aligned(rows: Sequence[tuple[str, str, str]]) -> str:
    """Lines of name, size (to the right) and note."""
    names = max(len(name) for name, _, _ in rows)
    sizes = max(len(size) for _, size, _ in rows)
    return "\n".join(f"{name:<{names}}  {size:>{sizes}}  {note}".rstrip() for name, size, note in rows)


GIB = 1 << 30
FLAG = "--host-kvcache-swap-space-gb"


def host_pages(settings: Settings, page_bytes: int, left: int, warnings: list[str]) -> int:
    """Pages of `page_bytes` that fit into what was chosen; 0 when no second tier is wanted.

    `left` is what the host has free beside everything else. The default gives way to half of that; a number that was
    chosen and cannot be had is a ModelError.
    """
    if not settings.kv_cache.enable_kvcache_swapping_to_host:
        return 0
    chosen = settings.kv_cache.host_kvcache_swap_space_gb
    size = int(chosen * GIB)
    if size > left and "kv_cache.host_kvcache_swap_space_gb" in settings.chosen:
        raise ModelError(
            f"{FLAG} {chosen:g} is {size_text(size)}, and {size_text(max(left, 0))} of the host's memory is free "
            "beside the rest of the plan; lower it or free some memory"
        )
    if size > left:
        size = max(left, 0) // 2
        warnings.append(
            f"the host tier gets {size_text(size)}, half of the host's memory that is free, and not the default of "
            f"{chosen:g} GiB; {FLAG} chooses another size"
        )
    if size < page_bytes:
        raise ModelError(
            f"{size_text(size)} for the host tier is less than one page of {size_text(page_bytes)}; give {FLAG} "
            f"{math.ceil(page_bytes / GIB * 1e4) / 1e4:g} or more, lower --kv-cache-page-size, or drop "
            "--enable-kvcache-swapping-to-host"
        )
    return size // page_bytes


_UNLIMITED = 1 << 60  # control groups write "no limit" as a number about this large


def free_memory(device_type: str, index: int = 0) -> int:
    """Bytes that can be allocated now: on a GPU what its driver says, on a CPU what system and control group leave."""
    if device_type == "cpu":
        return free_host_memory()
    import torch

    return int(torch.cuda.mem_get_info(index)[0])


def free_host_memory(root: Path = Path("/")) -> int:
    """The least of what the system has available and what each control group around this process leaves.

    `root` stands for the file system's, for tests.
    """
    return min(_available(root), *(_left(group) for group in _groups(root)), _UNLIMITED)


def _available(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux: half of what is installed is a careful guess
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the memory control groups that this process is in, the outer ones too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup" / ("" if number == "0" else "memory")
            group = base / path.lstrip("/")
            # In a container the path may be the host's, where only the base itself is visible.
            yield from [group, *group.parents[: len(Path(path).parts) - 1]] if group.is_dir() else [base]


def _left(group: Path) -> int:
    """Bytes a control group may still take; what it holds of the page cache can be had back."""
    for limit, usage, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        allowed, used = _number(group / limit), _number(group / usage)
        if allowed is not None and used is not None and allowed < _UNLIMITED:
            return max(0, allowed - max(0, used - _statistic(group / "memory.stat", inactive)))
    return _UNLIMITED


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistic(file: Path, name: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)


# CPUs gain nothing from long runs of one page, and small pages waste less and share more; a GPU wants fewer of them.
PAGE_SIZE = {"cpu": 64}
PAGE_SIZE_ELSEWHERE = 128
BATCH_SIZE = {"cpu": 64}
BATCH_SIZE_ELSEWHERE = 512
CPU_CACHE_LIMIT = 4 << 30
KEPT_LEAST = 192 << 20
_VALUES_PER_TOKEN = 20
_LOGIT_ROWS = 3
_NEARLY_ALL = 0.95
_ANY_LENGTH = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What to allocate; sizes in bytes. `warnings` are lines for the log.

    `soft_pages` are those that unused prefixes may make the cache touch (None: any); `host_pages` those of the
    second tier. `page_bounds`: the most pages a request holds, by group of layers (None: as many as it has tokens for).
    `encoding` is what the weights of projections are held in, `adapters` what the slots of adapters take,
    and `unrounded` what all other weights take where plain ones are rounded to it.
    """

    device: str
    free: int
    utilization: float
    weights: int
    activations: int
    page_bytes: int
    pages: int
    page_size: int
    max_batch_size: int
    max_length: int
    soft_pages: int | None = None
    shares_prefixes: bool = True
    host_pages: int = 0
    page_size_chosen: bool = False
    page_bounds: Bounds = (None,)
    encoding: str = ""
    adapters: int = 0
    unrounded: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def cache(self) -> int:
        """Bytes of all pages."""
        return self.pages * self.page_bytes

    @property
    def tokens(self) -> int:
        """Tokens that fit into all pages: of requests of the greatest length, where length decides how many pages."""
        if self.page_bounds == (None,):
            return self.pages * self.page_size
        requests, left = divmod(self.pages, self.request_pages)
        return requests * self.max_length + _longest(left, self.page_size, self.page_bounds, self.max_length)

    @property
    def request_pages(self) -> int:
        """Pages that a request of the greatest length holds at most."""
        return pages_of(self.max_length, self.page_size, self.page_bounds)

    def table(self) -> str:
        """Where the memory goes, as aligned text."""
        rest = self.free - self.weights - self.adapters - self.activations - self.cache
        rows = [
            (f"free on {self.device}", self.free, f"{100 * self.utilization:.4g}% may be used"),
            ("weights", self.weights, self._weights_text()),
            ("activations", self.activations, "estimated"),
            ("KV cache", self.cache, self._pages_text()),
            ("left", rest, f"{self.max_batch_size} requests at once, {self.max_length} tokens each at most"),
        ]
        if self.adapters:
            rows.insert(2, ("adapters", self.adapters, "slots of those that are in use"))
        if self.soft_pages is not None and self.shares_prefixes:
            kept = "of the cache, for prefixes no request uses; requests may have all of it"
            rows.insert(len(rows) - 1, ("kept at most", self.soft_pages * self.page_bytes, kept))
        if self.host_pages:
            rows.append(("host tier", self.host_pages * self.page_bytes, f"{self.host_pages} pages in host memory"))
        return aligned([(name, size_text(size), note) for name, size, note in rows])

    def _weights_text(self) -> str:
        others = f", {size_text(self.unrounded)} of others are not" if self.unrounded else ""
        return f"projections in {self.encoding}{others}" if self.encoding else ""

    def _pages_text(self) -> str:
        why = "chosen" if self.page_size_chosen else f"the default on {self.device}"
        chosen = f"--kv-cache-page-size {self.page_size} is {why}"
        if self.page_bounds == (None,):
            many = f"{self.pages} pages x {self.page_size} tokens = {self.tokens} tokens"
            return f"{many}, {size_text(self.page_bytes)} each; {chosen}"
        groups = "1 group" if len(self.page_bounds) == 1 else f"{len(self.page_bounds)} groups"
        return (
            f"{self.pages} pages x {self.page_size} tokens of {groups} of layers, {size_text(self.page_bytes)} each; "
            f"{self.max_length} tokens take {self.request_pages} at most, so {self.tokens} tokens fit; {chosen}"
        )


def plan_cache(context: MemoryContext) -> MemoryPlan:
    """The plan for what is free now."""
    device = context.device
    return plan_memory(
        context.settings,
        context.spec,
        device=device.type,
        free=free_memory(device.type, device.index or 0),
        weights=context.weights,
        adapters=context.adapters,
        itemsize=context.compute.itemsize,
        cache_format=context.format,
        host_free=free_memory("cpu"),
        layers=context.layers,
        groups=context.groups,
        whole_prompts=context.whole_prompts,
        encoding=context.encoding,
        unrounded=context.unrounded,
        draws=context.draws,
    )


def plan_memory(
    settings: Settings,
    spec: ModelSpec,
    *,
    device: str,
    free: int,
    weights: int,
    itemsize: int,
    cache_format: BuiltCacheFormat,
    host_free: int = 0,
    layers: Sequence[CacheLayer] | None = None,
    groups: Sequence[CacheGroup] = (),
    whole_prompts: bool = False,
    encoding: str = "",
    unrounded: int = 0,
    draws: bool = True,
    adapters: int = 0,
) -> MemoryPlan:
    """How the `free` bytes of a device are divided; ModelError with numbers when the model does not fit.

    `device` is a torch device type, `weights` the bytes of all parameters (`weight_bytes`), `itemsize`
    those of one value in the compute type, `cache_format` how keys and values are stored. `host_free` is the host's
    free memory, for the second tier. `layers` are what the cache keeps, the model's own unless said otherwise, `groups`
    those that have tables of their own; with `whole_prompts` each prompt takes one step. `draws`: drafts may be drawn,
    and rows of what they are drawn from are kept. `adapters` are the bytes of the slots of adapters.
    """
    page_size = settings.kv_cache.kv_cache_page_size or PAGE_SIZE.get(device, PAGE_SIZE_ELSEWHERE)
    tokens = settings.scheduling.max_batch_input_tokens
    # Each that runs needs a token of every step: more requests than tokens would starve the youngest.
    batch = settings.scheduling.max_batch_size or min(tokens, BATCH_SIZE.get(device, BATCH_SIZE_ELSEWHERE))
    drafts = batch * _drafts(settings)
    activations = activation_bytes(
        spec,
        tokens=tokens,
        rows=min(batch + drafts, max(tokens, batch)),
        itemsize=itemsize,
        drafts=drafts if draws else 0,
    )
    bounds = page_bounds(settings, groups, page_size, whole_prompts=whole_prompts)
    layers = spec.cache_layers if layers is None else layers
    per_page = page_bytes(_layers_of_a_page(layers, groups), page_size, cache_format)
    held = Held(weights, adapters, activations)
    affordable = _cache_bytes(settings, device, free, held) // per_page
    if affordable < len(bounds):
        raise ModelError(_no_room(settings, device, free, held, per_page * len(bounds)))
    warnings: list[str] = []
    capacity = _longest(affordable, page_size, bounds, spec.max_length)
    length = _length(settings.model.max_length, spec.max_length, capacity, warnings)
    batch = _batch_size(batch, affordable // len(bounds), len(bounds), settings, warnings)
    # As many as if requests gave nothing back: what they do give back may stay as prefixes.
    pages = min(affordable, batch * len(bounds) * -(-length // page_size))
    host_left = host_free - (held.bytes + pages * per_page if device == "cpu" else 0)
    plan = MemoryPlan(
        device=device,
        free=free,
        utilization=settings.kv_cache.device_memory_utilization,
        weights=weights,
        activations=activations,
        page_bytes=per_page,
        pages=pages,
        page_size=page_size,
        max_batch_size=batch,
        max_length=length,
        shares_prefixes=settings.kv_cache.enable_prefix_caching,
        soft_pages=_soft_pages(settings, device, weights, per_page, pages),
        host_pages=host_pages(settings, per_page, host_left, warnings),
        page_size_chosen=settings.kv_cache.kv_cache_page_size is not None,
        page_bounds=bounds,
        encoding=encoding,
        adapters=adapters,
        unrounded=unrounded,
    )
    if held.bytes + plan.cache > _NEARLY_ALL * free:
        warnings.append(f"more than {_NEARLY_ALL:.0%} of the free memory is planned; lower --device-memory-utilization")
    return replace(plan, warnings=tuple(warnings))


def page_bytes(layers: Sequence[CacheLayer], page_size: int, format: BuiltCacheFormat) -> int:
    """Bytes of one page over all layers: keys and values of `page_size` tokens."""
    return sum(token_bytes(layer, format) for layer in layers) * page_size


def page_bounds(
    settings: Settings, groups: Sequence[CacheGroup], page_size: int, *, whole_prompts: bool = False
) -> Bounds:
    """The most pages that a request holds, by group; (None,) where all layers share a table and keep everything."""
    scheduling = settings.scheduling
    # With overlap, a step's pages are had before those that the step before it frees are given back.
    step = scheduling.max_batch_input_tokens * (2 if scheduling.enable_overlap_scheduler else 1)
    if whole_prompts or not scheduling.enable_chunked_prefill:
        step = _ANY_LENGTH  # a prompt has all its pages at once
    return tuple(group.most_pages(page_size, step) for group in groups) or (None,)


def _layers_of_a_page(layers: Sequence[CacheLayer], groups: Sequence[CacheGroup]) -> Sequence[CacheLayer]:
    """The layers that have their keys and values in one page: those of the largest group."""
    return [layers[index] for index in max((group.layers for group in groups), key=len)] if groups else layers


@runtime_checkable
class NeedsRoom(Protocol):
    """A config of a model whose layers need more values for each token than the estimate has."""

    @property
    def layer_values(self) -> int: ...


@runtime_checkable
class NeedsRoomForImages(Protocol):
    """A config of a vision-language model: values in the compute type for an image, bytes for the features it keeps."""

    @property
    def image_values(self) -> int: ...

    @property
    def features_kept(self) -> int: ...


def _drafts(settings: Settings) -> int:
    """The most drafts of a request."""
    speculative = settings.speculative
    return 0 if speculative.speculative_method is None else speculative.num_speculative_tokens


def activation_bytes(spec: ModelSpec, *, tokens: int, rows: int, itemsize: int, drafts: int = 0) -> int:
    """The estimate of this file's first lines, for a step of `tokens` tokens, `rows` of logits, and `drafts`."""
    more = spec.layer_values if isinstance(spec, NeedsRoom) else 0
    step = (_VALUES_PER_TOKEN * spec.dim + more) * tokens * itemsize
    step += (_LOGIT_ROWS * rows + drafts) * spec.vocab_size * 4
    return step + (spec.image_values * itemsize + spec.features_kept if isinstance(spec, NeedsRoomForImages) else 0)


class Held(msgspec.Struct, frozen=True):
    """Bytes that are taken before the cache has any."""

    weights: int
    adapters: int
    activations: int

    @property
    def bytes(self) -> int:
        return self.weights + self.adapters + self.activations

    def __str__(self) -> str:
        adapters = f", adapters {size_text(self.adapters)}" if self.adapters else ""
        return f"weights {size_text(self.weights)}{adapters} and activations {size_text(self.activations)}"


def _cache_bytes(settings: Settings, device: str, free: int, held: Held) -> int:
    """Bytes that the cache may take."""
    if held.bytes > free:
        raise ModelError(
            f"the model does not fit: {held} need more than the {size_text(free)} free on {device}; {_advice(settings)}"
        )
    left = int(free * settings.kv_cache.device_memory_utilization) - held.bytes
    return min(left, CPU_CACHE_LIMIT) if _shared_machine(settings, device) else left


def _soft_pages(settings: Settings, device: str, weights: int, per_page: int, pages: int) -> int | None:
    """Pages that unused prefixes may hold; None where that is no bound."""
    soft = max(1, max(KEPT_LEAST, weights // 3) // per_page)
    return soft if _shared_machine(settings, device) and soft < pages else None


def _shared_machine(settings: Settings, device: str) -> bool:
    """Whether memory is to be left to others: on a CPU, unless the operator chose how much may be used."""
    return device == "cpu" and "kv_cache.device_memory_utilization" not in settings.chosen


def _length(wanted: int | None, limit: int, capacity: int, warnings: list[str]) -> int:
    """Most tokens of one request: as wanted or as the model allows, as far as all pages together hold it."""
    if wanted is not None and wanted > limit:
        raise ModelError(f"--max-length {wanted} is above the {limit} positions the model was made for; lower it")
    length = limit if wanted is None else wanted
    if length < 2:
        asked = f"--max-length {wanted}" if wanted is not None else "the model's length of 1"
        raise ModelError(f"{asked} leaves no room for an answer: a prompt and its answer have 2 tokens at least")
    if length <= capacity:
        return length
    asked = "the model's length" if wanted is None else "--max-length"
    warnings.append(f"{asked} {length} is lowered to {capacity}, the tokens that the KV cache holds")
    return capacity


def _batch_size(batch: int, most: int, groups: int, settings: Settings, warnings: list[str]) -> int:
    """Requests at once: a request needs a page in each group at least, so more than `most` never run."""
    chosen = settings.scheduling.max_batch_size is not None
    if chosen and batch > most:
        fit = "pages" if groups == 1 else f"requests with a page in each of {groups} groups of layers"
        warnings.append(f"--max-batch-size {batch} is more than the {most} {fit} that fit: that many never run at once")
    return batch if chosen else min(batch, most)


def _no_room(settings: Settings, device: str, free: int, held: Held, per_page: int) -> str:
    share = settings.kv_cache.device_memory_utilization
    return (
        f"no room for the KV cache: of {size_text(free)} free on {device} {100 * share:.4g}% may be used, {held} are "
        f"taken, and one page needs {size_text(per_page)}; {_advice(settings)}"
    )


def _advice(settings: Settings) -> str:
    tokens = settings.scheduling.max_batch_input_tokens
    return (
        f"free some memory, lower --max-batch-input-tokens ({tokens}) or --kv-cache-page-size, raise "
        "--device-memory-utilization, or take a smaller model"
    )


def _longest(pages: int, page_size: int, bounds: Bounds, most: int) -> int:
    """The most tokens, up to `most`, of a sequence that holds no more than so many pages."""
    low, high = 0, -(-most // page_size)
    while low < high:
        middle = (low + high + 1) // 2
        if pages_of(middle * page_size, page_size, bounds) <= pages:
            low = middle
        else:
            high = middle - 1
    return min(low * page_size, most)
