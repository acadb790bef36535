"""Every field that decides how tokens are drawn, with every speculative method, against plain decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from maxserve import LLM
from maxserve.core.assembly.params import request_params
from maxserve.core.engine.grammar import GrammarManager
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.overlap import ThreadQueue
from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher, allow_tokens
from maxserve.core.interfaces.request import Constraint, Output, Request, SamplingParams, ThoughtTokens
from maxserve.core.registry.protocol import Host
from maxserve.testing.served import Served
from tests.plugins.speculation import test_eagle, test_mtp

WORDS = Constraint(kind="regex", text="", backend="outlines")
THOUGHTS = ThoughtTokens(closing=9, opening=(4,), lead=(6, 8), forbidden=(11,), needed=True)
CLOSE_SOON = {"logit_bias": {"logit_bias": {"9": 6.0}}}

# What each field of SamplingParams is tried with, and each field of a sampler.
CASES: dict[str, list[dict[str, Any]]] = {
    "max_tokens": [{"max_tokens": 1}, {"max_tokens": 3}, {"max_tokens": 30}],
    "stop_token_ids": [{"stop_token_ids": tuple(range(20, 50))}],
    "ignore_eos": [{"ignore_eos": False}],
    "seed": [{"seed": seed, "fields": {"temperature": {"temperature": 1.0}}} for seed in (0, -3, 2**40)],
    "logprobs": [{"logprobs": 0}, {"logprobs": 4}],
    "prompt_logprobs": [{"prompt_logprobs": 2}, {"prompt_logprobs": 1, "logprobs": 1}],
    "fields": [{}],
    "constraint": [
        {"constraint": WORDS},
        {"constraint": WORDS, "ignore_eos": False},
        {"constraint": replace(WORDS, thoughts=THOUGHTS), "fields": CLOSE_SOON},
        {"constraint": replace(WORDS, thoughts=replace(THOUGHTS, needed=False, lead=())), "fields": CLOSE_SOON},
    ],
    "min_stop_tokens": [{"min_stop_tokens": 5}],
}
SAMPLERS: dict[str, list[Any]] = {
    "temperature": [0.4, 1.8],
    "top_k": [1, 5],
    "top_p": [0.3, 0.9],
    "min_p": [0.05],
    "min_tokens": [6],
    "presence_penalty": [1.5, -1.0],
    "frequency_penalty": [0.8, -0.5],
    "repetition_penalty": [1.5, 0.8],
    "logit_bias": [{"5": 4.0, "6": -3.0, "7": False}],
    "allowed_token_ids": [[3, 5, 8, 13, 21]],
    "bad_words_ids": [[[5], [8, 13], [3, 5, 8]]],
}
BEFORE = {"bad_words"}  # texts, which are ids when an engine gets them

PROMPTS = ([5, 6, 7] * 6, [9, 8, 3, 40])
METHODS = ("ngram", "suffix", "standalone", "eagle", "mtp", "synthetic", "cascade")


class WordsMatcher:
    """Two tokens of a few, then two certain ones, then one of a few, and the text is whole."""

    PARTS = ((3, 5, 8, 13), (3, 5, 8, 13), (21,), (34,), (50, 60, 70))

    def __init__(self) -> None:
        self.at = 0

    def accept(self, token: int) -> None:
        assert token in self.PARTS[self.at]
        self.at += 1

    def rollback(self, count: int) -> None:
        self.at -= count

    def fill(self, row: NDArray[Any]) -> None:
        allow_tokens(row, self.PARTS[self.at])

    def finished(self) -> bool:
        return self.at == len(self.PARTS)


class WordsCompiler(GrammarCompiler):
    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        return WordsMatcher


def requests(host: Host) -> list[Request]:
    """Each case greedy, and drawn with a seed, behind each prompt."""
    cases = [(name, case) for name, tried in CASES.items() for case in tried]
    owners = {field.name: each.component for each in request_params(host) for field in dataclasses.fields(each.schema)}
    cases += [(n, {"fields": {owners[n]: {n: value}}}) for n, tried in SAMPLERS.items() for value in tried]
    found = []
    for index, (name, case) in enumerate(cases):
        for temperature in (0.0, 0.9):
            for number, prompt in enumerate(PROMPTS):
                fields = {"temperature": {"temperature": temperature}, **case.get("fields", {})}
                given = {"max_tokens": 20, "ignore_eos": True, "seed": number, **case, "fields": fields}
                id = f"{name} {index} at {temperature} of {number}"
                found.append(Request(id=id, prompt=tuple(prompt), params=SamplingParams(**given)))
    return found


def test_every_field_is_tried(plugin_host: Callable[..., Host]) -> None:
    """A new one is to be added to the cases."""
    assert set(CASES) == {field.name for field in dataclasses.fields(SamplingParams)}
    of_samplers = {f.name for each in request_params(plugin_host()) for f in dataclasses.fields(each.schema)}
    assert set(SAMPLERS) | BEFORE == of_samplers
    assert set(METHODS) == {entry.name for entry in plugin_host().speculators}


@pytest.fixture
def made(plugin_host: Callable[..., Host], tmp_path: Path) -> Callable[[str, bool], Engine]:
    """An engine with a method, or without one on the same target."""

    def make(method: str, drafting: bool) -> Engine:
        folder, options = tmp_path / "target", {}
        folder.mkdir(exist_ok=True)
        if method == "mtp":
            test_mtp.DeepseekV3().write_model(folder)
        else:
            test_eagle.write_target(folder)
        if method == "cascade":
            options["cascade__then"] = "eagle"
        if method in ("eagle", "cascade") and drafting:
            options["draft_model_path"] = str(test_eagle.head3(tmp_path / "head"))
        elif method == "standalone":
            options["draft_model_path"] = str(folder)
        named = {"speculative_method": method, "num_speculative_tokens": 4, **options} if drafting else {}
        sizes = {"max_length": 128, "max_batch_size": 16, "max_batch_input_tokens": 96}
        parts = Served(folder, plugin_host(), **sizes, **named).engine._parts
        grammars = GrammarManager(lambda name: WordsCompiler(), parts.info.eos_token_ids, parts.info.vocab_size)
        return Engine(replace(parts, grammars=grammars))

    return make


def answered(engine: Engine, wanted: list[Request]) -> dict[str, list[Output]]:
    for request in wanted:
        engine.add(request)
    found: dict[str, list[Output]] = {request.id: [] for request in wanted}
    while engine.busy:
        for output in engine.next_outputs():
            found[output.id].append(output)
    engine.check()
    return found


def joined(outputs: list[Output], name: str) -> list[Any]:
    return [each for output in outputs for each in getattr(output, name)]


WITH_TEXT: dict[str, dict[str, Any]] = {
    "ngram": {},
    "suffix": {"suffix__max_cached_tokens": 1000},
    "synthetic": {},
    "standalone": {},
    "cascade": {"cascade__then": "standalone"},
}


@pytest.fixture(scope="module")
def texts_of(model_folder: Callable[..., Path]) -> Callable[..., Any]:
    """Answers to the same prompts several times, with seeds and without, each up to stop strings."""
    folder = str(model_folder())

    def texts(stop: Sequence[str] = (), **options: Any) -> list[Any]:
        if options.get("speculative_method") in ("standalone", "cascade"):
            options["draft_model_path"] = folder
        llm = LLM(folder, max_batch_size=8, devices="cpu", **options)
        prompts, found = ["the quick brown fox"] * 3 + ["a page a page a page"], []
        for _ in range(2):
            for fields in ({"temperature": 0}, {"temperature": 0.8, "seed": 5}):
                found += llm.generate(prompts, stop=stop, max_tokens=40, ignore_eos=True, **fields)
        return [(each.text, each.tokens, each.finish) for each in found]

    return texts


@pytest.mark.parametrize("method", WITH_TEXT)
def test_texts_end_at_stop_strings_as_those_of_plain_decoding(texts_of: Callable[..., Any], method: str) -> None:
    whole = texts_of()
    stop = [text[len(text) // part : len(text) // part + 3] for part, (text, _, _) in enumerate(whole[::3], start=2)]
    expected = texts_of(stop)
    assert {finish for _, _, finish in expected} >= {"stop"}
    assert any(len(text) < len(long) for (text, *_), (long, *_) in zip(expected, whole, strict=True))
    assert texts_of(stop, speculative_method=method, adaptive_speculation=False, **WITH_TEXT[method]) == expected


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_plain_decoding(
    made: Callable[[str, bool], Engine], plugin_host: Callable[..., Host], method: str
) -> None:
    wanted = requests(plugin_host())
    expected, engine = answered(made(method, False), wanted), made(method, True)
    overlapped = Engine(replace(engine._parts, device_queue=ThreadQueue()))
    for each in (engine, engine, overlapped):  # with what the first has left behind: prefixes, past answers
        found = answered(each, wanted)
        differing = [id for id in found if joined(found[id], "tokens") != joined(expected[id], "tokens")]
        assert differing == []
        for id, outputs in found.items():
            assert (outputs[-1].finish, outputs[-1].error) == (expected[id][-1].finish, expected[id][-1].error), id
            for name in ("logprobs", "prompt_logprobs"):
                mine, theirs = joined(outputs, name), joined(expected[id], name)
                assert [score.token for score in mine] == [score.token for score in theirs], id
                logprobs = [score.logprob for score in mine]
                assert logprobs == pytest.approx([score.logprob for score in theirs], abs=1e-4), id
    overlapped.close()
    assert min(each.stats().accepted_tokens for each in (engine, overlapped)) > 50
