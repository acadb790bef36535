"""The history of a row, which the penalties share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from maxserve.interfaces.sampler import Rows

# (row, token, strength) of every token of the histories, three tensors of one length; a token may come repeatedly.
Entries = tuple["Tensor", "Tensor", "Tensor"]


def entries(rows: Rows, strengths: Sequence[float], neutral: float, *, prompt: bool) -> Entries | None:
    """The tokens of every row whose strength is not `neutral`: generated ones, and those of the prompt if asked.

    Read from the rows anew each time, so that nothing has to be kept right over preemption and aborts: the cost is
    that of copying the histories.
    """
    import numpy as np  # not where only the fields of requests are read

    asked = [i for i, strength in enumerate(strengths) if strength != neutral]
    histories = [rows.tokens[i] if prompt else rows.tokens[i][rows.prompt_lengths[i] :] for i in asked]
    counts = [len(history) for history in histories]
    if not sum(counts):
        return None
    return (
        rows.tensor(np.repeat(asked, counts)),
        rows.tensor(np.concatenate(histories)),
        rows.tensor(np.repeat([float(strengths[i]) for i in asked], counts)),
    )
