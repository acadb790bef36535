"""The rotation by long factors where the texts of a step differ in length.

transformers' `longrope` looks at the largest position of a call and rotates all of it by long factors if that is beyond
the length of the first training. Here a call holds many texts: each is rotated as it would be alone, as the engine's
regimes of prompts say (architectures/layers/rotary.py does the same). `dynamic` changes only beyond the longest text
served.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.inputs import StepInputs

LONG = "longrope"


def borders(model: nn.Module) -> tuple[int, ...]:
    """The prompt lengths at which the model's rotations change; ModelError if they do so in a way not known here."""
    found = {_border(module) for module in _rotary_modules(model)}
    return tuple(sorted(found))


def _rotary_modules(model: nn.Module) -> list[Any]:
    """The modules whose rotations depend on the length of the text."""
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "rope_type")]
    if any(isinstance(module.rope_type, dict) and LONG in module.rope_type.values() for module in modules):
        raise ModelError("its rope differs by layer and by length (longrope), which cannot be served")
    return [module for module in modules if module.rope_type == LONG]


def _border(module: Any) -> int:
    border: int = module.config.rope_parameters["original_max_position_embeddings"]
    return border


def rotate_without_looking(model: nn.Module) -> None:
    """Lets a model without memory rotate, though some classes look at the numbers of positions: on the host instead."""
    for module in _rotary_modules(model):
        with torch.device("cpu"):
            module.forward = _OnHost(type(module)(module.config))


class _OnHost:
    """The forward of a module that rotates, by one with memory of its own."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.device("cpu"):
            positions = torch.arange(position_ids.shape[1])[None]
            cos, sin = self._module(torch.empty(1, 1, dtype=x.dtype), positions)
        return cos.to(x.device), sin.to(x.device)


class LongRope:
    """Stands for the forward of every module of a model whose rotations depend on the length of the text."""

    def __init__(self, model: nn.Module) -> None:
        self._long: Tensor | None = None
        self._border = 0
        for module in _rotary_modules(model):
            self._border = _border(module)
            module.forward = _Rotate(self, module.forward)

    def begin(self, inputs: StepInputs | None) -> None:
        """The step's texts; None where the model is to do as its class does."""
        if not self._border or inputs is None:
            self._long = None
            return
        prompts = np.repeat(inputs.prompt_lens > self._border, np.diff(inputs.query_start))
        beyond = inputs.positions >= self._border  # a text that grows beyond the border goes on as a longer one
        self._long = torch.from_numpy(prompts).to(beyond.device) | beyond

    def rotate(self, run: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of each token, [1, T, width]."""
        if self._long is None:
            cos, sin = run(x, position_ids)
            return cos, sin
        last = torch.full_like(position_ids[:, :1], self._border)
        short = run(x, position_ids.clamp(max=self._border - 1))
        long = run(x, torch.cat((position_ids, last), dim=1))
        chosen = self._long[None, :, None]
        cos, sin = (torch.where(chosen, b[:, :-1], a) for a, b in zip(short, long, strict=True))
        return cos, sin


class _Rotate:
    """The forward of one of them."""

    def __init__(self, rope: LongRope, run: Any) -> None:
        self._rope, self._run = rope, run

    def __call__(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self._rope.rotate(self._run, x, position_ids)
