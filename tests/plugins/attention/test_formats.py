"""Storage of another type than the model's is written and read as precisely as that type allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from maxserve.architectures.layers.config import from_transformers
from maxserve.architectures.llama import Model
from maxserve.interfaces.cache import PlainFormat
from maxserve.plugins.attention.formats import read
from maxserve.plugins.attention.formats import write as write_codes
from maxserve.plugins.attention.paged import PagedAttention
from maxserve.testing.architecture import TinyCache, randomised, run_step

TYPES = [torch.float32, torch.bfloat16, torch.float8_e4m3fn]
STEP = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float8_e4m3fn: 2.0**-4}  # largest relative rounding


def write(storage: torch.Tensor, slots: torch.Tensor, values: torch.Tensor) -> None:
    write_codes(storage, slots, PlainFormat(storage.dtype).encode(values)[0])


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_what_was_written_is_read_up_to_the_rounding_of_its_type(stored: torch.dtype, given: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    storage = torch.zeros(32, 2, 8).to(stored)
    slots = torch.tensor([5, 31, 0, 7])
    wide = torch.randn(4, 5, 8, generator=generator).mul(20).to(given)
    values = wide[:, 1:3]  # a view, as an architecture's projections are
    values = torch.where(values.abs() < 0.02, 0.02, values)  # smaller ones have less than their full precision
    write(storage, slots, values)
    found = read(storage, slots)
    assert found.dtype == stored
    torch.testing.assert_close(found.to(given), values, rtol=STEP[stored], atol=0)
    untouched = [slot for slot in range(32) if slot not in slots.tolist()]
    assert not storage.float()[untouched].any()


def test_what_is_too_large_for_8_bits_becomes_the_largest_there_is() -> None:
    storage = torch.zeros(1, 1, 6).to(torch.float8_e4m3fn)
    write(storage, torch.tensor([0]), torch.tensor([[[449.0, 1e6, torch.inf, -470.0, -torch.inf, 448.0]]]))
    assert storage.float().flatten().tolist() == [448, 448, 448, -448, -448, 448]


def test_what_is_no_number_stays_none() -> None:
    """A model that went wrong must not look as if it had not."""
    storage = torch.zeros(1, 1, 1).to(torch.float8_e4m3fn)
    write(storage, torch.tensor([0]), torch.full((1, 1, 1), torch.nan))
    assert storage.float().isnan().all()


@pytest.mark.parametrize("scatter", [None, 3])
@pytest.mark.parametrize(("stored", "bound"), [(torch.bfloat16, 0.02), (torch.float8_e4m3fn, 0.25)])
def test_logits_stay_near_those_of_a_float32_cache(stored: torch.dtype, bound: float, scatter: int | None) -> None:
    """The root mean square of what changes, as a part of that of the logits; whole prompts, chunks, one by one."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
    raw = LlamaConfig(vocab_size=50, num_key_value_heads=2, max_position_embeddings=128, **sizes).to_dict()
    config = from_transformers(raw)
    model = randomised(Model(config))
    model.prepare()
    logits: dict[torch.dtype, torch.Tensor] = {}
    prompts = np.random.default_rng(1).integers(50, size=(2, 90)).tolist()
    for dtype in (torch.float32, stored):
        cache = TinyCache(config.cache_layers, max_length=100, scatter=scatter, dtype=dtype, attention=PagedAttention)
        steps = [[(0, prompts[0][:60]), (1, prompts[1])], [(0, prompts[0][60:89])], [(0, prompts[0][89:])]]
        logits[dtype] = torch.cat([run_step(model, cache, step) for step in steps])
    difference = logits[stored] - logits[torch.float32]
    relative = (difference.square().mean() / logits[torch.float32].square().mean()).sqrt()
    assert 0 < relative < bound
