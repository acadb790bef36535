"""The text that the demo model learns from: true to the options, reproducible, honest about what is held out."""

from __future__ import annotations

import dataclasses
import re
from itertools import islice
from random import Random
from types import ModuleType
from typing import Any

import jinja2
import pytest

from maxserve.core.config.catalog import catalog
from maxserve.testing.sections import built_in_sections

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve
Tools = dict[str, ModuleType]


def _texts(tools: Tools, corpus: Any, seed: int, count: int = 300) -> list[Any]:
    return list(islice(tools["conversation"].Writer(corpus, seed).texts(), count))


def test_every_option_of_max_serve_has_a_fact(corpus: Any) -> None:
    told = {fact.name for fact in corpus.training if fact.topic == "option"}
    assert {option.flag for option in catalog(SHARED)} == told


def test_plain_defaults_are_those_of_the_settings(corpus: Any) -> None:
    told = {fact.name: fact.answers[0] for fact in corpus.training if fact.topic == "default"}
    for option in catalog(SHARED):
        if isinstance(option.default, bool):
            words = ("on", "true") if option.default else ("off", "false")
        elif isinstance(option.default, int | float):
            words = (f"{option.default:g}", str(option.default))
        else:
            continue
        answer = told[f"{option.flag} default"]
        assert any(answer.startswith(f"The default of `{option.flag}` is {word}") for word in words), answer


def test_answers_name_only_options_that_exist(corpus: Any) -> None:
    known = {name for option in catalog(SHARED) for name in option.spellings}
    known |= {"--help", "--json", "--version", "--log-level", "--no-", "--draft-", "--acme.field"}  # of `max`, or forms
    known |= {"--prompt", "--max-new-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--stop"}  # of generate
    known |= {"--encoding", "--force"}  # of quantize
    for fact in corpus.training:
        for answer in fact.answers:
            assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*(?:\.\w+)?", answer)) <= known, answer


def test_an_option_that_is_refused_today_is_told_so(tools: Tools, corpus: Any) -> None:
    refused = {option.flag for option in catalog(SHARED) if option.unsupported}
    told = {fact.name: fact.answers[0].endswith(tools["corpus"].LATER) for fact in corpus.training}
    for option in catalog(SHARED):
        assert told[option.flag] is told[f"{option.flag} example"] is (option.flag in refused), option.flag


def test_what_people_ask_is_asked_more_often(tools: Tools, corpus: Any) -> None:
    spoken = {question for fact in corpus.training for question in fact.spoken}
    assert len(spoken) > 1000
    fact = next(fact for fact in corpus.training if fact.name == "out-of-memory")
    writer = tools["conversation"].Writer(corpus, 3)
    drawn = [writer._question(fact) in fact.spoken for _ in range(400)]
    assert sum(drawn) > 400 * len(fact.spoken) / len(fact.questions)


def test_a_newcomer_is_asked_about_in_two_parts(corpus: Any) -> None:
    assert {fact.topic for fact in corpus.newcomer} == {"known", "fresh"}
    assert all(fact.key for fact in corpus.newcomer)


def test_every_answer_holds_its_own_key_phrases(corpus: Any) -> None:
    for fact in corpus.training:
        assert all(fact.accepts(answer) for answer in fact.answers), fact.name


def test_a_question_belongs_to_one_fact(tools: Tools, corpus: Any) -> None:
    owners: dict[str, set[str]] = {}
    for fact in corpus.training:
        for question in fact.questions:
            owners.setdefault(tools["corpus"].normal(question), set()).add(fact.name)
    assert [question for question, names in owners.items() if len(names) > 1] == []


def test_no_held_out_question_is_trained_on(tools: Tools, corpus: Any) -> None:
    normal, forbidden = tools["corpus"].normal, corpus.forbidden()
    assert len(forbidden) > 1000
    planned = {normal(question) for fact in corpus.training for question in fact.questions}
    written = {
        normal(message.content)
        for text in _texts(tools, corpus, seed=0, count=3000)
        for message in text.messages
        if message.role == "user"
    }
    assert not forbidden & (planned | written)


def test_a_seed_decides_the_texts(tools: Tools, corpus: Any) -> None:
    again = tools["corpus"].load()
    assert _texts(tools, corpus, seed=7) == _texts(tools, again, seed=7)
    assert _texts(tools, corpus, seed=7) != _texts(tools, corpus, seed=8)


def test_conversations_alternate_and_end_with_an_answer(tools: Tools, corpus: Any) -> None:
    texts = _texts(tools, corpus, seed=1)
    assert any(text.prose for text in texts)
    assert any(len(text.messages) > 6 for text in texts)
    for text in texts:
        roles = [message.role for message in text.messages if message.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_wording_never_writes_a_forbidden_question(tools: Tools, corpus: Any) -> None:
    plain = "how do I change the port"
    free = tools["phrasing"].Phrasing(corpus.phrases, frozenset())
    variants = {free.vary(plain, Random(seed)) for seed in range(50)}
    assert len(variants) > 10
    forbidden = frozenset(tools["corpus"].normal(variant) for variant in variants)
    strict = tools["phrasing"].Phrasing(corpus.phrases, forbidden)
    rewritten = {strict.vary(plain, Random(seed)) for seed in range(50)} - {plain}
    assert not forbidden & {tools["corpus"].normal(each) for each in rewritten}


@pytest.mark.parametrize("text", ["max serve --port 9000", "größer als 5 €", "日本語 🚀\n\ttab", "  two  ", "\x00\x7f"])
def test_tokenizer_brings_back_any_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def _small(message: Any) -> Any:
    """The template reads questions in small letters."""
    return dataclasses.replace(message, content=message.content.lower()) if message.role == "user" else message


def test_batches_are_laid_out_as_the_chat_template_writes(tools: Tools, corpus: Any, tokenizer: Any) -> None:
    template = jinja2.Template(tools["tokenizer"].CHAT_TEMPLATE, keep_trailing_newline=True)
    for text in _texts(tools, corpus, seed=2, count=50):
        text = dataclasses.replace(text, messages=tuple(map(_small, text.messages)))
        example = tools["dataset"].encode(text, tokenizer, 4096)
        messages = [{"role": message.role, "content": message.content} for message in text.messages]
        written = template.render(messages=messages) if messages else text.prose + tools["tokenizer"].END_OF_TEXT
        assert example.ids == tokenizer.encode(written).ids
        assert len(example.weights) == len(example.ids)


def test_only_answers_count_fully(tools: Tools, tokenizer: Any) -> None:
    conversation, dataset = tools["conversation"], tools["dataset"]
    asked, said = conversation.Message("user", "port?"), conversation.Message("assistant", "8000 " * 30)
    example = dataset.encode(conversation.Text((asked, said)), tokenizer, 1024)
    start = tokenizer.encode("<|im_start|>user\nport?<|im_end|>\n<|im_start|>assistant\n").ids
    assert set(example.weights[: len(start)]) == {dataset.QUESTION}
    assert set(example.weights[len(start) : -1]) == {dataset.OPENING, dataset.ANSWER}
    cut = dataset.opening(example, tokenizer)
    assert len(start) < len(cut.ids) < len(example.ids)
    assert cut.ids == example.ids[: len(cut.ids)]


def test_batches_keep_to_their_budget_and_repeat(tools: Tools, corpus: Any, tokenizer: Any) -> None:
    def take(seed: int) -> list[Any]:
        made = tools["dataset"].batches(corpus, tokenizer, tokens=1024, positions=512, seed=seed)
        return list(islice(made, 20))

    first, second = take(3), take(3)
    assert all(batch.ids.numel() <= 1024 and batch.ids.shape == batch.weights.shape for batch in first)
    assert all(one.ids.equal(other.ids) for one, other in zip(first, second, strict=True))
