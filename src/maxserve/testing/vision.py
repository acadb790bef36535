"""Checks that a vision-language model computes what transformers computes, however its tokens are cut into steps.

A plugin author subclasses `VisionChecks`, names the architecture and gives tiny configs, an image processor for them,
and the tokens that stand for images, whose ids are their numbers in the list:

    class TestAcme(VisionChecks):
        architecture = "AcmeForConditionalGeneration"
        tokens = ("<image>",)
        hf_configs = {"plain": AcmeConfig(image_token_id=0, ...)}

        @classmethod
        def processor(cls, hf_config):
            return AcmeImageProcessorPil(size={"height": 28, "width": 28})
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from maxserve.core.engine.inputs import InputsBuilder
from maxserve.core.engine.ledger import Ledger
from maxserve.core.engine.sequence import Sequence as Row
from maxserve.core.engine.step import Step
from maxserve.core.interfaces.images import ImagesContext, ReadsImages, StepImagesContext
from maxserve.core.interfaces.request import Image, Request
from maxserve.core.interfaces.step_context import StepContext
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.literal_encoding import PromptEncoder, PromptText
from maxserve.plugins.tokenizers.folder import load_tokenizer
from maxserve.plugins.vision.image_prompt import image_prompt
from maxserve.testing.architecture import ArchitectureCases, ArchitectureChecks, Case, QuirkChecks
from maxserve.testing.tiny_cache import TinyCache
from maxserve.vision import StepImages

__all__ = ["Prompt", "Steps", "VisionCases", "VisionChecks", "VisionQuirkChecks", "tiny_tokenizer"]


def tiny_tokenizer(folder: Path, tokens: Sequence[str]) -> int:
    """Writes a tokenizer of bytes whose first ids are `tokens`; returns its size."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Json

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: id for id, token in enumerate((*tokens, *alphabet))}
    tokenizer = Json(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocabulary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A text with images in it, as tokens and as transformers' inputs."""

    tokens: list[int]
    images: tuple[Image, ...]
    inputs: Mapping[str, Tensor]


class Steps:
    """Runs a model step by step over a tiny cache, as the engine does."""

    def __init__(self, model: Any, cache: TinyCache) -> None:
        self.model, self.cache, self.ledger = model, cache, Ledger()
        self.images = StepImages(StepImagesContext(device=torch.device("cpu")))
        self.builder = InputsBuilder(
            cache,  # type: ignore[arg-type]  # of a cache it needs no more than the tables
            cache.page_size,
            torch.device("cpu"),
            images=self.images,
        )
        self._rows = 0

    def row(self, tokens: Sequence[int], images: tuple[Image, ...] = ()) -> Row:
        """A new sequence, none of whose tokens are computed."""
        request = Request(id=str(self._rows), prompt=tuple(tokens), images=images)
        own = self.images.prompt(request) if images else None
        row = Row(request, limit=512, ends=frozenset(), params={}, images=own, ledger=self.ledger)
        row.take_row(self._rows, 0, self.cache.page_size)
        self._rows += 1
        return row

    def run(self, counts: Mapping[Row, int]) -> Tensor:
        """The logits of every token of a step that computes so many of each sequence, [T, vocab_size]."""
        step = Step(counts, self.ledger)
        with torch.inference_mode():
            inputs = self.builder.build(step)
            self.cache.attention.begin(inputs)
            context = StepContext(inputs=inputs, attention=self.cache.attention)
            logits: Tensor = self.model.logits(self.model.forward(context))
        self.ledger.computed[step.slots] = step.stops
        return logits

    def cut(self, row: Row, ends: Iterable[int]) -> Tensor:
        """The logits of a sequence that is computed in steps which end there, or where nothing is torn apart."""
        parts = []
        for end in ends:
            wanted = end - row.computed
            count = wanted if row.images is None else row.images.uncut(row.computed, wanted)
            if wanted > 0:
                parts.append(self.run({row: min(count, row.length - row.computed)}))
        return torch.cat(parts)


class VisionCases(ArchitectureCases):
    """Cases of architectures with `images`: models with their processors, and prompts with images."""

    tokens: ClassVar[Sequence[str]]
    sizes: ClassVar[Sequence[tuple[int, int]]] = ((40, 56), (64, 36))  # of the images, width and height

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        from transformers import AutoModelForImageTextToText

        auto: Any = AutoModelForImageTextToText
        model: nn.Module = auto.from_config(hf_config, attn_implementation="eager")
        return model

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        """The image processor of such a model, from transformers."""
        raise NotImplementedError

    @classmethod
    def inputs(cls, tokens: list[int], made: dict[str, Tensor]) -> dict[str, Tensor]:
        """What transformers' model takes beside the tokens, from what its processor `made`."""
        return made

    @classmethod
    def write(cls, folder: Path, hf_config: Any, model: nn.Module) -> None:
        """All files of a model: weights, tokenizer, processor."""
        super().write(folder, hf_config, model)
        cls.processor(hf_config).save_pretrained(folder)
        tiny_tokenizer(folder, cls.tokens)

    def prompt(self, case: Case, count: int, *, seed: int = 0) -> Prompt:
        """A text with so many images."""
        folder = Path(case.files[0]).parent
        tokenizer = load_tokenizer(str(folder))
        reader = self.reader(case, folder, tokenizer)
        files = [self.image(seed + i, self.sizes[i % len(self.sizes)]) for i in range(count)]
        text = "one " + " two ".join([reader.placeholder] * count) + " three"
        tokens, images = image_prompt(
            PromptText(text),
            [reader.read(image) for image in files],
            reader.placeholder,
            tokenizer,
            PromptEncoder(tokenizer).encode,
        )
        made = {}
        if files:
            made = dict(self.processor(case.reference.config)(images=files, return_tensors="pt"))
        return Prompt(tokens=tokens, images=images, inputs=self.inputs(tokens, made) if made else {})

    def reader(self, case: Case, folder: Path, tokenizer: Tokenizer) -> ReadsImages:
        assert case.entry.component.images is not None, "the architecture declares no `images`"
        raw = json.loads((folder / "config.json").read_text())
        build = case.host.load(case.entry, case.entry.component.images)
        reader: ReadsImages = build(ImagesContext(path=str(folder), model=raw, tokenizer=tokenizer))
        return reader

    @staticmethod
    def image(seed: int, size: tuple[int, int]) -> PIL.Image.Image:
        """An image of coloured noise."""
        width, height = size
        return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))

    def seen(self, case: Case, prompt: Prompt, more: Sequence[int] = ()) -> Tensor:
        """transformers' logits of every token of the prompt and of `more` behind it."""
        tokens = [*prompt.tokens, *more]
        inputs = {
            name: torch.cat((values, values.new_zeros(1, len(more))), dim=1) if name.endswith("type_ids") else values
            for name, values in prompt.inputs.items()
        }
        model: Any = case.reference.model
        if hasattr(model, "rope_deltas"):
            model.rope_deltas = None
        with torch.inference_mode():
            logits: Tensor = case.reference(torch.tensor([tokens]), **inputs).logits[0]
        return logits

    def steps(self, case: Case) -> Steps:
        return Steps(case.load(), case.cache(max_length=512, scatter=1))

    def check_whole(self, case: Case, count: int) -> None:
        """A prompt with so many images, in one step."""
        prompt, steps = self.prompt(case, count), self.steps(case)
        row = steps.row(prompt.tokens, prompt.images)
        self.check(steps.run({row: row.length}), self.seen(case, prompt))

    def check_chunks(self, case: Case) -> None:
        """Cut in the middle of each image, where its tokens do not see each other, and elsewhere."""
        prompt, steps = self.prompt(case, 2), self.steps(case)
        row = steps.row(prompt.tokens, prompt.images)
        middles = [image.start + image.length // 2 for image in prompt.images]
        self.check(steps.cut(row, (2, *middles, len(prompt.tokens) - 1, len(prompt.tokens))), self.seen(case, prompt))

    def check_answer_to_images(self, case: Case) -> None:
        """An answer token by token, and the whole again at once, as after a preemption."""
        prompt, more = self.prompt(case, 1), [20, 21, 22]
        expected = self.seen(case, prompt, more)
        steps = self.steps(case)
        row = steps.row(prompt.tokens, prompt.images)
        logits = [steps.run({row: row.length})]
        for token in more:
            row.append(token)
            logits.append(steps.run({row: 1}))
        self.check(torch.cat(logits), expected)
        again = steps.row(prompt.tokens, prompt.images)
        for token in more:
            again.append(token)
        self.check(steps.run({again: again.length}), expected)


class VisionChecks(VisionCases, ArchitectureChecks):
    """What every architecture with `images` must pass, beside what all must pass as text."""

    @pytest.mark.parametrize("count", [1, 2])
    def test_images_whole(self, case: Case, count: int) -> None:
        self.check_whole(case, count)

    def test_images_in_chunks(self, case: Case) -> None:
        self.check_chunks(case)

    def test_tokens_after_images(self, case: Case) -> None:
        self.check_answer_to_images(case)

    def test_images_beside_text(self, case: Case) -> None:
        """A decoding row with an image, a prompt of text, a decoding text, and a prompt with images, in one step."""
        one, two, text = self.prompt(case, 1, seed=5), self.prompt(case, 2, seed=7), self.prompt(case, 0)
        steps = self.steps(case)
        a, b, c, d = (steps.row(p.tokens, p.images) for p in (one, text, text, two))
        steps.run({a: a.length, c: c.length})
        a.append(30)
        c.append(31)
        logits = steps.run({a: 1, b: b.length, c: 1, d: d.length})
        expected = [
            self.seen(case, one, [30])[-1:],
            self.seen(case, text),
            self.seen(case, text, [31])[-1:],
            self.seen(case, two),
        ]
        self.check(logits, torch.cat(expected))

    def test_images_decide(self, case: Case) -> None:
        """Another image of the same size gives other logits, and is another image to the cache."""
        first, other = self.prompt(case, 1, seed=1), self.prompt(case, 1, seed=2)
        steps = self.steps(case)
        rows = [steps.row(p.tokens, p.images) for p in (first, other)]
        assert first.tokens == other.tokens
        assert (rows[0].keys != rows[1].keys).sum() == first.images[0].length
        logits = steps.run({row: row.length for row in rows})
        assert not torch.allclose(logits[len(first.tokens) - 1], logits[-1], atol=1e-3)

    def test_an_image_is_computed_once(self, case: Case) -> None:
        model = case.load()
        calls: list[int] = []
        inner = model.features

        def counted(tensors: Mapping[str, Tensor]) -> Tensor:
            calls.append(1)
            features: Tensor = inner(tensors)
            return features

        model.features = counted
        prompt, steps = self.prompt(case, 1), Steps(model, case.cache(max_length=512))
        row = steps.row(prompt.tokens, prompt.images)
        steps.cut(row, (len(prompt.tokens) // 2, len(prompt.tokens)))
        again = steps.row(prompt.tokens, prompt.images)
        steps.run({again: again.length})
        assert len(calls) == 1


class VisionQuirkChecks(VisionCases, QuirkChecks):
    """What each quirk of an architecture with `images` must pass, in one test, as QuirkChecks have it."""

    def test_computes_as_the_reference(self, case: Case) -> None:
        super().test_computes_as_the_reference(case)
        self.check_whole(case, 2)
        self.check_chunks(case)
        self.check_answer_to_images(case)
