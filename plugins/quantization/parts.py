"""The tensors of a quantized weight: roles by the endings of their names, and numbers packed into words."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.errors import ModelError

if TYPE_CHECKING:
    import torch

_PLAIN = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
WORD = 32
log = logging.getLogger("maxserve.model")
FLOATS = frozenset(_PLAIN.values())
WORDS = frozenset({"I32"})
INDICES = frozenset({"I32", "I64"})


def named_part(tensor: str, dtype: str, types: Collection[str], endings: Mapping[str, str]) -> tuple[str, str] | None:
    """The weight and the role of a tensor whose name has one of the `endings`, if it is of one of the `types`."""
    ending = next((ending for ending in endings if tensor.endswith(ending)), None)
    if ending is None or dtype not in types:
        return None
    return tensor.removesuffix(ending), endings[ending]


def damaged(what: str) -> ModelError:
    """The error for tensors that no layout has."""
    return ModelError(f"{what}; fetch the checkpoint again")


class Rounded:
    """What a checkpoint was made to have rounded beside its weights, which is not done unasked: logged once."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def inputs(self) -> None:
        self._found["inputs of projections are not rounded to what the checkpoint is made for"] = None

    def cache(self) -> None:
        self._found[
            "the checkpoint is made for keys and values in 8 bits: --kv-cache-format float8_e4m3fn stores them so, "
            "divided by its scales"
        ] = None

    def say(self) -> None:
        for line in self._found:
            log.info("%s", line)
        self._found = {}


def require(tensors: Mapping[str, Any], *roles: str) -> None:
    """ModelError unless there is a tensor for each of the roles."""
    missing = [role for role in roles if role not in tensors]
    if missing:
        raise damaged(f"it is part of a quantized weight whose {' and '.join(missing)} are missing")


def of_types(tensors: Mapping[str, Any], types: Mapping[str, Collection[str]]) -> None:
    """ModelError for a tensor that is not of one of its role's types."""
    for role, known in types.items():
        if role in tensors and tensors[role].dtype not in known:
            raise damaged(f"its {role} is of type {tensors[role].dtype}, not {' or '.join(sorted(known))}")


def computed_type(config: Mapping[str, Any]) -> str:
    """The type in which a model computes, as safetensors names it: what weights are unpacked to."""
    inner = config.get("text_config")
    named = [config, inner] if isinstance(inner, Mapping) else [config]
    types = [str(each.get("dtype") or each.get("torch_dtype") or "") for each in named]
    return next((_PLAIN[each] for each in types if each in _PLAIN), "BF16")


def fields(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The numbers of so many bits in words [..., n] int32, one after another from the lowest bit on: uint8 [..., m]."""
    import torch

    if bits == 8:
        return words.contiguous().view(torch.uint8)
    if bits in (2, 4):
        bytes = words.contiguous().view(torch.uint8)
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
        return (bytes[..., None] >> shifts & (1 << bits) - 1).flatten(-2)
    return _across_words(words.reshape(*words.shape[:-1], -1, bits).long() & 0xFFFFFFFF, bits)


def _across_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Of [..., n, bits] words the 32 numbers in each n, of which some lie in two words."""
    import torch

    found = []
    for first in range(0, WORD * bits, bits):
        word, shift = divmod(first, WORD)
        number = words[..., word] >> shift
        if shift + bits > WORD:
            number = number | words[..., word + 1] << WORD - shift
        found.append((number & (1 << bits) - 1).to(torch.uint8))
    return torch.stack(found, dim=-1).flatten(-2)


def counted(bits: int, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A table of whole numbers, and the zeros that are subtracted; None where all are one, which the table is less."""
    import torch

    table, first = torch.arange(float(1 << bits)), zeros.flatten()[0]
    return (table - first, None) if bool((zeros == first).all()) else (table, zeros)


def listed(tensors: Mapping[str, Any]) -> str:
    """The roles of tensors with their shapes."""
    return ", ".join(f"{role} {list(tensor.shape)}" for role, tensor in sorted(tensors.items()))


def shared_by(inputs: int, groups: int, expected: int, *, varied: bool = False) -> int | None:
    """How many inputs a group has, as `expected` (-1: all), if that makes so many groups; else, where modules have
    groups of their own, equal shares."""
    size = min(expected, inputs) if expected > 0 else inputs
    if -(-inputs // size) == groups:
        return size
    return inputs // groups if varied and inputs % groups == 0 else None


def order_of(group_of: torch.Tensor, size: int, groups: int) -> torch.Tensor | None:
    """The inputs sorted by group, given the group of each; None where they lie so. ModelError for unequal groups."""
    import torch

    expected = torch.arange(len(group_of)) // size
    if torch.equal(group_of.long(), expected):
        return None
    order = torch.argsort(group_of.long(), stable=True)
    if not torch.equal(group_of.long()[order], expected):
        raise damaged(f"g_idx does not put {size} inputs into each of {groups} groups")
    return order


def module_part(tensor: str, roles: tuple[str, ...]) -> tuple[str, str] | None:
    """The weight MODULE.weight for MODULE.role, and that role."""
    module, _, role = tensor.rpartition(".")
    return (f"{module}.weight", role) if module and role in roles else None


def one_of(settings: Mapping[str, Any], key: str, known: tuple[int, ...]) -> int:
    """A number of the "quantization_config", one of those known."""
    value = settings.get(key)
    if isinstance(value, bool) or value not in known:
        listed = ", ".join(map(str, known))
        raise ModelError(f"{key!r} of the quantization is {value!r:.60}; what is read is {listed}")
    return int(value)


def group_size(settings: Mapping[str, Any], key: str = "group_size") -> int:
    """How many inputs share a scale; -1: all."""
    value = settings.get(key, -1)
    if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != -1):
        raise ModelError(f"{key!r} of the quantization is {value!r:.60}; it is a number of inputs, or -1 for all")
    return value
