"""What config.json says about rotary positions. Old and new spellings, one rope for all layers or one per kind.

Read as transformers' RotaryEmbeddingConfigMixin and the config classes that differ from it read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxserve.architectures.layers.config_keys import as_number, size
from maxserve.interfaces.errors import ModelError

ROPE_KINDS = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"})

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
# Scalings that stretch from the length of the original training, which may differ from max_position_embeddings.
_WITH_ORIGINAL_LENGTH = frozenset({"yarn", "longrope", "llama3"})


_POSITIVE = ("theta", "factor", "beta_fast", "beta_slow")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """How positions rotate queries and keys. Fields a kind does not use have their defaults.

    `original_length` is the length in positions from which a scaling stretches; `attention_factor` None means:
    derived from the other fields; `partial` is the share of each head that is rotated.
    """

    theta: float = 10000.0
    kind: str = "default"
    partial: float = 1.0
    factor: float = 1.0
    original_length: int = 2048
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    def share(self, head_dim: int) -> int:
        """How many entries of a head the frequencies are spread over; may be odd."""
        return head_dim if self.kind == "proportional" else int(head_dim * self.partial)

    def width(self, head_dim: int) -> int:
        """How many entries of a head are rotated: always pairs, so one more than an odd share."""
        share = self.share(head_dim)
        return share + share % 2

    def check(self, head_dim: int) -> None:
        """ModelError if heads of that size cannot be rotated so."""
        for name in _POSITIVE:
            if getattr(self, name) <= 0:
                raise ModelError(f"config.json: rope's {name!r} is {getattr(self, name)}, but must be above 0")
        width = self.width(head_dim)
        if not 2 <= width <= head_dim:
            raise ModelError(
                f"config.json: rotary positions need an even number of entries per head, not {self.share(head_dim)}"
            )
        if self.kind == "longrope":
            for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
                if len(factors) != width // 2:
                    raise ModelError(
                        f"config.json: rope's {name!r} has {len(factors)} entries, but must have {width // 2}"
                    )


def read_rope(raw: Mapping[str, Any], max_length: int, *, partial: bool) -> RopeConfig:
    """The one rope of all layers: `rope_theta` with `rope_scaling`, or `rope_parameters`.

    Without `partial` whole heads are rotated, whatever `partial_rotary_factor` says.
    """
    given = dict(table_of(raw))
    if any(isinstance(value, Mapping) for value in given.values()):
        raise ModelError("config.json: the rope differs by layer type, which this reading does not know")
    for key in ("rope_theta", "partial_rotary_factor"):
        if given.get(key) is None:
            given[key] = raw.get(key)
    if (
        raw.get("original_max_position_embeddings") is not None
    ):  # transformers prefers it to the one in the rope's own table
        given["original_max_position_embeddings"] = raw["original_max_position_embeddings"]
    return _rope(given, max_length, theta=10000.0, partial=partial)


def read_ropes(raw: Mapping[str, Any], max_length: int, thetas: Mapping[str, float]) -> dict[str, RopeConfig]:
    """A rope for each layer type in `thetas`, which has the theta of those that say none.

    `rope_parameters` has a table for each; the older `rope_scaling` is of the layers that see everything. As in
    transformers, some say nothing here: one table for all, `truncate` inside a table, a scaling's `type` (the older
    `rope_type`).
    """
    tables = raw.get("rope_parameters")
    if tables is None:
        tables = {layer_type: {"rope_type": "default"} for layer_type in thetas}
    if not isinstance(tables, Mapping):
        raise _no_table(tables)
    scaling = raw.get("rope_scaling") or {}
    ropes = {}
    for layer_type, theta in thetas.items():
        given = {**(tables.get(layer_type) or {}), **(scaling if layer_type == "full_attention" else {})}
        given["truncate"] = None
        ropes[layer_type] = _rope(given, max_length, theta=theta, partial=False)
    return ropes


def table_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rope's own table, in either spelling; empty where there is none."""
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise _no_table(given)
    return given


def kind_of(table: Mapping[str, Any]) -> str:
    """The kind of rope that a table names."""
    return str(table.get("rope_type", table.get("type", "default")))


def _no_table(given: Any) -> ModelError:
    return ModelError(f"config.json: the rope parameters must be an object, not {type(given).__name__}")


def _rope(given: Mapping[str, Any], max_length: int, *, theta: float, partial: bool) -> RopeConfig:
    kind = kind_of(given)
    if kind not in ROPE_KINDS:
        raise ModelError(f"config.json: rope type {kind!r} is not known; known: {', '.join(sorted(ROPE_KINDS))}")
    for key in _NEEDS.get(kind, ()):
        if given.get(key) is None:
            raise ModelError(f"config.json: rope type {kind!r} needs {key!r}")
    fields = {key: _field(given, key) for key in _FIELDS if given.get(key) is not None}
    original = max_length
    if kind in _WITH_ORIGINAL_LENGTH:
        original = size(given, "original_max_position_embeddings", max_length)
        fields.setdefault("factor", max_length / original)
    fields["theta"] = as_number(given.get("rope_theta") or theta, "rope_theta")
    if partial and given.get("partial_rotary_factor") is not None:
        fields["partial"] = as_number(given["partial_rotary_factor"], "partial_rotary_factor")
    return RopeConfig(kind=kind, original_length=original, **fields)


_FIELDS = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
    "low_freq_factor",
    "high_freq_factor",
    "short_factor",
    "long_factor",
)


def _field(given: Mapping[str, Any], key: str) -> Any:
    value = given[key]
    if key == "truncate":
        return bool(value)
    if key in ("short_factor", "long_factor"):
        return tuple(as_number(item, key) for item in value)
    return as_number(value, key)
