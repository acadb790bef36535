"""Batches of events as routers read them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from maxserve.interfaces.cache import CacheGroup
from maxserve.plugins.events.queue import CLEARED, STORED, Event

MEDIA = {"device": "GPU", "host": "CPU"}  # what routers call the tiers, whatever the device is

Fields: TypeAlias = dict[str, Any]  # of an event, in the order of arrays; the tag comes first


class Batches:
    """Encodes events in one of the forms that are about.

    `arrays` are those of msgspec's tagged structs, as llm-d and vLLM's own example read them. In `event-maps` the batch
    is such an array and events are maps, as TensorRT-LLM sends them; in `maps` the batch is a map as well. Each says of
    which `replica` of the model it is.
    """

    def __init__(self, encoding: str, page_size: int, groups: Sequence[CacheGroup], replica: int = 0) -> None:
        self._encoding = encoding
        self._page_size = page_size
        self._replica = replica
        self._encoder = msgspec.msgpack.Encoder()
        # The groups that look back equally far are one for those who look for a prefix.
        self._reaches = list(dict.fromkeys((group.window, group.chunk) for group in groups))

    def encode(self, events: Iterable[Event]) -> bytes:
        """A batch of them, neighbours of a kind as one."""
        batch: list[Any] = self._merged(events)
        if self._encoding == "maps":
            return self._encoder.encode({"ts": time.time(), "events": batch, "data_parallel_rank": self._replica})
        if self._encoding == "arrays":
            batch = [list(event.values()) for event in batch]
        return self._encoder.encode([time.time(), batch, self._replica])

    def _merged(self, events: Iterable[Event]) -> list[Fields]:
        merged: list[Fields] = []
        for event in events:
            last = merged[-1] if merged else None
            fields = self._fields(event)
            if last is not None and _continues(last, fields):
                for name in ("block_hashes", "token_ids"):
                    last.get(name, []).extend(fields.get(name, ()))
            else:
                merged.append(fields)
        return merged

    def _fields(self, event: Event) -> Fields:
        if event is CLEARED:
            return {"type": "AllBlocksCleared"}
        kind, tier, group, page, parent, tokens = event
        if kind != STORED:
            return {"type": "BlockRemoved", "block_hashes": [page], "medium": MEDIA[tier], **self._group(group)}
        return {
            "type": "BlockStored",
            "block_hashes": [page],
            "parent_block_hash": parent,
            "token_ids": np.frombuffer(tokens, np.int64).tolist(),
            "block_size": self._page_size,
            "lora_id": None,
            "medium": MEDIA[tier],
            "lora_name": None,
            "extra_keys": None,
            **self._group(group),
            **_spec(group),
        }

    def _group(self, group: CacheGroup | None) -> Fields:
        return {} if group is None else {"group_idx": self._reaches.index((group.window, group.chunk))}


def _spec(group: CacheGroup | None) -> Fields:
    """How far the layers of a group look back, in vLLM's words."""
    if group is None:
        return {}
    kind = "sliding_window" if group.window is not None else "chunked_local_attention"
    spec = kind if group.bounded else "full_attention"
    return {"kv_cache_spec_kind": spec, "kv_cache_spec_sliding_window": group.window}


def _continues(last: Fields, event: Fields) -> bool:
    """Whether both can be told as one: pages of a prefix one after another, or pages that went together."""
    same = all(last.get(name) == event.get(name) for name in ("type", "medium", "group_idx"))
    if not same or "block_hashes" not in event:
        return same
    return "token_ids" not in event or event["parent_block_hash"] == last["block_hashes"][-1]
