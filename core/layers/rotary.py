"""How do queries and keys learn their positions?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from maxserve.core.layers.rope import frequencies
from maxserve.core.model.config import ModelConfig
from maxserve.core.nouns import Batch


@dataclass(slots=True, kw_only=True)
class RotaryBatch(Batch):
    """A batch with the turns of its positions, gathered once a step for all layers."""

    cos: Tensor  # [T, 1, width]
    sin: Tensor  # [T, 1, width], negative in the first half

    def turn(self, x: Tensor) -> Tensor:
        """`x` [T, heads, head_dim] turned by the tokens' positions; a new tensor."""
        width = self.cos.shape[-1]
        if width == x.shape[-1]:
            return torch.addcmul(x * self.cos, x.roll(width // 2, -1), self.sin)
        turned, rest = x[..., :width], x[..., width:]
        turned = torch.addcmul(turned * self.cos, turned.roll(width // 2, -1), self.sin)
        return torch.cat((turned, rest), dim=-1)


class Rotary(nn.Module):
    """The table of cosines and sines of every position, one after another for each regime of prompts.

    Computed by `prepare` in float32: [regimes * max_length, cosines and sines of width / 2 each].
    """

    table: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("table", torch.empty(0), persistent=False)

    def prepare(self, device: torch.device) -> None:
        """Computes the table on `device`."""
        borders, length = self.config.prompt_regimes, self.config.max_length
        tables = [self._turns(longest, device) for longest in (*borders, length)]
        for i in reversed(range(len(borders))):  # a text that grows beyond a border goes on as a longer one
            tables[i][borders[i] :] = tables[i + 1][borders[i] :]
        self.table = torch.cat(tables)

    def _turns(self, longest: int, device: torch.device) -> Tensor:
        """Those of every position, by the frequencies of texts up to `longest`; [max_length, width]."""
        radians, scale = frequencies(self.config, longest)
        angles = torch.arange(self.config.max_length, device=device).float()[:, None] * radians.to(device)
        return torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(scale)

    def forward(self, batch: Batch, dtype: torch.dtype) -> RotaryBatch:
        """The same batch with the turns of its positions in `dtype`."""
        cos, sin = self.table.index_select(0, self._rows(batch)).to(dtype)[:, None].chunk(2, dim=-1)
        return RotaryBatch(
            input_ids=batch.input_ids,
            positions=batch.positions,
            slots=batch.slots,
            query_start=batch.query_start,
            seq_lens=batch.seq_lens,
            prompt_lens=batch.prompt_lens,
            tables=batch.tables,
            logit_rows=batch.logit_rows,
            attention=batch.attention,
            together=batch.together,
            cos=torch.cat((cos, cos), dim=-1),
            sin=torch.cat((-sin, sin), dim=-1),
        )

    def _rows(self, batch: Batch) -> Tensor:
        """Where in the table each token's turns are, [T]."""
        borders = self.config.prompt_regimes
        if not borders:
            return batch.positions
        regimes = np.searchsorted(borders, batch.prompt_lens)  # how many borders each prompt exceeds
        starts = np.repeat(regimes * self.config.max_length, np.diff(batch.query_start))
        return batch.positions + torch.from_numpy(starts).to(batch.positions.device, non_blocking=True)
