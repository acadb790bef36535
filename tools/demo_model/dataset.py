"""How are texts laid into batches, and which tokens is the model judged on?

A text begins at position 0 and sees only itself, as a request does when the model is served. Texts of similar length
share a batch, which keeps the padding to a few per cent without masks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from conversation import Text, Writer
from corpus import Corpus
from tokenizer import END, END_OF_TEXT, START
from tokenizers import Tokenizer
from torch import Tensor

ANSWER, OPENING, QUESTION = 1.0, 3.0, 0.1  # weights of the tokens in the loss
CHOICE = 6  # tokens at the start of an answer that decide which one it is
CUT, KEPT = (
    0.6,
    18,
)  # share of the texts whose last answer is cut, and after how many tokens: choosing is hard, reciting easy
POOL = 512  # texts that are sorted by length at a time


@dataclass(frozen=True, slots=True)
class Example:
    ids: list[int]
    weights: list[float]  # of each id as a target


@dataclass(frozen=True, slots=True)
class Batch:
    ids: Tensor  # [rows, length]
    weights: Tensor  # [rows, length]; 0 where padded


def encode(text: Text, tokenizer: Tokenizer, positions: int) -> Example:
    """The text as the chat template writes it, with a weight for each token; cut at the last position."""
    ids: list[int] = []
    weights: list[float] = []
    for piece, weight in _pieces(text):
        new = tokenizer.encode(piece, add_special_tokens=False).ids
        ids += new
        weights += [OPENING if weight == ANSWER and i < CHOICE else weight for i in range(len(new))]
    return Example(ids[:positions], weights[:positions])


def opening(example: Example, tokenizer: Tokenizer, kept: int = KEPT) -> Example:
    """The example without the end of its last answer; prose, which has no turns, stays whole."""
    turn = tokenizer.token_to_id(START)
    starts = [i for i, token in enumerate(example.ids) if token == turn]
    end = starts[-1] + kept if starts else len(example.ids)
    return Example(example.ids[:end], example.weights[:end])


def batches(corpus: Corpus, tokenizer: Tokenizer, *, tokens: int, positions: int, seed: int) -> Iterator[Batch]:
    """Batches without end of about `tokens` tokens each; the same ones for the same seed."""
    order = Random(seed)
    examples = (encode(text, tokenizer, positions) for text in Writer(corpus, seed).texts())
    cut = (opening(example, tokenizer) if order.random() < CUT else example for example in examples)
    return laid_out(cut, tokens=tokens, pad=tokenizer.token_to_id(END_OF_TEXT), order=order)


def laid_out(examples: Iterator[Example], *, tokens: int, pad: int, order: Random) -> Iterator[Batch]:
    """Batches of about `tokens` tokens each until the examples end; those of similar length share one."""
    while pool := list(islice(examples, POOL)):
        groups = list(_grouped(sorted(pool, key=lambda example: len(example.ids)), tokens))
        order.shuffle(groups)
        yield from (_padded(group, pad) for group in groups)


def _pieces(text: Text) -> Iterator[tuple[str, float]]:
    if not text.messages:
        yield text.prose + END_OF_TEXT, ANSWER
    for message in text.messages:
        answered = message.role == "assistant"
        yield f"{START}{message.role}\n", QUESTION
        yield message.content + END, ANSWER if answered else QUESTION
        yield "\n", QUESTION


def _grouped(examples: list[Example], tokens: int) -> Iterator[list[Example]]:
    group: list[Example] = []
    for example in examples:
        if group and len(example.ids) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(example)
    yield group


def _padded(group: list[Example], pad: int) -> Batch:
    longest = max(len(example.ids) for example in group)
    rows = [example.ids + [pad] * (longest - len(example.ids)) for example in group]
    weights = [example.weights + [0.0] * (longest - len(example.weights)) for example in group]
    return Batch(torch.tensor(rows), torch.tensor(weights))
