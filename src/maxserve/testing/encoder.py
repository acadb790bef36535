"""Checks of architectures for embeddings and scores.

A plugin author subclasses `EncoderChecks` in a test file, names the architecture and gives tiny configs:

    class TestAcmeEncoder(EncoderChecks):
        architecture = "AcmeModel"
        hf_configs = {"plain": AcmeConfig(hidden_size=32, ...)}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from maxserve.architectures.layers.text_context import TextContext
from maxserve.core.interfaces.architecture import Architecture, ModelSpec
from maxserve.core.interfaces.engine import SCORING
from maxserve.core.interfaces.request import EncodeRequest
from maxserve.core.loading.architecture import read_weight_map
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.weight_files import open_weights
from maxserve.core.registry.entries import Entry
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.loading import load_weights
from maxserve.plugins.embeddings.engine import text_inputs
from maxserve.plugins.embeddings.queue import EncodeWork
from maxserve.plugins.embeddings.text_attention import WithinTexts
from maxserve.testing.architecture import import_fault, randomised

LENGTHS = (1, 17, 5, 5, 29, 2)  # tokens of the texts of a step


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderCase:
    """One tiny encoder with random weights, as transformers runs it and as its checkpoint makes ours."""

    host: Host
    entry: Entry[Architecture]
    config: ModelSpec
    reference: nn.Module
    files: tuple[str, ...]

    @property
    def scores(self) -> bool:
        return self.entry.component.task == SCORING

    def build(self) -> Any:
        """Our model on the meta device."""
        with torch.device("meta"):
            return self.host.build(self.entry, self.config)

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        """Our model with the checkpoint's weights."""
        model, weights = self.build(), read_weight_map(self.host, self.entry, self.config, {})
        files = open_weights(self.host, self.files, {})
        load_weights(model, files, weights, dtype=dtype, device=torch.device("cpu"), progress=NullProgress())
        model.prepare()
        return model

    def text(self, seed: int, length: int) -> tuple[int, ...]:
        chosen = torch.randint(self.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed))
        return tuple(int(token) for token in chosen)

    def ours(self, model: Any, texts: Sequence[tuple[int, ...]], pair_starts: Sequence[int] = ()) -> list[Tensor]:
        """What our model gives for texts in one step: vectors [tokens, dim] of each, or its score [1]."""
        work = EncodeWork(EncodeRequest(id="check", texts=tuple(texts), pair_starts=tuple(pair_starts)))
        taken = sorted((work.take() for _ in texts), key=lambda each: len(each.tokens))
        attention = WithinTexts(self.config.cache_layers)
        inputs = text_inputs(taken, torch.device("cpu"))
        with torch.inference_mode():
            attention.begin(inputs)
            hidden = model.forward(TextContext(inputs=inputs, attention=attention))
            if self.scores:
                found = list(model.scores(hidden[torch.from_numpy(inputs.query_start[:-1])])[:, None])
            else:
                found = list(hidden.split(inputs.seq_lens.tolist()))
        ordered = dict(zip((each.index for each in taken), found, strict=True))
        return [ordered[place] for place in range(len(texts))]

    def expected(self, text: tuple[int, ...], second: int = 0) -> Tensor:
        """The same from transformers, for one text; of a language model, from the encoder in it."""
        model: Any = self.reference if self.scores else getattr(self.reference, "base_model", self.reference)
        more: dict[str, Any] = {}
        if second:
            more["token_type_ids"] = torch.tensor([[int(place >= second) for place in range(len(text))]])
        with torch.inference_mode():
            out = model(torch.tensor([text]), **more)
        found: Tensor = out.logits[0] if self.scores else out.last_hidden_state[0]
        return found


class EncoderChecks:
    """What every architecture for embeddings or scores must pass. `hf_configs` as for ArchitectureChecks.

    `pairs`: its texts may have a second part. Override `reference` where transformers does not know the architecture.
    """

    architecture: ClassVar[str]
    hf_configs: ClassVar[Mapping[str, Any]]
    plugins: ClassVar[PluginOptions] = PluginOptions()
    pairs: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-4

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        """The model to be equal to, in float32; its weights will be replaced by random ones."""
        from transformers import AutoModel

        auto: Any = AutoModel
        model: nn.Module = auto.from_config(hf_config, attn_implementation="eager")
        return model

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            configs = self.hf_configs
            metafunc.parametrize("case", list(configs.values()), ids=list(configs), indirect=True, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderCase:
        reference = randomised(cls.reference(request.param))
        folder: Path = tmp_path_factory.mktemp("checkpoint")
        reference.save_pretrained(folder)  # type: ignore[operator]
        host = PluginHost.discover(cls.plugins, strict=True)
        entry = host.architectures.get(cls.architecture)
        config = host.load(entry, entry.component.config)(json.loads((folder / "config.json").read_text()))
        files = tuple(str(path) for path in sorted(folder.glob("*.safetensors")))
        return EncoderCase(host=host, entry=entry, config=config, reference=reference, files=files)

    # --- the checks ----------------------------------------------------------------------------------------------

    def test_builds_on_the_meta_device(self, case: EncoderCase) -> None:
        assert all(parameter.is_meta for parameter in case.build().parameters()), "a parameter was allocated"

    def test_takes_every_name_of_the_checkpoint(self, case: EncoderCase) -> None:
        assert not any(parameter.is_meta for parameter in case.load().parameters()), "a parameter was not loaded"

    def test_one_text(self, case: EncoderCase) -> None:
        model = case.load()
        for length in LENGTHS:
            text = case.text(1, length)
            self.check(case.ours(model, [text])[0], case.expected(text))

    def test_many_texts_in_a_step(self, case: EncoderCase) -> None:
        texts = [case.text(seed, length) for seed, length in enumerate(LENGTHS)]
        for ours, text in zip(case.ours(case.load(), texts), texts, strict=True):
            self.check(ours, case.expected(text))

    def test_the_longest_text(self, case: EncoderCase) -> None:
        text = case.text(3, case.config.max_length)
        self.check(case.ours(case.load(), [text])[0], case.expected(text))

    def test_pairs(self, case: EncoderCase) -> None:
        seconds = (3, 0, 9) if self.pairs else (0, 0, 0)
        texts = [case.text(seed, 13) for seed in range(3)]
        for ours, text, second in zip(case.ours(case.load(), texts, seconds), texts, seconds, strict=True):
            self.check(ours, case.expected(text, second))

    def test_loads_as_bfloat16(self, case: EncoderCase) -> None:
        text, model = case.text(10, 29), case.load(torch.bfloat16)
        ours, expected = case.ours(model, [text])[0].float(), case.expected(text)
        assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
        error = float((ours - expected).norm() / expected.norm())
        assert error < 0.15, f"vectors in bfloat16 are {error:.0%} away from the reference"

    def test_declaration_imports_no_torch(self) -> None:
        host = PluginHost.discover(self.plugins, strict=True)
        entry = host.architectures.get(self.architecture)
        source = next(plugin.source for plugin in host.plugins if plugin.name == entry.plugin)
        fault = import_fault(source.module, source.folder)
        assert fault is None, f"importing {source.module} imports torch, or fails: {fault}"

    def check(self, ours: Tensor, expected: Tensor) -> None:
        """Fails, saying by how much, if vectors or scores differ by more than `tolerance`."""
        assert ours.shape == expected.shape, f"the shape is {tuple(ours.shape)}, expected {tuple(expected.shape)}"
        error = float((ours.double() - expected.double()).abs().max())
        assert error <= self.tolerance, f"the numbers differ by {error:.2e}"
