"""The packages in examples/ are built, installed into a fresh environment beside the wheel, tested and served with."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.plugins.lora.conftest import quiet

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = (
    *("architecture", "scheduler", "sampler", "cache_policy", "routes", "grammar_backend", "speculator"),
    "quantization_format",
    "adapter",
)
PUBLIC = ("maxserve", "maxserve.interfaces", "maxserve.layers", "maxserve.testing")


@pytest.fixture(scope="module")
def fresh(
    fresh_environment: Callable[[], Any], build_wheel: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A new environment with maxserve's wheel and all examples."""
    environment = fresh_environment()
    environment.install(*(str(build_wheel(name)) for name in (".", *(f"examples/{each}" for each in EXAMPLES))))
    where = environment.run("-c", "import maxserve; print(maxserve.__file__)", cwd=tmp_path_factory.mktemp("cwd"))
    assert where.startswith(str(environment.packages)), where
    return environment


@pytest.mark.install
def test_they_are_listed_with_their_distribution(fresh: Any, tmp_path: Path) -> None:
    listed = json.loads(fresh.run("-m", "maxserve", "list", "--json", cwd=tmp_path))
    text = json.dumps(listed)
    for name in (
        "AcmeForCausalLM",
        "shortest-first",
        "top_n_sigma",
        "next-token",
        "choice-tree",
        "dear-prefixes",
        "three-levels",
    ):
        assert name in text
    for name in ("acme-llm", "sigma-sampler", "pair-lookup", "ia3"):
        assert name in text
    plugins = fresh.run("-m", "maxserve", "plugins", cwd=tmp_path)
    for name in ("acme", "shortest", "sigma", "next_token", "choice_tree", "dear_prefixes", "pair_lookup"):
        assert name in plugins


@pytest.fixture(scope="module")
def tried(fresh: Any, forked_pytest: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each example's own tests, run by themselves where the wheels are installed."""
    runs = []
    for name in EXAMPLES:
        folder = str(tmp_path_factory.mktemp(name))
        options = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", folder]
        runs.append({"cwd": folder, "path": [], "args": [*options, str(ROOT / "examples" / name / "tests")]})
    return dict(zip(EXAMPLES, forked_pytest(runs, fresh.python), strict=True))


@pytest.mark.install
@pytest.mark.timeout(900)  # the first waits for all
@pytest.mark.parametrize("name", EXAMPLES)
def test_their_own_tests_pass(tried: dict[str, Any], name: str) -> None:
    assert tried[name]["status"] == 0, tried[name]["output"]
    assert " passed" in tried[name]["output"]


@pytest.mark.install
def test_a_server_serves_with_all_of_them(
    fresh: Any, start: Any, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "acme"
    source = model_folder(architecture="Qwen3ForCausalLM")
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["AcmeForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    options = ["--model", str(folder), "--served-model-name", "acme", "--scheduler", "shortest-first"]
    options += ["--enable-routes", "next_token", "--structured-output-backend", "choice-tree"]
    options += ["--paged.eviction", "dear-prefixes", "--speculative-method", "pair-lookup"]
    options += ["--no-adaptive-speculation"]
    server = start(*options, python=fresh.python).wait_ready()
    plain = start("--model", str(source), "--served-model-name", "acme", python=fresh.python).wait_ready()
    body = {"model": "acme", "prompt": "the quick brown", "max_tokens": 16, "temperature": 0}
    answers = [httpx.post(s.url + "/v1/completions", json=body, timeout=60).json() for s in (server, plain)]
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]
    repeating = {**body, "logit_bias": {"30": 100}}
    usage = httpx.post(server.url + "/v1/completions", json=repeating, timeout=60).json()["usage"]
    assert usage["completion_tokens_details"]["accepted_prediction_tokens"] > 4

    drawn = httpx.post(server.url + "/v1/completions", json={**body, "temperature": 1, "top_n_sigma": 1e-6}, timeout=60)
    assert drawn.json()["choices"][0]["text"] == answers[0]["choices"][0]["text"], "only the best token is left"
    assert "warnings" not in drawn.json()
    refused = httpx.post(server.url + "/v1/completions", json={**body, "top_n_sigma": -1})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "top_n_sigma"
    assert "top_n_sigma" in httpx.get(server.url + "/openapi.json").text

    following = httpx.get(server.url + "/plugins/next_token/next", params={"text": "the quick brown"}, timeout=60)
    assert following.json()["next"]
    assert answers[0]["choices"][0]["text"].startswith(following.json()["next"])
    held = {**body, "max_tokens": 32, "structured_outputs": {"choice": ["a dog", "a fox"]}}
    chosen = httpx.post(server.url + "/v1/completions", json=held, timeout=60)
    assert chosen.json()["choices"][0]["text"] in ("a dog", "a fox"), chosen.text


@pytest.mark.install
def test_a_checkpoint_in_the_format_is_served(
    fresh: Any, start: Any, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """As what its weights stand for is."""
    source, folders = model_folder(architecture="LlamaForCausalLM"), (tmp_path / "packed", tmp_path / "plain")
    packed = load_file(source / "model.safetensors")
    plain = dict(packed)
    for name in [name for name in packed if name.endswith("_proj.weight")]:
        weight = packed.pop(name).float()
        scale = weight.abs().amax(1, keepdim=True)
        levels = (weight / scale).round()
        plain[name] = levels * scale
        fours = (levels + 1).byte().view(len(weight), -1, 4)
        packed[f"{name}.scale"] = scale
        packed[f"{name}.levels"] = sum(fours[..., i] << 2 * i for i in range(4))
    config = json.loads((source / "config.json").read_text())
    for folder, weights in zip(folders, (packed, plain), strict=True):
        shutil.copytree(source, folder)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    quantized = config | {"quantization_config": {"quant_method": "three-levels"}}
    (folders[0] / "config.json").write_text(json.dumps(quantized))
    body = {"model": "three", "prompt": "the quick brown", "max_tokens": 16, "temperature": 0}
    options = ["--served-model-name", "three", "--native.precision", "exact"]
    servers = [start("--model", str(each), *options, python=fresh.python).wait_ready() for each in folders]
    answers = [httpx.post(each.url + "/v1/completions", json=body, timeout=60).json() for each in servers]
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]


@pytest.mark.install
def test_adapters_of_another_kind_are_served(
    fresh: Any, start: Any, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """As PEFT computes with them: those of the start and those loaded over HTTP, beside the base model."""
    source = model_folder(architecture="LlamaForCausalLM")
    folders = {name: make_ia3(source, tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}
    options = ["--model", str(source), "--served-model-name", "tiny", "--ia3.slots", "2"]
    options += ["--ia3.adapters", f"first={folders['first']}"]
    server = start(*options, python=fresh.python).wait_ready()
    loading = {"lora_name": "second", "lora_path": str(folders["second"])}
    assert httpx.post(server.url + "/v1/load_lora_adapter", json=loading, timeout=60).status_code == 200
    prompt = [5, 6, 7, 8, 9, 10, 11]
    asked = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 0, "ignore_eos": True}
    texts = []
    for name in ("tiny", "first", "second"):
        answer = httpx.post(server.url + "/v1/completions", json={**asked, "model": name}, timeout=60).json()
        (choice,) = answer["choices"]
        expected = continued(source, folders.get(name), prompt, 6)
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected, abs=1e-4)
        texts.append(choice["text"])
    assert len(set(texts)) == 3
    broken = {"lora_name": "third", "lora_path": str(tmp_path)}
    refused = httpx.post(server.url + "/v1/load_lora_adapter", json=broken, timeout=60)
    assert (refused.status_code, "cannot be served" in refused.text) == (400, True)


def make_ia3(source: Path, folder: Path, seed: int) -> Path:
    """An adapter with random vectors, saved by PEFT."""
    import peft
    from transformers import AutoModelForCausalLM

    config = peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    with quiet():
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "ia3_l" in name:
            parameter.data = 1 + torch.randn(parameter.shape, generator=generator)
    with quiet():
        model.save_pretrained(str(folder))
    return folder


def continued(source: Path, adapter: Path | None, prompt: list[int], tokens: int) -> list[float]:
    """The log probabilities of the likeliest continuation, by PEFT."""
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    if adapter is not None:
        with quiet():
            model = peft.PeftModel.from_pretrained(model, str(adapter))
    ids, found = list(prompt), []
    with torch.inference_mode():
        for _ in range(tokens):
            best = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).max(-1)
            ids.append(int(best.indices))
            found.append(float(best.values))
    return found


@pytest.mark.parametrize("name", EXAMPLES)
def test_they_import_public_names_only(name: str) -> None:
    modules = [
        module
        for file in (ROOT / "examples" / name).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for module in ([node.module or ""] if isinstance(node, ast.ImportFrom) else _plain_imports(node))
        if module.partition(".")[0] == "maxserve"
    ]
    assert modules
    assert [
        module for module in modules if module not in PUBLIC and not module.startswith("maxserve.interfaces.")
    ] == []


@pytest.mark.parametrize("name", ["scheduler", "sampler", "cache_policy", "routes", "grammar_backend"])
def test_a_simple_kind_takes_few_lines(name: str) -> None:
    """Modules and not their tests; an architecture has as many in each of its two."""
    (module,) = [file for file in (ROOT / "examples" / name).glob("*.py") if file.name != "setup.py"]
    assert len(module.read_text().splitlines()) <= 25


def _plain_imports(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
