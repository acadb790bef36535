"""Images in the engine: by what the cache knows them, where they may be cut, and what a step has of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    Qwen3VLConfig,
    SiglipVisionConfig,
)

from maxserve import LLM
from maxserve.core.config import Settings, resolve
from maxserve.core.interfaces.errors import ModelError, RequestError, SettingsError
from maxserve.core.interfaces.images import ReadsImages
from maxserve.core.interfaces.request import Image, Numbers, Request, SamplingParams
from maxserve.core.loading.images import image_reader
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.api.common.literal_encoding import PromptEncoder, PromptText
from maxserve.plugins.tokenizers.folder import load_tokenizer
from maxserve.plugins.vision.image_prompt import image_prompt
from maxserve.plugins.vision.steps import PromptImages
from maxserve.testing.architecture import randomised
from maxserve.testing.vision import VisionChecks, tiny_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 19,
    "pad_token_id": None,
}
IMAGE_TOKEN = 7
HOST = PluginHost.discover(PluginOptions(autoload=False), strict=True)


def image(start: int, length: int, *, digest: bytes = b"a", **fields: Any) -> Image:
    return Image(digest=digest, start=start, length=length, token=IMAGE_TOKEN, tensors={}, **fields)


def images(prompt: Sequence[int], *found: Image) -> PromptImages:
    return PromptImages(Request(id="r", prompt=tuple(prompt), images=found))


class TestPromptImages:
    def test_keys_depend_on_what_is_shown_and_on_nothing_else(self) -> None:
        prompt = [1, 2, 7, 7, 7, 3]
        tokens = np.array([*prompt, 4])
        keys = images(prompt, image(2, 3)).keyed(tokens)
        again = images([1, 7, 7, 7], image(1, 3)).keyed(np.array([1, 7, 7, 7]))
        other = images(prompt, image(2, 3, digest=b"b")).keyed(tokens)
        assert keys[[0, 1, 5, 6]].tolist() == [1, 2, 3, 4]
        assert (keys[2:5] < 0).all()
        assert len(set(keys[2:5].tolist())) == 3
        assert keys[2:5].tolist() == again[1:4].tolist()
        assert not set(keys[2:5].tolist()) & set(other[2:5].tolist())

    def test_features_go_to_the_tokens_that_stand_for_them(self) -> None:
        prompt = [1, 7, 7, 9, 7, 7, 2]  # 9 ends a line of the image
        found = images(prompt, image(1, 5))

        def seen(start: int, stop: int) -> list[tuple[list[int], int]]:
            return [(positions.tolist(), first) for _, positions, first in found.seen(start, stop)]

        assert seen(0, 7) == [([1, 2, 4, 5], 0)]
        assert seen(2, 5) == [([2, 4], 1)]
        assert seen(3, 4) == []
        assert seen(5, 7) == [([5], 3)]
        assert seen(6, 7) == []

    def test_what_is_together_is_not_cut(self) -> None:
        prompt = [1, 7, 7, 7, 2, 7, 7, 3]
        found = images(prompt, image(1, 3, bidirectional=True), image(5, 2, bidirectional=True))
        assert found.bidirectional == ((1, 4), (5, 7))
        assert [found.uncut(0, count) for count in range(1, 9)] == [1, 1, 1, 4, 5, 5, 7, 8]
        assert found.uncut(1, 1) == 3
        assert images(prompt, image(1, 3), image(5, 2)).uncut(0, 2) == 2

    def test_positions_with_axes(self) -> None:
        """Text, an image of 2 rows and 3 columns, text: what follows goes on after the longer side."""
        positions = Numbers.of(np.indices((1, 2, 3)).reshape(3, -1).astype(np.int64))
        prompt = [1, 2, *[7] * 6, 3, 4]
        found = images(prompt, image(2, 6, mrope_positions=positions, advance=3))
        assert found.mrope_positions is not None
        assert found.mrope_positions[:, :2].tolist() == [[0, 1]] * 3
        assert found.mrope_positions[:, 2:8].tolist() == [[2] * 6, [2, 2, 2, 3, 3, 3], [2, 3, 4, 2, 3, 4]]
        assert found.mrope_positions[:, 8:].tolist() == [[5, 6]] * 3
        assert found.shift == 7 - len(prompt)


class Seeing:
    """An engine with a tiny vision-language model, and transformers' model beside it."""

    def __init__(self, folder: Path, checks: type[VisionChecks], config: Any, **options: Any) -> None:
        self.folder, self.checks = folder, checks
        self.reference = randomised(checks.reference(config))
        checks.write(folder, config, self.reference)
        self.options: dict[str, Any] = {"max_batch_size": 4, "kv_cache_page_size": 16, **options}

    def start(self, **options: Any) -> LLM:
        return LLM(str(self.folder), **{**self.options, **options})

    def prompt(self, llm: LLM, *seeds: int) -> tuple[list[int], tuple[Image, ...]]:
        reader = image_reader(Settings(), HOST, str(self.folder), llm.info.architecture, llm.tokenizer)
        assert reader is not None
        text = "some words first " + " and ".join([reader.placeholder] * len(seeds)) + " what?"
        read = [reader.read(self.checks.image(seed, (48, 40))) for seed in seeds]
        encode = PromptEncoder(llm.tokenizer).encode
        return image_prompt(PromptText(text), read, reader.placeholder, llm.tokenizer, encode)

    def expected(self, tokens: list[int], inputs: dict[str, Any], count: int) -> list[int]:
        """transformers' greedy tokens, everything computed anew for each."""
        known = list(tokens)
        for _ in range(count):
            given = {
                name: torch.cat((v, v.new_zeros(1, len(known) - len(tokens))), 1) if name.endswith("type_ids") else v
                for name, v in inputs.items()
            }
            if hasattr(self.reference.model, "rope_deltas"):
                self.reference.model.rope_deltas = None  # type: ignore[union-attr]
            with torch.inference_mode():
                known.append(int(self.reference(torch.tensor([known]), **given).logits[0, -1].argmax()))
        return known[len(tokens) :]


def run(llm: LLM, *requests: Request) -> dict[str, tuple[list[int], int]]:
    """The tokens of each, and how many of its prompt were found in the cache."""
    found: dict[str, tuple[list[int], int]] = {request.id: ([], 0) for request in requests}
    for request in requests:
        llm._engine.add(request)
    while llm._engine.busy:
        for output in llm._engine.next_outputs():
            assert output.error is None
            tokens, _ = found[output.id]
            found[output.id] = ([*tokens, *output.tokens], output.cached)
    llm._engine.check()
    return found


def asked(id: str, tokens: Sequence[int], images: tuple[Image, ...] = (), count: int = 24) -> Request:
    params = SamplingParams(max_tokens=count, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
    return Request(id=id, prompt=tuple(tokens), images=images, params=params)


class QwenChecks(VisionChecks):
    tokens = ("<|image_pad|>",)

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        size = {"shortest_edge": 256, "longest_edge": 4096}
        return Qwen2VLImageProcessorPil(size=size, patch_size=8, temporal_patch_size=2, merge_size=2)


class GemmaChecks(VisionChecks):
    tokens = ("<image_soft_token>", "<start_of_image>", "<end_of_image>")

    @classmethod
    def processor(cls, hf_config: Any) -> Any:
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        return Gemma3ImageProcessorPil(size={"height": 56, "width": 56})


def qwen() -> Any:
    tower = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 64}
    tower |= {"patch_size": 8, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    rope = {"rope_type": "default", "mrope_section": [3, 3, 2], "rope_theta": 1e4}
    text = {**TEXT, "rope_parameters": rope}
    return Qwen3VLConfig(vision_config=tower, text_config=text, image_token_id=0, tie_word_embeddings=False)


def gemma() -> Any:
    tower = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    text = Gemma3TextConfig(**TEXT, sliding_window=6, layer_types=kinds, query_pre_attn_scalar=16)
    return Gemma3Config(
        vision_config=tower,
        text_config=text,
        image_token_index=0,
        boi_token_index=1,
        eoi_token_index=2,
        mm_tokens_per_image=16,
    )


KINDS: dict[str, tuple[type[VisionChecks], Callable[[], Any]]] = {
    "qwen": (QwenChecks, qwen),
    "gemma": (GemmaChecks, gemma),
}


@pytest.fixture(scope="module", params=list(KINDS))
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    checks, config = KINDS[request.param]
    return Seeing(tmp_path_factory.mktemp(request.param), checks, config())


def inputs_of(seeing: Seeing, tokens: list[int], images: tuple[Image, ...]) -> dict[str, Any]:
    """What the reference takes: the arrays that travel, put together, and which tokens are images."""
    names = images[0].tensors
    made = {n: torch.cat([torch.from_numpy(i.tensors[n].array().copy()) for i in images]) for n in names}
    kind = "token_type_ids" if seeing.checks is GemmaChecks else "mm_token_type_ids"
    return {**made, kind: (torch.tensor([tokens]) == 0).long()}


@pytest.mark.parametrize("overlap", [False, True])
def test_the_text_is_that_of_transformers(seeing: Seeing, overlap: bool) -> None:
    """Among others, with a text beside it, in chunks, found in the cache, and after another image of the same size."""
    llm = seeing.start(enable_overlap_scheduler=overlap, max_batch_input_tokens=24, enable_in_flight_batching=True)
    (a, a_images), (b, b_images) = seeing.prompt(llm, 1), seeing.prompt(llm, 2, 3)
    text = [20, 21, 22, 23]
    found = run(llm, asked("a", a, a_images), asked("t", text), asked("b", b, b_images))
    assert found["a"][0] == seeing.expected(a, inputs_of(seeing, a, a_images), 24)
    assert found["b"][0] == seeing.expected(b, inputs_of(seeing, b, b_images), 24)
    assert found["t"][0] == seeing.expected(text, {}, 24)
    again, (c, c_images) = run(llm, asked("a", a, a_images))["a"], seeing.prompt(llm, 9)
    assert again == (found["a"][0], len(a) // 16 * 16)
    other = run(llm, asked("c", c, c_images))["c"]
    assert other[0] == seeing.expected(c, inputs_of(seeing, c, c_images), 24)
    assert other[1] <= c_images[0].start


def test_preempted_images_lose_no_token(seeing: Seeing) -> None:
    """One loses its row amid its text; its prompt is computed again, and the texts stay the same."""
    llm = seeing.start(enable_prefix_caching=False, max_length=96, enable_in_flight_batching=True)
    prompts = [seeing.prompt(llm, seed) for seed in (1, 2)]
    alone = [run(llm, asked("x", tokens, images, 40))["x"][0] for tokens, images in prompts]
    requests = [asked(str(i), tokens, images, 40) for i, (tokens, images) in enumerate(prompts)]
    engine = llm._engine
    for request in requests:
        engine.add(request)
    found: dict[str, list[int]] = {"0": [], "1": []}
    steps = 0
    while engine.busy:
        steps += 1
        if steps == 12:  # as if pages were short: the newest loses its row
            victim = next(engine._queues.holders())
            engine._cache.close(row := victim.leave_row())
            engine._free_rows.append(row)
            engine._queues.wait_first(victim)
        for output in engine.next_outputs():
            found[output.id] += output.tokens
    assert list(found.values()) == alone


def test_prompt_logprobs_with_images(seeing: Seeing) -> None:
    llm = seeing.start()
    tokens, images = seeing.prompt(llm, 1)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    llm._engine.add(Request(id="p", prompt=tuple(tokens), images=images, params=params))
    scores = [
        score for _ in iter(lambda: llm._engine.busy, False) for o in llm._engine.step() for score in o.prompt_logprobs
    ]
    with torch.inference_mode():
        if hasattr(seeing.reference.model, "rope_deltas"):
            seeing.reference.model.rope_deltas = None  # type: ignore[union-attr]
        logits = seeing.reference(torch.tensor([tokens]), **inputs_of(seeing, tokens, images)).logits[0]
    expected = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    assert [score.token for score in scores] == tokens[1:]
    assert torch.allclose(torch.tensor([score.logprob for score in scores]), expected, atol=1e-3)


def test_images_are_refused_by_models_of_text(model_folder: Callable[..., Path]) -> None:
    llm = LLM(str(model_folder()))
    with pytest.raises(RequestError, match="text only"):
        llm._engine.add(Request(id="x", prompt=(1, 7, 2), images=(image(1, 1),)))


@pytest.mark.parametrize("wrong", [(image(1, 9),), (image(2, 2), image(1, 1)), (image(1, 0),)])
def test_images_must_lie_in_the_prompt(seeing: Seeing, wrong: tuple[Image, ...]) -> None:
    llm = seeing.start()
    with pytest.raises(RequestError, match="must lie in its prompt"):
        llm._engine.add(Request(id="x", prompt=(1, 7, 7, 2), images=wrong))


def test_a_template_that_expects_strings_shows_images_too(seeing: Seeing, tmp_path: Path) -> None:
    template, file = tmp_path / "strings.jinja", tmp_path / "picture.png"
    template.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    image = seeing.checks.image(3, (48, 40))
    image.save(file)
    llm = seeing.start(chat_template=str(template))
    parts = [{"type": "image_url", "image_url": {"url": file.as_uri()}}, {"type": "text", "text": "what?"}]
    rendered = llm.render([{"role": "user", "content": parts}])
    reader = image_reader(Settings(), HOST, str(seeing.folder), llm.info.architecture, llm.tokenizer)
    assert reader is not None
    shown = reader.read(image).text
    assert list(rendered.tokens) == llm.tokenizer.encode(f"[{shown}\nwhat?]", add_special_tokens=False)
    assert [len(image.tensors) > 0 for image in rendered.images] == [True]


def test_the_tokenizer_of_the_checks(tmp_path: Path) -> None:
    assert tiny_tokenizer(tmp_path, ("<a>",)) == 257


def overridden(seeing: Seeing, overrides: dict[str, Any]) -> ReadsImages:
    """Who reads images for the model with `--vision-config-overrides`."""
    settings = resolve({"model_path": str(seeing.folder), "vision_config_overrides": overrides}, environ={})
    files = resolve_model(settings.model, HOST, progress=NullProgress())
    assert overrides.items() <= files.config["vision_config"].items()
    reader = image_reader(settings, HOST, files.path, files.architecture, load_tokenizer(files.path))
    assert reader is not None
    return reader


def test_overrides_reach_the_processor(seeing: Seeing) -> None:
    image = seeing.checks.image(0, (64, 64))
    plain = overridden(seeing, {}).read(image)
    sides = {"height": 28, "width": 28, "shortest_edge": 256, "longest_edge": 1024}
    keys = ("shortest_edge", "longest_edge") if seeing.checks is QwenChecks else ("height", "width")
    smaller = overridden(seeing, {"size": {key: sides[key] for key in keys}}).read(image)
    assert smaller.tensors["pixel_values"].size < plain.tensors["pixel_values"].size


def test_unknown_overrides_are_named(seeing: Seeing) -> None:
    with pytest.raises(SettingsError, match=r"this model knows no 'nonsense'; it knows .*image_mean"):
        overridden(seeing, {"nonsense": 1})


def test_overrides_that_cannot_be_are_found_at_start(seeing: Seeing) -> None:
    with pytest.raises(SettingsError, match=r'overrides \{"size": "large"\}: no image can be read so: '):
        overridden(seeing, {"size": "large"})


def test_a_model_of_text_has_nothing_to_override(model_folder: Callable[..., Path]) -> None:
    settings = resolve({"model_path": str(model_folder()), "vision_config_overrides": {"size": 1}}, environ={})
    with pytest.raises(ModelError, match="--vision-config-overrides: architecture LlamaForCausalLM takes text only"):
        resolve_model(settings.model, HOST, progress=NullProgress())
