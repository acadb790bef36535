"""Code of a model's repository runs with --trust-remote-code, and never without."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.dynamic_module_utils

import maxserve
from maxserve.core.config import resolve
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.tokenizers.folder import load_tokenizer

RAN = "import pathlib\npathlib.Path({marker!r}).touch()\n"
CONFIGURATION = """
from transformers import LlamaConfig

class MirrorConfig(LlamaConfig):
    model_type = "mirror"
"""
MODELING = """
from transformers import LlamaForCausalLM

from .configuration_mirror import MirrorConfig

class MirrorForCausalLM(LlamaForCausalLM):
    config_class = MirrorConfig

    def forward(self, input_ids=None, position_ids=None, **rest):
        out = super().forward(input_ids, position_ids=position_ids, **rest)
        out.logits = out.logits.flip(-1)
        return out
"""
TOKENIZATION = """
from transformers import PreTrainedTokenizer

class MirrorTokenizer(PreTrainedTokenizer):
    def __init__(self, **options):
        self._letters = {chr(97 + number): number for number in range(26)}
        super().__init__(**options)

    vocab_size = property(lambda self: 26)

    def get_vocab(self):
        return dict(self._letters)

    def _tokenize(self, text, **options):
        return [letter for letter in text if letter in self._letters]

    def _convert_token_to_id(self, token):
        return self._letters.get(token)

    def _convert_id_to_token(self, number):
        return chr(97 + number)
"""
AUTO_MAP = {
    "AutoConfig": "configuration_mirror.MirrorConfig",
    "AutoModelForCausalLM": "modeling_mirror.MirrorForCausalLM",
}
PROMPT = [5, 9, 200, 3, 77]


class Repository:
    """A model's folder with code that leaves a mark when it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marker = folder / "marker"

    @property
    def ran(self) -> bool:
        return self._marker.exists()

    def write(self, name: str, code: str) -> None:
        (self.folder / name).write_text(RAN.format(marker=str(self._marker)) + code)

    def change(self, file: str, **fields: Any) -> None:
        path = self.folder / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    def answer(self, **options: Any) -> list[int]:
        done = maxserve.LLM(str(self.folder), **options).generate([PROMPT], max_tokens=12, temperature=0)
        return list(done[0].tokens)


@pytest.fixture
def repository(model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    cache = tmp_path / "modules"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
    monkeypatch.setattr(sys, "path", [*sys.path, str(cache)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "mirror"
    folder.mkdir()
    for file in model_folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    made = Repository(folder)
    made.write("configuration_mirror.py", CONFIGURATION)
    made.write("modeling_mirror.py", MODELING)
    made.change("config.json", architectures=["MirrorForCausalLM"], model_type="mirror", auto_map=AUTO_MAP)
    return made


def mirrored(folder: Path, tokens: int) -> list[int]:
    """What the repository's class is to answer, by transformers' own Llama."""
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = list(PROMPT)
    with torch.inference_mode():
        while len(text) < len(PROMPT) + tokens:
            text.append(int(model(torch.tensor([text])).logits[0, -1].flip(-1).argmax()))
    return text[len(PROMPT) :]


def test_code_is_refused_before_any_of_it_runs(repository: Repository) -> None:
    with pytest.raises(ModelError, match=r"MirrorForCausalLM is code of .* \(modeling_mirror.*--trust-remote-code"):
        repository.answer()
    assert not repository.ran


def test_code_that_is_trusted_serves(repository: Repository, model_folder: Callable[..., Path]) -> None:
    assert repository.answer(trust_remote_code=True) == mirrored(model_folder(), 12)
    assert repository.ran


def test_code_is_not_needed_where_transformers_has_the_class(repository: Repository) -> None:
    repository.change("config.json", architectures=["ArceeForCausalLM"], model_type="arcee")
    files = resolve_model(
        resolve({"model_path": str(repository.folder)}, environ={}).model,
        PluginHost.discover(PluginOptions(), strict=True),
        progress=NullProgress(),
    )
    assert files.architecture == "transformers"
    assert not repository.ran


def test_a_native_architecture_runs_no_code_even_if_it_may(repository: Repository, model_folder: Any) -> None:
    repository.change("config.json", architectures=["LlamaForCausalLM"], model_type="llama")
    text = repository.answer(trust_remote_code=True)
    assert text == list(maxserve.LLM(str(model_folder())).generate([PROMPT], max_tokens=12, temperature=0)[0].tokens)
    assert not repository.ran


def test_code_that_is_broken_is_an_error_that_says_so(repository: Repository) -> None:
    repository.write("modeling_mirror.py", "raise RuntimeError('not today')")
    with pytest.raises(ModelError, match=r"code of the model's repository cannot be loaded: .*not today"):
        repository.answer(trust_remote_code=True)


def test_a_tokenizer_of_the_repository_needs_trust_too(repository: Repository) -> None:
    (repository.folder / "tokenizer.json").unlink()
    repository.write("tokenization_mirror.py", TOKENIZATION)
    repository.change(
        "tokenizer_config.json",
        tokenizer_class="MirrorTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_mirror.MirrorTokenizer", None]},
        bos_token=None,
        eos_token=None,
        pad_token=None,
    )
    with pytest.raises(ModelError, match=r"no tokenizer\.json .* only with --trust-remote-code"):
        load_tokenizer(str(repository.folder))
    assert not repository.ran
    tokenizer = load_tokenizer(str(repository.folder), trust_remote_code=True)
    assert tokenizer.encode("cab", add_special_tokens=False) == [2, 0, 1]
    assert repository.ran
