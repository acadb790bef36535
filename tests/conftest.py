"""Models that tests make for themselves (tiny, random, in the Hugging Face folder layout), and live servers."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import maxserve
from maxserve.testing import light_import, max_cli, plugin_folder, plugin_host, spawned  # noqa: F401 (fixtures)
from maxserve.testing.live import LiveServer

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
if (
    Path(maxserve.__file__).resolve().is_relative_to(SOURCE)
):  # tried in place: the processes that tests start see it too
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))

if not Path("/dev/nvidiactl").exists():  # nothing that kernels written in Triton could run on
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports it

gc.disable()  # what is imported and collected stays; looking through it for garbage takes a fifth of the start

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)  # of .ci/run
hypothesis.settings.load_profile("local")

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog while the early bird catches the worm",
    "a page of the cache holds keys and values; grüße, naïve café, 日本語のテキスト, emoji 🚀🎉",
] * 20


# Files and folders with few tests that take long each. They come first, so that no process has one to do at the end.
LONG = (
    "tests/test_write_a_plugin.py",
    "tests/plugins/commands/test_new_plugin.py",
    "tests/examples",
    "tests/meta/test_layout.py",
    "tests/compat",
    "tests/core/runtime",
    "tests/end_to_end",
    "tests/plugins/cuda",
    "tests/architectures/test_every_architecture.py",
)


def _rank(item: pytest.Item) -> int:
    return next((i for i, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take long come first, for `--no-loadscope-reorder`.

    What needs a C++ compiler is left out where there is none: those tests ask for kernels that cannot be made.
    """
    items.sort(key=_rank)
    if any(map(shutil.which, ("g++", "clang++", "c++"))):
        return
    for item in items:
        if item.get_closest_marker("compiler") is not None:
            item.add_marker(pytest.mark.skip(reason="there is no C++ compiler on this machine"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Garbage is looked for again, and in what the tests themselves make alone."""
    gc.freeze()
    gc.enable()


def write_tokenizer(folder: Path, vocab: int = 512) -> int:
    """A byte-level BPE with a chat template; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[0],
        "pad_token": SPECIALS[0],
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def write_model(
    folder: Path, *, architecture: str = "LlamaForCausalLM", dtype: str = "float32", **changes: Any
) -> Path:
    """A random model of two layers with a tokenizer of its own."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, Any] = {
        "vocab_size": write_tokenizer(folder),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **changes,
    }
    torch.manual_seed(0)
    llama = architecture == "LlamaForCausalLM"
    model = LlamaForCausalLM(LlamaConfig(**sizes)) if llama else Qwen3ForCausalLM(Qwen3Config(**sizes))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [architecture]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(*command: str, in_place: bool = False, timeout: float = 300, **kwargs: Any) -> str:
    """The output of a command that must succeed; it sees the checkout that is tested only where it is `in_place`."""
    hidden = ("PYTEST_ADDOPTS",) if in_place else ("PYTHONPATH", "PYTEST_ADDOPTS")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=env, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class FreshEnvironment:
    """A virtual environment of its own.

    What maxserve needs (torch and so on) is borrowed from the running environment by a path file: its own packages
    come first, and path files of the borrowed folder are not read, so nothing editable shines through.
    """

    def __init__(self, folder: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", str(folder))
        self.python = str(folder / "bin" / "python")
        self.packages = Path(self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (self.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, *arguments: str, **kwargs: Any) -> str:
        """Runs its interpreter."""
        return run(self.python, *arguments, **kwargs)

    def install(self, *arguments: str) -> None:
        """Installs without a network; what is borrowed does not count as installed."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "-q", "--no-index", "--no-deps"]
        run(*pip, "--no-build-isolation", "--ignore-installed", *arguments)


@pytest.fixture(scope="session")
def forked_pytest() -> Callable[..., list[dict[str, Any]]]:
    """Runs pytest several times by one interpreter, as forked_pytest.py says; the status and output of each run."""

    def forked(runs: list[dict[str, Any]], python: str | None = None) -> list[dict[str, Any]]:
        driver = str(Path(__file__).with_name("forked_pytest.py"))
        output = run(python or sys.executable, driver, json.dumps(runs), in_place=python is None, timeout=900)
        found: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
        return found

    return forked


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], FreshEnvironment]:
    """Makes environments without maxserve."""
    return lambda: FreshEnvironment(tmp_path_factory.mktemp("fresh") / "venv")


@pytest.fixture(scope="session")
def clean_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Copies a folder of the checkout, links as links, without what builds and tests leave behind."""

    def copy(name: str = ".") -> Path:
        source = ROOT / name
        kept = [".git", "build", "dist", "__pycache__", "*.egg-info", ".venv", ".*_cache"]
        target = tmp_path_factory.mktemp("copy") / source.resolve().name
        return Path(shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*kept)))

    return copy


@pytest.fixture(scope="session")
def build_wheel(clean_copy: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the wheel of a folder of the checkout, from a copy of it; `sdist`: from the archive made of that."""

    def build(name: str = ".", *, sdist: bool = False) -> Path:
        out = tmp_path_factory.mktemp("wheel")
        how = [] if sdist else ["--wheel"]
        run(sys.executable, "-m", "build", *how, "--no-isolation", "--outdir", str(out), str(clean_copy(name)))
        return next(out.glob("*.whl"))

    return build


@pytest.fixture
def demo_copy(tmp_path: Path) -> Path:
    """The demo model's folder, to be changed."""
    import maxserve.plugins.demo as demo

    return Path(shutil.copytree(Path(str(demo.__file__)).parent / "model", tmp_path / "demo"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a model folder once per set of changes."""
    made: dict[str, Path] = {}

    def make(**changes: Any) -> Path:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = write_model(tmp_path_factory.mktemp("model"), **changes)
        return made[key]

    return make


ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def start() -> Iterator[Callable[..., LiveServer]]:
    """Starts servers and ends them with the test."""
    started: list[LiveServer] = []

    def start(*options: str, python: str = sys.executable) -> LiveServer:
        started.append(LiveServer(*options, python=python, env=ONE_THREAD))
        return started[-1]

    yield start
    for server in started:
        server.stop()


class Fork:
    """What a Popen is to a server that another process has forked."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self._status = Path(f"{output}.status")
        self.stdout = output.open()  # waits until the server has it open, too
        self.send_signal = partial(os.kill, pid)
        self.kill = partial(os.kill, pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """The exit status, once it has ended: -9 where it could not say."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return int(self._status.read_text()) if self._status.exists() else -signal.SIGKILL
        return None

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked server", timeout)
            time.sleep(0.01)
        return status


class Forks:
    """Forks servers from one process that has imported everything, as forked_server.py says."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, itertools.count()
        driver = str(Path(__file__).with_name("forked_server.py"))
        self._process = subprocess.Popen(
            [sys.executable, driver, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def fork(self, argv: Sequence[str], env: Mapping[str, str]) -> Fork:
        output = self._folder / str(next(self._count))
        os.mkfifo(output)
        executor = ("--executor", "thread", "--plugin", str(self._folder / "thread_executor.py"))
        asked = {"argv": [*argv, *executor], "env": dict(env), "output": str(output)}
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        print(json.dumps(asked), file=requests, flush=True)
        return Fork(int(answers.readline()), output)

    def close(self) -> None:
        self._process.communicate(timeout=10)


class ForkedServer(LiveServer):
    """A server whose process is forked, and whose worker is a thread of it: there in a fifth of the time."""

    def __init__(self, forks: Forks, *options: str) -> None:
        self._forks = forks
        super().__init__(*options)

    def _launch(self, argv: Sequence[str], python: str, env: Mapping[str, str]) -> Any:
        return self._forks.fork(argv, env)


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """What forks servers, once for all."""
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def serving(forks: Forks) -> Callable[..., AbstractContextManager[LiveServer]]:
    """A server with these options, for tests that are not about its processes; it must end in order."""

    @contextmanager
    def serving(*options: str) -> Iterator[LiveServer]:
        server = ForkedServer(forks, *options)
        try:
            yield server.wait_ready()
        finally:
            assert server.stop() == 0

    return serving


@pytest.fixture(scope="module")
def server(
    model_folder: Callable[..., Path], serving: Callable[..., AbstractContextManager[LiveServer]]
) -> Iterator[LiveServer]:
    """A server with a tiny random Llama, shared by the tests of a file."""
    with serving("--model", str(model_folder()), "--served-model-name", "tiny", "--max-batch-size", "8") as server:
        yield server


@pytest.fixture(scope="module")
def two_processes(model_folder: Callable[..., Path]) -> Iterator[LiveServer]:
    """The same server with a worker of its own, as it is started from a shell."""
    options = ("--model", str(model_folder()), "--served-model-name", "tiny", "--max-batch-size", "8")
    server = LiveServer(*options, env=ONE_THREAD)
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", ":", *CORPUS[0].split(), *"abcdefgh")


def write_encoder(folder: Path, kind: str = "bert", *, labels: int = 0, **changes: Any) -> Path:
    """A random encoder of two layers with a tokenizer of words and, without labels, files of sentence-transformers."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = list(dict.fromkeys(WORDS))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    sizes: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        **({"num_labels": labels} if labels else {}),
        **changes,
    }
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **sizes)
    auto: Any = transformers.AutoModelForSequenceClassification if labels else transformers.AutoModel
    auto.from_config(config).save_pretrained(folder)
    tokenizer.add_special_tokens(words[:5])
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "bert" else [])]
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, model_input_names=inputs, **roles).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_input_names": inputs}))
    if not labels:
        write_recipe(folder)
    return folder


def write_recipe(folder: Path, pooling: str = "mean", **more: Any) -> None:
    """The files of sentence-transformers: pooling, normalising, a limit of 48 tokens."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    models = "sentence_transformers.models."
    modules = [{"idx": i, "name": str(i), "path": p, "type": models + k} for i, (p, k) in enumerate(kinds)]
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", {"word_embedding_dimension": size, "pooling_mode": pooling}),
        ("sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False}),
        ("config_sentence_transformers.json", more),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes the folder of an encoder once per set of arguments, which are those of `write_encoder`."""
    made: dict[str, Path] = {}

    def make(*args: Any, **changes: Any) -> Path:
        key = repr((args, sorted(changes.items())))
        if key not in made:
            made[key] = write_encoder(tmp_path_factory.mktemp("encoder"), *args, **changes)
        return made[key]

    return make
