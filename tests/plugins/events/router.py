"""What a router makes of events: read as llm-d's adapter reads them, kept as its index keeps them."""

from __future__ import annotations

from typing import Any

import msgspec

STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")
STORED += ("extra_keys", "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window")
FIELDS = {"BlockStored": STORED, "BlockRemoved": ("block_hashes", "medium", "group_idx"), "AllBlocksCleared": ()}


class Batch(msgspec.Struct):
    """As vLLM declares it now; it was `array_like` before."""

    ts: float
    events: list[Any]
    data_parallel_rank: int | None = None


def read(payload: bytes, replica: int = 0) -> list[dict[str, Any]]:
    """The events of a batch of a replica, whatever it is encoded in; fields at the end of an array may be missing."""
    batch = msgspec.msgpack.decode(payload)
    if isinstance(batch, list):
        batch = {"ts": batch[0], "events": batch[1], "data_parallel_rank": batch[2]}
    checked = msgspec.convert(batch, Batch)
    assert checked.data_parallel_rank == replica
    return [_fields(event) for event in checked.events]


def _fields(event: Any) -> dict[str, Any]:
    tag, values = (event["type"], event) if isinstance(event, dict) else (event[0], None)
    names = FIELDS[tag]
    if values is None:
        assert len(event) <= 1 + len(names)
        values = dict(zip(names, event[1:], strict=False))
    return {"type": tag, **{name: values.get(name) for name in names}}


class Index:
    """The pages that there are, by medium and group; every event must fit to those before."""

    def __init__(self) -> None:
        self.pages: dict[tuple[str, int | None], dict[int, tuple[int | None, tuple[int, ...]]]] = {}
        self.windows: dict[int, tuple[str, int | None]] = {}  # what was said of each group

    def add(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["type"] == "AllBlocksCleared":
                self.pages.clear()
                continue
            pages = self.pages.setdefault((event["medium"], event["group_idx"]), {})
            if event["type"] == "BlockRemoved":
                for page in event["block_hashes"]:
                    del pages[page]
            else:
                self._store(event, pages)

    def _store(self, event: dict[str, Any], pages: dict[int, tuple[int | None, tuple[int, ...]]]) -> None:
        size, tokens, parent = event["block_size"], event["token_ids"], event["parent_block_hash"]
        assert len(tokens) == size * len(event["block_hashes"])
        assert (event["lora_id"], event["lora_name"], event["extra_keys"]) == (None, None, None)
        if event["group_idx"] is not None:
            said = (event["kv_cache_spec_kind"], event["kv_cache_spec_sliding_window"])
            assert self.windows.setdefault(event["group_idx"], said) == said
        whole = event["kv_cache_spec_kind"] in (None, "full_attention")
        assert parent is None or not whole or parent in pages, "a page behind one that is not known cannot be found"
        for number, page in enumerate(event["block_hashes"]):
            assert 0 < page < 2**64
            assert page not in pages, "what is stored twice must be removed twice"
            pages[page] = parent, tuple(tokens[number * size : (number + 1) * size])
            parent = page

    def found(self, tokens: list[int], size: int) -> int:
        """How many leading tokens the device has, as who routes a prompt asks."""
        known = {content: page for page, content in self.pages.get(("GPU", None), {}).items()}
        parent: int | None = None
        for start in range(0, len(tokens) - size + 1, size):
            parent = known.get((parent, tuple(tokens[start : start + size])))
            if parent is None:
                return start
        return len(tokens) // size * size
