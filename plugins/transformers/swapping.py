"""Projections of transformers classes on the kernels that serve here."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from maxserve.architectures.layers import Linear
from maxserve.loading import Embedding


def swap(model: nn.Module) -> None:
    """Puts the core's projections and tables in the places of torch's, with the same weights; subclasses stay.

    A weight of another type than the model's, kept so by its class on purpose, stays with its class too. The weight of
    a Conv1D, which is a projection, is transposed.
    """
    from transformers.pytorch_utils import Conv1D

    usual = _usual_dtype(model)
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear and module.weight.dtype == usual:
                setattr(parent, name, _projection(module))
            elif type(module) is Conv1D and module.weight.dtype == usual:
                setattr(parent, name, _transposed(module))
            elif type(module) is nn.Embedding and module.weight.dtype == usual and module.max_norm is None:
                setattr(parent, name, _table(module))


def _usual_dtype(model: nn.Module) -> torch.dtype:
    sizes: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])


def _projection(module: nn.Linear) -> Linear:
    made = Linear(module.in_features, module.out_features, bias=module.bias is not None)
    made.weight = cast("nn.Parameter", module.weight)
    made.bias = cast("nn.Parameter | None", module.bias)
    return made


def _transposed(module: Any) -> Linear:
    inputs, outputs = module.weight.shape
    made = Linear(inputs, outputs, bias=True)
    made.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
    made.bias = cast("nn.Parameter", module.bias)
    return made


def _table(module: nn.Embedding) -> Embedding:
    made = Embedding(module.num_embeddings, module.embedding_dim)
    made.weight, made.compute = cast("nn.Parameter", module.weight), module.weight.dtype
    return made


def pretend_kept(model: nn.Module) -> None:
    """Takes the weights out of the core's projections and tables, as a linear method would."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.set_packed(_Nothing(module.outputs))
        elif isinstance(module, Embedding) and module.weight is not None:
            module.set_packed(_Nothing(module.weight.shape[1]))


class _Nothing:
    """A PackedLinear that can be read, of no memory."""

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs

    def load_rows(self, rows: Tensor, first: int) -> None:
        """Nothing is kept."""

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(*x.shape[:-1], self._outputs)

    def embedding(self, ids: Tensor) -> Tensor:
        return torch.empty(*ids.shape, self._outputs, device=ids.device)
