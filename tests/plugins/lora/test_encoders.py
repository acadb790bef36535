"""Adapters of models that make vectors and scores, against PEFT."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

import maxserve
from maxserve.core.interfaces.errors import RequestError, SettingsError
from maxserve.core.interfaces.request import AdapterChange, EncodeRequest
from maxserve.plugins.embeddings.vectors import Collected
from tests.plugins.lora.conftest import quiet

TEXTS = [tuple(range(5, 5 + length)) for length in (3, 11, 1, 6, 11)]
BERT = {
    "attention": ["query", "key", "value"],
    "all": r".*encoder.*\.(query|key|value|dense)|.*word_embeddings",  # and not the pooler, which makes no vector
    "feed": ["intermediate.dense", "output.dense"],
}
DECODER = {
    "attention": ["q_proj", "k_proj", "v_proj"],
    "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "feed": ["up_proj", "down_proj"],
}


def make(folder: Path, out: Path, targets: Mapping[str, Any], labels: bool = False) -> dict[str, str]:
    """Adapters of a model with random factors, by name their folders."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    cls: Any = AutoModelForSequenceClassification if labels else AutoModel
    found = {}
    for seed, (name, modules) in enumerate(targets.items()):
        with quiet():
            model = cls.from_pretrained(folder, dtype=torch.float32)
            config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=modules, task_type=None)
            wrapped = peft.get_peft_model(model, config)
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        with quiet():
            wrapped.save_pretrained(str(out / name))
        found[name] = str(out / name)
    return found


def hidden(folder: Path, adapter: str, text: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The vectors of a text's tokens, by PEFT."""
    from transformers import AutoModel

    with quiet():
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        model = peft.PeftModel.from_pretrained(model, adapter) if adapter else model
        with torch.inference_mode():
            found: np.ndarray[Any, Any] = model(input_ids=torch.tensor([text])).last_hidden_state[0].numpy()
    return found


def encoded(llm: Any, requests: Mapping[str, tuple[str, Any]]) -> dict[str, list[Any]]:
    """What the engine gives requests (adapter, texts) that are open at once."""
    engine, info = llm._built, llm.info
    collected = {id: Collected(len(texts), info.vectors) for id, (_, texts) in requests.items()}
    for id, (adapter, texts) in requests.items():
        engine.add(EncodeRequest(id=id, texts=tuple(texts), adapter=adapter))
    while engine.busy:
        for part in engine.step():
            assert part.error is None, part.error
            collected[part.id].add(part)
    return {id: each.vectors(None) for id, each in collected.items()}


@pytest.mark.parametrize("kind", ["bert", "qwen3"])
@pytest.mark.parametrize("slots", [1, 3])
def test_vectors_of_a_batch_with_several_adapters_are_those_of_peft(
    encoder_folder: Callable[..., Path], tmp_path: Path, kind: str, slots: int
) -> None:
    """Also with fewer slots than adapters, where requests wait for theirs; those of none have their bits."""
    sizes = {"num_key_value_heads": 2, "head_dim": 8} if kind == "qwen3" else {}
    folder = encoder_folder(kind, **sizes)
    adapters = make(folder, tmp_path, BERT if kind == "bert" else DECODER)
    options: dict[str, Any] = {"pool_embeddings": False, "native__precision": "exact"}
    plain = encoded(maxserve.LLM(str(folder), **options), {"": ("", TEXTS)})[""]
    llm = maxserve.LLM(str(folder), lora=adapters, max_num_loras=slots, **options)
    found = encoded(llm, {name: (name, TEXTS) for name in ("", *adapters)})
    for one, other in zip(found[""], plain, strict=True):
        np.testing.assert_array_equal(one, other)
    for name, path in adapters.items():
        for text, vectors in zip(TEXTS, found[name], strict=True):
            np.testing.assert_allclose(vectors, hidden(folder, path, text), atol=1e-4)
            assert np.abs(vectors - hidden(folder, "", text)).max() > 1e-2
    assert llm._built.stats().adapters == ()


def test_scores_are_those_of_peft(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A head has a row for each pair, and an adapter may change it."""
    from transformers import AutoModelForSequenceClassification

    folder = encoder_folder("bert", labels=1)
    adapters = make(folder, tmp_path, {"body": ["query", "value"], "head": ["pooler.dense", "classifier"]}, labels=True)
    llm = maxserve.LLM(str(folder), lora=adapters, native__precision="exact")
    requests = {name: (name, TEXTS[:3]) for name in ("", *adapters)}
    engine, found = llm._built, dict[str, list[float]]()
    for id, (adapter, texts) in requests.items():
        engine.add(EncodeRequest(id=id, texts=tuple(texts), adapter=adapter, activation=False))
    while engine.busy:
        for part in engine.step():
            for index, score in zip(part.indices, np.frombuffer(part.data, np.float32), strict=True):
                found.setdefault(part.id, [0.0] * 3)[index] = float(score)
    for name in requests:
        with quiet():
            model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
            model = peft.PeftModel.from_pretrained(model, adapters[name]) if name else model
        with torch.inference_mode():
            expected = [float(model(input_ids=torch.tensor([text])).logits[0, 0]) for text in TEXTS[:3]]
        np.testing.assert_allclose(found[name], expected, atol=1e-4)
    assert found[""] != found["body"] != found["head"]


def test_adapters_come_and_go_while_texts_are_encoded(encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = encoder_folder()
    adapters = make(folder, tmp_path, {"one": ["query"], "two": ["value"]})
    llm: Any = maxserve.LLM(str(folder), lora={"one": adapters["one"]})
    engine = llm._built
    one, plain = llm.encode(TEXTS[0], lora="one")[0], llm.encode(TEXTS[0], lora="")[0]
    engine.add(EncodeRequest(id="before", texts=(TEXTS[0],), adapter="one"))
    replacing = AdapterChange(id="c", action="load", name="one", source=adapters["two"], replace=True)
    change(engine, replacing, while_open="before", expected=one)
    two = llm.encode(TEXTS[0], lora="one")[0]
    assert not np.allclose(one, two, atol=1e-3)
    assert engine.adapters == {"one": adapters["two"]}
    broken = shutil.copytree(adapters["one"], tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"nonsense")
    engine.change_adapter(AdapterChange(id="d", action="load", name="x", source=str(broken)))
    rejected: list[Any] = []
    while not rejected:
        engine.step()
        rejected = engine.rejected_changes()
    assert "cannot be served" in rejected[0][1].message
    change(engine, AdapterChange(id="e", action="unload", name="one"))
    with pytest.raises(RequestError, match="there is no adapter 'one'"):
        llm.encode(TEXTS[0], lora="one")
    np.testing.assert_array_equal(llm.encode(TEXTS[0])[0], plain)
    with pytest.raises(RequestError, match="serves no adapters; start it with --enable-lora"):
        maxserve.LLM(str(folder)).encode(TEXTS[0], lora="one")


def change(engine: Any, wanted: AdapterChange, while_open: str = "", expected: Any = None) -> None:
    """Makes a change; the request that is open then ends with the adapter that it began with."""
    engine.change_adapter(wanted)
    done: set[str] = set()
    while wanted.id not in done:
        for part in engine.step():
            done.add(part.id)
            if part.id == while_open:
                np.testing.assert_allclose(np.frombuffer(part.data, np.float32), expected, atol=1e-6)
    assert not while_open or while_open in done


def test_an_adapter_may_not_have_the_name_of_the_model(
    encoder_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = encoder_folder()
    adapters = make(folder, tmp_path, {folder.name: ["query"]})
    monkeypatch.chdir(folder.parent)
    with pytest.raises(SettingsError, match=f"an adapter has the name '{folder.name}', which is the model's"):
        maxserve.LLM(folder.name, lora=adapters)


def test_encode_shows_one(encoder_folder: Callable[..., Path], tmp_path: Path, max_cli: Any) -> None:
    folder = encoder_folder()
    (path,) = make(folder, tmp_path, {"one": ["query"]}).values()
    command = ["encode", "--model", str(folder), "--prompt", "the quick"]
    plain, adapted = max_cli(*command), max_cli(*command, "--lora", path)
    assert (plain.status, adapted.status) == (0, 0), adapted.err
    assert plain.out.splitlines()[1] != adapted.out.splitlines()[1]
