"""Checks of architectures: as transformers computes, however tokens are cut into steps.

A plugin author subclasses `ArchitectureChecks` in a test file, names the architecture and gives a tiny config; what a
config may have besides is a quirk, which `QuirkChecks` check in one test each:

    class TestAcme(ArchitectureChecks):
        architecture = "AcmeForCausalLM"
        hf_configs = {"plain": AcmeConfig(hidden_size=32, ...)}

    class TestQuirks(QuirkChecks):
        architecture = "AcmeForCausalLM"
        hf_configs = {"tied": AcmeConfig(..., tie_word_embeddings=True)}
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maxserve.core.interfaces.architecture import Architecture, ModelSpec, WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.architecture import read_spec, read_weight_map
from maxserve.core.loading.location import ModelFolder
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.shard import Shard, shared_by
from maxserve.core.loading.weight_files import open_weights
from maxserve.core.registry.entries import Entry
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.core.registry.sources import CUSTOM
from maxserve.testing.ranks import in_ranks, served_in_ranks
from maxserve.testing.served import CLOSE, Answer, Expected, Served, continuation
from maxserve.testing.tiny_cache import Part, PlainAttention, TinyCache, make_step, plain_attention, run_step

__all__ = [
    "ArchitectureCases",
    "ArchitectureChecks",
    "Case",
    "Part",
    "PlainAttention",
    "QuirkChecks",
    "TinyCache",
    "make_step",
    "plain_attention",
    "run_step",
]

PROMPT = 29  # tokens: several pages, and no multiple of a page
ANSWER = 5  # tokens that follow a prompt one by one
TEXT = 24  # tokens of a whole answer: with a prompt several pages, and longer than the windows of tiny configs
AGAIN = 16  # tokens of an answer whose prompt is found in the cache
SHARED_TEXT = 64  # tokens of an answer of several ranks, unless the model ends before
TEXTS = 2  # prompts that are answered side by side
UNDECIDED = 1e-3  # a reference whose two best logits are nearer than this might as well have taken the other


@cache  # one module declares many architectures
def import_fault(module: str, folder: str) -> str | None:
    """What is wrong with the import of a module that declares, in its own process; None where it takes no torch."""
    code = f"import sys; sys.path[:] = {[*sys.path, folder]!r}; import {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr or "torch" if done.returncode else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One tiny model with random weights, as transformers runs it and as its checkpoint makes ours."""

    folder: Path
    host: Host
    entry: Entry[Architecture]
    config: ModelSpec
    reference: nn.Module
    files: tuple[str, ...]
    exact: bool = False  # whether logits are compared with the reference's in float64

    @property
    def weights(self) -> WeightMap:
        """How the names of its checkpoint become those of our model."""
        raw = json.loads((self.folder / "config.json").read_text())
        return read_weight_map(self.host, self.entry, self.config, raw)

    def build(self, shard: Shard | None = None) -> Any:
        """Our model on the meta device, or what one rank computes of it."""
        with torch.device("meta"), shared_by(shard):
            return self.host.build(self.entry, self.config)

    def load(self, dtype: torch.dtype = torch.float32, shard: Shard | None = None) -> Any:
        """Our model with the checkpoint's weights, or a rank's part of them."""
        model = self.build(shard)
        self.host.load(self.entry, self.entry.component.load)(
            model,
            open_weights(self.host, self.files, {}),
            self.weights,
            dtype=dtype,
            device=torch.device("cpu"),
            progress=NullProgress(),
            **({} if shard is None else {"shard": shard}),
        )
        model.prepare()
        return model

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> Any:
        """Our model with these tensors instead of the checkpoint's."""
        with TemporaryDirectory() as folder:
            file = str(Path(folder, "model.safetensors"))
            save_file(dict(tensors), file)
            return replace(self, files=(file,)).load()

    def served(self, **options: Any) -> Served:
        """Our model in a whole engine."""
        return Served(self.folder, self.host, **options)

    def cache(self, **options: Any) -> TinyCache:
        return TinyCache(self.config.cache_layers, **options)

    def prompt(self, seed: int, length: int = PROMPT) -> list[int]:
        chosen = torch.randint(self.config.vocab_size, (length,), generator=torch.Generator().manual_seed(seed))
        return [int(token) for token in chosen]

    @property
    def lengths(self) -> list[int]:
        """Lengths of prompts to try: `PROMPT`, and those about each border between regimes of prompts."""
        return [PROMPT, *(border + more for border in self.config.prompt_regimes for more in (-2, 0, 1))]

    def expected(self, tokens: Sequence[int]) -> Tensor:
        """transformers' logits of every token of a prompt, [tokens, vocab_size]."""
        reference = deepcopy(self.reference).double() if self.exact else self.reference
        with torch.inference_mode():
            logits: Tensor = reference(torch.tensor([tokens])).logits[0]
            return logits

    def continued(self, tokens: Sequence[int], prompt: int) -> Tensor:
        """transformers' logits where `prompt` tokens were computed at once and the others one by one, over its cache.

        [tokens, vocab_size]
        """
        if not self.config.prompt_regimes:
            return self.expected(tokens)  # it makes no difference, and asks less of the reference
        parts, past, logits = [tokens[:prompt], *([token] for token in tokens[prompt:])], None, []
        with torch.inference_mode():
            for part in parts:
                out = self.reference(torch.tensor([part]), past_key_values=past, use_cache=True)
                past = out.past_key_values
                logits.append(out.logits[0])
        return torch.cat(logits)

    def texts(self) -> list[tuple[list[int], Expected]]:
        """Prompts and the reference's continuations, as long as the model allows; those it is sure of."""
        found = []
        for seed in range(20, 20 + 10 * TEXTS):
            length = self.lengths[seed % len(self.lengths)]
            prompt = self.prompt(seed, length)
            expected = continuation(self.reference, prompt, min(TEXT, self.config.max_length - length))
            if expected.margin > UNDECIDED:
                found.append((prompt, expected))
            if len(found) == TEXTS:
                return found
        raise AssertionError("the reference is undecided about every text: it has no weights that matter")


class ArchitectureCases:
    """A case for each of `hf_configs`: tiny configs of transformers, or what makes one, maybe by name.

    `plugins` says where the architecture comes from, if not from an installed plugin. Override `reference` where
    transformers does not know the architecture, and `write` where it knows it by other names. With `exact` the
    reference computes in float64, which dense models can: the float32 of some is further from that than `tolerance`.
    """

    architecture: ClassVar[str]
    hf_configs: ClassVar[Sequence[Any] | Mapping[str, Any]]
    plugins: ClassVar[PluginOptions] = PluginOptions()
    tolerance: ClassVar[float] = 1e-4
    exact: ClassVar[bool] = False

    @classmethod
    def reference(cls, hf_config: Any) -> nn.Module:
        """The model to be equal to, in float32; its weights will be replaced by random ones."""
        from transformers import AutoModelForCausalLM

        auto: Any = AutoModelForCausalLM
        model: nn.Module = auto.from_config(hf_config, attn_implementation="eager")
        return model

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            configs = self.hf_configs
            names = list(configs) if isinstance(configs, Mapping) else [str(index) for index in range(len(configs))]
            values = list(configs.values()) if isinstance(configs, Mapping) else list(configs)
            metafunc.parametrize("case", values, ids=names, indirect=True, scope="class")

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
        hf_config = request.param() if callable(request.param) else request.param
        reference = randomised(cls.reference(hf_config))
        folder = tmp_path_factory.mktemp("checkpoint")
        cls.write(folder, hf_config, reference)
        return cls.case_of(folder, reference)

    @classmethod
    def write(cls, folder: Path, hf_config: Any, model: nn.Module) -> None:
        """Writes the checkpoint; override where its files are not those that transformers writes."""
        model.save_pretrained(folder)  # type: ignore[operator]

    @classmethod
    def case_of(cls, folder: Path, reference: nn.Module) -> Case:
        """The case of a checkpoint's folder, which becomes one of the architecture's."""
        host = PluginHost.discover(cls.plugins, strict=True)
        entry = host.architectures.get(cls.architecture)
        raw = json.loads((folder / "config.json").read_text())
        if entry.component.fallback is None:  # else the class's own name is what it goes by
            raw["architectures"] = [cls.architecture]
            (folder / "config.json").write_text(json.dumps(raw))
        config = read_spec(host, entry, ModelFolder(path=str(folder), config=raw))
        files = tuple(str(path) for path in sorted(folder.glob("*.safetensors")))
        return Case(
            folder=folder, host=host, entry=entry, config=config, reference=reference, files=files, exact=cls.exact
        )

    # --- comparisons ----------------------------------------------------------------------------------------------

    def check(self, logits: Tensor, expected: Tensor) -> None:
        """Fails, saying by how much and where, if the logits differ by more than `tolerance`."""
        assert logits.shape == expected.shape, f"logits are {tuple(logits.shape)}, expected {tuple(expected.shape)}"
        error = (logits.double() - expected.double()).abs().amax(dim=-1)
        worst = int(error.argmax())
        assert error.isfinite().all(), "logits are not finite"
        assert error[worst] <= self.tolerance, f"logits of token {worst} differ by {error[worst]:.2e}"

    def check_mixed_batch(self, case: Case) -> None:
        """A later chunk, a generated token and a whole prompt in one step, each with every length of prompt."""
        model, lengths = case.load(), case.lengths
        for start in range(len(lengths)):
            own = [lengths[(start + i) % len(lengths)] for i in range(3)]
            a, b, c = (case.prompt(4 + i, length + (i == 1)) for i, length in enumerate(own))
            cache = case.cache(scatter=2)
            run_step(model, cache, [(3, a[:10]), (0, b[:-1])], prompt_lens=own[:2])
            logits = run_step(model, cache, [(3, a[10:]), (0, b[-1:]), (1, c)], prompt_lens=own)
            expected = (case.expected(a)[10:], case.continued(b, own[1])[-1:], case.expected(c))
            self.check(logits, torch.cat(expected))

    def check_texts(self, case: Case) -> None:
        """Texts of a whole engine are the reference's, also where their prompts are found in the cache."""
        served, texts = case.served(), case.texts()
        together = served.answers([prompt for prompt, _ in texts], TEXT)
        alone = [served.answers([prompt], AGAIN)[0] for prompt, _ in texts]
        for answers, count in ((together, TEXT), (alone, AGAIN)):
            for answer, (_, expected) in zip(answers, texts, strict=True):
                self.check_answer(answer, expected, count)
        again = zip(alone, texts, strict=True)
        found = [answer.cached > 0 for answer, (prompt, _) in again if len(prompt) > CLOSE["kv_cache_page_size"]]
        assert found, "no prompt is longer than a page, so that it could be found again"
        assert all(found), "a prompt that came again was not found in the prefix cache"

    def check_answer(self, answer: Answer, expected: Expected, count: int) -> None:
        """Its tokens are the reference's first ones, so many or as many as there are, and as likely."""
        assert answer.error is None, answer.error
        assert answer.tokens == expected.tokens[:count], "the text is not the reference's"
        error = max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs[:count], strict=True))
        assert error <= self.tolerance, f"log-probabilities differ by {error:.2e}"

    def check_bfloat16(self, case: Case) -> None:
        """Rounding differs, and leads a few tokens to other experts; half of the tokens are near the reference."""
        prompt, model = case.prompt(10), case.load(torch.bfloat16)
        logits = run_step(model, case.cache(dtype=torch.bfloat16), [(0, prompt)])
        expected = case.expected(prompt)
        exact = case.weights.exact
        for name, parameter in model.named_parameters():
            wanted = torch.float32 if any(re.search(pattern, name) for pattern in exact) else torch.bfloat16
            assert parameter.dtype == wanted, f"{name} was loaded as {parameter.dtype}"
        error = ((logits.float() - expected).norm(dim=-1) / expected.norm(dim=-1)).median()
        assert error < 0.1, f"bfloat16 logits are {error:.0%} away from the reference"


class ArchitectureChecks(ArchitectureCases):
    """What every architecture must pass, with each of its cases."""

    def test_builds_on_the_meta_device(self, case: Case) -> None:
        model = case.build()
        assert all(parameter.is_meta for parameter in model.parameters()), "a parameter was allocated while building"

    def test_takes_every_name_of_the_checkpoint(self, case: Case) -> None:
        model = case.load()
        assert not any(parameter.is_meta for parameter in model.parameters()), "a parameter was not loaded"

    def test_refuses_a_checkpoint_with_a_name_more_or_less(self, case: Case) -> None:
        """One of each sort of names is left out, whatever its layer; of two sorts where no weight map has any name."""
        tensors = {name: tensor for file in case.files for name, tensor in load_file(file).items()}
        ignored = case.weights.ignored
        needed = [name for name in tensors if not any(re.search(pattern, name) for pattern in ignored)]
        sorts = list({re.sub(r"\d+", "#", name): name for name in needed}.values())
        for name in sorts if case.entry.component.fallback is None else (sorts[0], sorts[-1]):
            with pytest.raises(ModelError, match="missing"):
                case.load_tensors({key: tensor for key, tensor in tensors.items() if key != name})
        with pytest.raises(ModelError, match="stranger"):
            case.load_tensors({**tensors, "model.layers.0.stranger.weight": torch.ones(2)})

    def test_whole_prefill(self, case: Case) -> None:
        model = case.load()
        for length in case.lengths:
            prompt = case.prompt(1, length)
            self.check(run_step(model, case.cache(), [(0, prompt)]), case.expected(prompt))

    def test_chunked_prefill(self, case: Case) -> None:
        model = case.load()
        for length in case.lengths:
            prompt = case.prompt(2, length)
            logits = in_steps(model, case.cache(scatter=1), prompt, cuts=(8, 9, 20), prompt_length=length)
            self.check(logits, case.expected(prompt))

    def test_token_by_token(self, case: Case) -> None:
        model = case.load()
        for length in case.lengths:
            prompt = case.prompt(3, length)
            logits = in_steps(model, case.cache(), prompt, cuts=range(1, length), prompt_length=length)
            self.check(logits, case.expected(prompt))

    def test_generation(self, case: Case) -> None:
        """A prompt, then token by token; and all of it again in two chunks, as after a preemption."""
        model = case.load()
        for length in case.lengths:
            tokens = case.prompt(11, length + ANSWER)
            expected = case.continued(tokens, length)
            for cuts in (range(length, len(tokens)), (length - 3,)):
                self.check(in_steps(model, case.cache(), tokens, cuts=cuts, prompt_length=length), expected)

    def test_mixed_batch(self, case: Case) -> None:
        self.check_mixed_batch(case)

    def test_a_row_does_not_depend_on_its_batch(self, case: Case) -> None:
        model, prompt = case.load(), case.prompt(7)
        alone = run_step(model, case.cache(), [(0, prompt)])
        mates: list[Part] = [(1, case.prompt(8, 5)), (0, prompt), (2, case.prompt(9, 17))]
        self.check(run_step(model, case.cache(), mates)[5 : 5 + PROMPT], alone)

    def test_text_of_the_whole_engine(self, case: Case) -> None:
        """Greedy texts side by side, their prompts in chunks; and each again alone, its prompt found in the cache."""
        self.check_texts(case)

    @pytest.mark.parametrize("ranks", [2, 4])
    def test_ranks_that_share_it_give_its_logits(self, case: Case, ranks: int) -> None:
        """The same bits each, of a prompt in two steps; where it declares `tensor_parallel`."""
        self.skip_unless_shared(case)
        prompt = case.prompt(12)

        def logits(shard: Shard | None) -> Tensor:
            layers = case.config.cache_layers if shard is None else shard.cache_layers(case.config.cache_layers)
            cache = TinyCache(layers, scatter=1)
            return in_steps(case.load(shard=shard), cache, prompt, cuts=(20,), prompt_length=len(prompt))

        try:
            found = in_ranks(ranks, logits)
        except ModelError as error:
            pytest.skip(f"{ranks} ranks are too many: {error}")
        assert all(torch.equal(found[0], other) for other in found[1:]), "ranks have different logits"
        self.check(found[0], logits(None))

    def test_text_of_two_ranks(self, case: Case) -> None:
        """The greedy texts of a whole engine, side by side, are those of one rank."""
        self.skip_unless_shared(case)
        prompts = [case.prompt(seed) for seed in range(TEXTS)]
        due = case.served().answers(prompts, SHARED_TEXT)
        found = served_in_ranks(case.folder, case.host, 2, lambda served: served.answers(prompts, SHARED_TEXT))
        for answer, expected in zip(found, due, strict=True):
            assert answer.error is None, answer.error
            assert answer.tokens == expected.tokens, "the text is not that of one rank"
            error = max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True))
            assert error <= self.tolerance, f"log-probabilities differ by {error:.2e}"

    def skip_unless_shared(self, case: Case) -> None:
        if not case.entry.component.tensor_parallel:
            pytest.skip("it does not declare that ranks can share it")

    def test_loads_as_bfloat16(self, case: Case) -> None:
        self.check_bfloat16(case)

    def test_declaration_imports_no_torch(self) -> None:
        host = PluginHost.discover(self.plugins, strict=True)
        entry = host.architectures.get(self.architecture)
        source = next(plugin.source for plugin in host.plugins if plugin.name == entry.plugin)
        if source.origin == CUSTOM:
            pytest.skip("a file given with --custom-architectures is imported only to be used")
        fault = import_fault(source.module, source.folder)
        assert fault is None, f"importing {source.module} imports torch, or fails: {fault}"


class QuirkChecks(ArchitectureCases):
    """What each quirk of an architecture must pass that has passed `ArchitectureChecks`: configs with one more thing.

    One test for each case; the texts of a whole engine are among it where the quirk is about the cache.
    """

    def test_computes_as_the_reference(self, case: Case) -> None:
        model = case.load()
        assert not any(parameter.is_meta for parameter in model.parameters()), "a parameter was not loaded"
        for length in case.lengths:
            prompt = case.prompt(1, length)
            self.check(run_step(model, case.cache(), [(0, prompt)]), case.expected(prompt))
            tokens = case.prompt(11, length + ANSWER)
            cuts = (*(cut for cut in (8, 9, 20) if cut < length), *range(length, len(tokens)))
            expected = case.continued(tokens, length)
            self.check(in_steps(model, case.cache(scatter=1), tokens, cuts=cuts, prompt_length=length), expected)
        self.check_mixed_batch(case)
        self.check_bfloat16(case)
        if case.config.prompt_regimes or any(layer.window or layer.chunk for layer in case.config.cache_layers):
            self.check_texts(case)


def in_steps(model: Any, cache: TinyCache, tokens: Sequence[int], *, cuts: Iterable[int], prompt_length: int) -> Tensor:
    """Logits of all tokens of a sequence that is computed in several steps, cut before each token of `cuts`."""
    ends = [cut for cut in cuts if cut < len(tokens)]
    spans = zip((0, *ends), (*ends, len(tokens)), strict=True)
    steps = [run_step(model, cache, [(1, tokens[i:j])], prompt_lens=[prompt_length]) for i, j in spans]
    return torch.cat(steps)


def randomised(model: nn.Module) -> nn.Module:
    """The same model with random weights in which every parameter matters: norms are not 1, biases not 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name and parameter.dim() == 1 else 0.2 * noise)
    return model.float().eval()
