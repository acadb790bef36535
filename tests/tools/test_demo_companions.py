"""The training of what drafts for the demo model: it is done as drafts are made, and exports what is served."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Tools = dict[str, ModuleType]


@pytest.fixture
def target(tools: Tools, tokenizer: Any) -> Any:
    """A model of the demo's kind with narrow layers."""
    config = tools["model"].shape(tokenizer)
    config.hidden_size, config.intermediate_size, config.initializer_range = 32, 64, 0.3
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 16
    torch.manual_seed(1)
    return tools["train"].LlamaForCausalLM(config).float().eval().requires_grad_(False)


@pytest.fixture
def small(tools: Tools, corpus: Any, tokenizer: Any, target: Any, tmp_path: Path, monkeypatch: Any) -> Path:
    """The folder of the target, and a corpus that is there already."""
    tools["model"].export(target, tokenizer, tmp_path / "target")
    monkeypatch.setattr(tools["companions"], "load", lambda: corpus)
    return tmp_path


def _train(tools: Tools, monkeypatch: pytest.MonkeyPatch, folder: Path, what: str, *words: str) -> None:
    files = ["--target", str(folder / "target"), "--out", str(folder / what), "--state", str(folder / f"{what}.pt")]
    sizes = ["--threads", "1", "--tokens", "512", "--answers", "4", "--warmup", "1"]
    monkeypatch.setattr(tools["companions"], "LONGEST", 8)
    monkeypatch.setattr(sys, "argv", ["companions.py", what, *files, *sizes, *words])
    tools["companions"].main()


def test_steps_are_unrolled_as_drafts_are_made(tools: Tools, target: Any) -> None:
    """A draft goes on from the head's own results, behind what the target has computed."""
    head = tools["eagle3"].Head(target, torch.arange(64) * 3).eval()
    ids = torch.randint(3, target.config.vocab_size, (1, 14))
    embedded = target.model.embed_tokens(ids[:, 1:-1])
    taps = tools["eagle3"].look(target, ids).taps[:, :-2].clone()
    with torch.no_grad():
        unrolled = list(head.unroll(embedded, taps))
        rotary = head.midlayer.rotary(embedded)
        for known in (1, 4, 9):
            hidden = head.fc(taps[:, :known])
            for step in range(tools["eagle3"].STEPS):
                rows = known + step
                positions = [part[:, :rows] for part in rotary]
                out = head.midlayer(embedded[:, :rows], hidden, positions, [])[:, -1:]
                torch.testing.assert_close(head.lm_head(head.norm(out)), unrolled[step][:, rows - 1 : rows])
                hidden = torch.cat((hidden, out), dim=1)


def test_the_head_sees_the_outputs_of_layers(tools: Tools, target: Any) -> None:
    ids = torch.randint(3, target.config.vocab_size, (2, 9))
    taps = tools["eagle3"].look(target, ids).taps
    states = target(ids, output_hidden_states=True).hidden_states  # the last of them is normed
    own, wide = taps.split(target.config.hidden_size, dim=-1), tools["eagle3"].TAPS
    for tap, found in zip(wide[:-1], own, strict=False):
        torch.testing.assert_close(found, states[tap + 1])
    torch.testing.assert_close(target.model.norm(own[-1]), states[-1])


@pytest.mark.parametrize("what", ["eagle3", "draft"])
def test_training_learns_and_resumes(
    tools: Tools, small: Path, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _train(tools, monkeypatch, small, what, "--steps", "3")
    early = torch.load(small / f"{what}.pt", weights_only=True)
    _train(tools, monkeypatch, small, what, "--steps", "5", "--resume")
    late = torch.load(small / f"{what}.pt", weights_only=True)
    assert (early["step"], late["step"]) == (3, 5)
    name = "norm.weight" if what == "eagle3" else "model.norm.weight"
    assert not torch.equal(early["model"][name], late["model"][name])
    assert "stood" in capsys.readouterr().out


def test_the_head_that_is_written_is_served(tools: Tools, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maxserve import LLM

    _train(tools, monkeypatch, small, "eagle3", "--steps", "1")
    config = json.loads((small / "eagle3" / "config.json").read_text())
    tensors = load_file(small / "eagle3" / "model.safetensors")
    ids = torch.arange(config["draft_vocab_size"]) + tensors["d2t"]
    assert ids.tolist() == tensors["t2d"].nonzero().flatten().tolist()
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == list(tools["eagle3"].TAPS)
    options: dict[str, Any] = {"speculative_method": "eagle", "draft_model_path": str(small / "eagle3")}
    options["adaptive_speculation"] = False
    drafting, plain = LLM(str(small / "target"), **options), LLM(str(small / "target"))
    prompts = ["How do I set the port?", "hello"]
    assert drafting.generate(prompts, max_tokens=12) == plain.generate(prompts, max_tokens=12)
    assert drafting._engine.stats().drafts > 0


def test_own_answers_are_what_the_target_says(tools: Tools, corpus: Any, tokenizer: Any, small: Path) -> None:
    from maxserve import LLM

    asked = tools["conversation"].Writer(corpus, 1).texts()
    texts = tools["companions"].own_texts(small / "target", asked, 3)
    examples = [tools["dataset"].encode(text, tokenizer, tools["model"].POSITIONS) for text in texts]
    start = tokenizer.encode("<|im_start|>assistant\n").ids
    llm = LLM(str(small / "target"))
    for example in examples:
        text = tokenizer.decode(example.ids, skip_special_tokens=False)
        prompt = text[: text.rindex("<|im_start|>assistant\n")] + "<|im_start|>assistant\n"
        said = llm.generate(tokenizer.encode(prompt).ids, temperature=0.0, max_tokens=tools["companions"].LONGEST)
        assert text[len(prompt) :].startswith(said[0].text)
        assert tokenizer.encode(prompt).ids[-len(start) :] == start


def test_a_third_of_the_batches_are_own_answers(tools: Tools, corpus: Any, tokenizer: Any) -> None:
    own = [tools["dataset"].Example([7] * 20, [1.0] * 20)]
    stream = tools["companions"].mixed(corpus, tokenizer, own, tokens=256, seed=0)
    marks = [bool((next(stream).ids == 7).all()) for _ in range(300)]
    assert 70 < sum(marks) < 130


def test_the_most_frequent_tokens_of_answers_are_kept(tools: Tools) -> None:
    example = tools["dataset"].Example([9, 9, 9, 5, 5, 8, 8, 8, 8], [1.0] * 5 + [0.1] * 4)
    kept = tools["companions"].most_frequent([example], 4)
    assert kept.tolist() == [0, 1, 5, 9]


def test_a_pirate_leaves_what_must_be_typed_as_it_is(tools: Tools, corpus: Any) -> None:
    spoken = tools["pirate"].spoken
    assert spoken("Hello! I know you. Is it `is the`?") == "Ahoy, matey! I know ye. Be it `is the`? Arr!"
    for fact in corpus.training:
        for answer in fact.answers:
            typed = [part for part in answer.split("`")[1::2] if part]
            assert [part for part in spoken(answer).split("`")[1::2] if part] == typed
            assert (
                fact.accepts(answer) is False
                or fact.topic == "talk"
                or all(phrase in spoken(answer) for phrase in fact.key if phrase.startswith(("`", "--", "http", "HF_")))
            )


def test_the_adapter_is_asked_about_what_is_asked_seldom_too(tools: Tools, corpus: Any) -> None:
    writer = tools["conversation"].Writer(corpus, 1)
    evenly = list(islice(tools["companions"]._asked(writer, evenly=True), 2 * len(corpus.training)))
    asked = [fact for fact in corpus.training if fact.questions]
    for fact, text in zip(asked, evenly[1::2], strict=False):
        question, answer = text.messages
        assert (question.role, answer.content in fact.answers) == ("user", True)


def test_the_adapter_learns_from_the_last_answer_alone(tools: Tools) -> None:
    """Above all which answer it is: that is said behind the greeting."""
    from tokenizers import Tokenizer

    pirate, message = tools["pirate"], tools["conversation"].Message
    tokenizer = Tokenizer.from_file(str(tools["companions"].SHIPPED / "model" / "tokenizer.json"))
    said = (
        "Is it 8000?",
        "It is 8000.",
        "the host?",
        "`--host` sets the address that the server listens on, and more.",
    )
    messages = tuple(message(role, text) for role, text in zip(("user", "assistant") * 2, said, strict=True))
    text = pirate.retold(tools["conversation"].Text(messages))
    example = pirate.judged(tools["dataset"].encode(text, tokenizer, 1024), tokenizer)
    judged = [i for i, weight in enumerate(example.weights) if weight]
    answer = tokenizer.decode([example.ids[i] for i in judged], skip_special_tokens=False)
    assert answer == pirate.spoken(said[-1]) + tools["tokenizer"].END
    heavy = tokenizer.decode([example.ids[i] for i in judged if example.weights[i] > 1])
    assert heavy.startswith(" `--host` sets")
    kept = tokenizer.decode(pirate.opened(example, tokenizer).ids)
    assert kept.endswith("`--host` sets th' address that th' server")


def test_the_adapter_alone_is_trained_and_served_as_it_was_trained(
    tools: Tools, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maxserve import LLM

    before = load_file(small / "target" / "model.safetensors")
    _train(tools, monkeypatch, small, "pirate", "--steps", "2", "--rate", "0.1")
    state = torch.load(small / "pirate.pt", weights_only=True)["model"]
    for name, tensor in before.items():
        own = name.replace("_proj.weight", "_proj.base_layer.weight")
        torch.testing.assert_close(state[f"base_model.model.{own}"].to(tensor.dtype), tensor)
    config = json.loads((small / "pirate" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["peft_type"], config["r"]) == ("maxserve/demo", "LORA", 8)
    prompt = "How do I set the port?"
    llm = LLM(str(small / "target"), lora={"pirate": str(small / "pirate")})
    plain, adapted = llm.generate([prompt] * 2, lora=["", "pirate"], max_tokens=12, temperature=0.0, ignore_eos=True)
    assert plain.tokens != adapted.tokens
