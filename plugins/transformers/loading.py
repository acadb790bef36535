"""A checkpoint in a transformers class, by transformers' own reading of it.

It knows what every family has renamed, fused and stacked since its checkpoints were written. Tensors come mapped from
the files, so what needs no change takes no memory before it is put where it stays.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maxserve.interfaces.errors import ModelError
from maxserve.loading import LinearStorage, place_weights, unwrapped
from maxserve.registry import cause

if TYPE_CHECKING:
    from maxserve.interfaces.architecture import WeightMap
    from maxserve.interfaces.progress import Progress
    from maxserve.interfaces.weight_format import WeightFile
    from maxserve.plugins.transformers.model import Model
    from maxserve.plugins.transformers.spec import Source

LISTED = 5


def load(
    model: Model,
    files: Sequence[WeightFile],
    weight_map: WeightMap,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: Progress,
    storage: LinearStorage | None = None,
    quantization: object | None = None,
) -> None:
    """Fills `model` as `load_weights` would; what its class insists on having in float32 stays so."""
    if quantization is not None:
        raise ModelError("this architecture reads no quantized checkpoints; use an unquantized one")
    progress.phase("Loading weights")
    lm = _filled(model.spec.source, _tensors(files), weight_map.optional)
    model.take(lm)
    wide = {
        name: weight for name, weight in lm.named_parameters() if weight.dtype != lm.dtype and dtype != torch.float32
    }
    place_weights(model, dtype=dtype, device=device, progress=progress, storage=storage)
    for name, weight in wide.items():
        module, _, own = name.rpartition(".")
        setattr(lm.get_submodule(module), own, nn.Parameter(weight.detach().to(device), requires_grad=False))
    for module in lm.modules():
        for own, buffer in module.named_buffers(recurse=False):
            setattr(module, own, buffer.to(device))


def _tensors(files: Iterable[WeightFile]) -> dict[str, Tensor]:
    """Every tensor of the files, mapped."""
    found: dict[str, Tensor] = {}
    for file in files:
        with file.open() as read:
            found.update((unwrapped(name), read(name)) for name in file.tensors)
    return found


def _filled(source: Source, tensors: dict[str, Tensor], optional: Iterable[str]) -> Any:
    """A model with these weights, in the type most of them have; ModelError naming those that do not fit.

    `optional` are expressions of names that the model may lack.
    """
    cls: Any = source.cls
    config = source.ours()
    try:
        with _quiet():
            lm, report = cls.from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=_usual_dtype(tensors),
                ignore_mismatched_sizes=True,  # they are reported, as the others are, and refused below
                output_loading_info=True,
            )
    except Exception as error:  # the class is not ours
        raise ModelError(
            f"the weights do not fit {cls.__name__}: some are missing or of another shape, so that transformers cannot "
            f"make of them what the class has: {cause(error)}"
        ) from error
    # A stack of experts of which one is not there has another shape than the model's.
    missing = [*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])]
    unexpected = [key for key in report["unexpected_keys"] if not any(re.search(each, key) for each in optional)]
    problems = [
        _several("missing from the checkpoint, or of another shape there", missing),
        _several("in the checkpoint but not in the model", unexpected),
        _several("not to be read", report["error_msgs"]),
    ]
    if any(problems):
        raise ModelError(f"the weights do not fit {cls.__name__}: " + "; ".join(filter(None, problems)))
    return lm.eval()


def _usual_dtype(tensors: dict[str, Tensor]) -> torch.dtype:
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _several(what: str, names: Iterable[str]) -> str:
    listed = sorted(map(str, names))
    if not listed:
        return ""
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    return f"{what}: {', '.join(listed[:LISTED])}{more}"


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers shows no bar of its own and no table of what does not fit: both are logged here."""
    from transformers.utils import logging as module

    theirs: Any = module
    shown, logger = theirs.is_progress_bar_enabled(), logging.getLogger("transformers")
    level = logger.level
    theirs.disable_progress_bar()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            theirs.enable_progress_bar()
