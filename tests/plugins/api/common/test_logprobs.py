"""The forms of logprobs, and what an answer keeps of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from maxserve.core.interfaces.request import Output, Request, SamplingParams, TokenLogprob
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.answer_text import AnswerText
from maxserve.plugins.api.common.logprobs import CompletionLogprobs, TokenTexts, chat_logprobs, prompt_logprobs
from maxserve.plugins.tokenizers.folder import load_tokenizer
from maxserve.samplers.bad_words import BadWords

EOS = 256


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte, in an order of its own, and an end."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["</s>"])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return load_tokenizer(str(folder))


def ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def entry(token: int, logprob: float = -1.0, rank: int = 3, best: tuple[int, ...] = ()) -> TokenLogprob:
    return TokenLogprob(token=token, logprob=logprob, rank=rank, ids=best, logprobs=tuple(-0.5 for _ in best))


def answer(
    tokenizer: Tokenizer, text: str, *, stop: tuple[str, ...] = (), least: int = 0, **options: Any
) -> list[TextDelta]:
    stop_ids = tuple(options.pop("stop_token_ids", ()))
    params = SamplingParams(logprobs=0, stop_token_ids=stop_ids, min_stop_tokens=least)
    request = Request(id="r", prompt=(1,), params=params)
    grown, tokens = AnswerText(tokenizer, request, (EOS,), stop, **options), ids(tokenizer, text)
    deltas = []
    for token in tokens:
        finish = "stop" if token == EOS or token in stop_ids else None
        deltas.append(grown.add(Output(id="r", tokens=(token,), finish=finish, logprobs=(entry(token),))))
        if deltas[-1].finish:
            break
    return deltas


def text(deltas: list[TextDelta]) -> str:
    return "".join(delta.text for delta in deltas)


def shown(deltas: list[TextDelta]) -> list[int]:
    return [entry.token for delta in deltas for entry in delta.logprobs]


def test_half_characters_in_chats_have_their_bytes(tokenizer: Tokenizer) -> None:
    first, second = ids(tokenizer, "é")
    made = chat_logprobs(TokenTexts(tokenizer), [entry(first, best=(second, first)), entry(second, float("-inf"))])
    assert [(one["token"], one["bytes"]) for one in made["content"]] == [("�", [0xC3]), ("�", [0xA9])]
    assert [one["bytes"] for one in made["content"][0]["top_logprobs"]] == [[0xA9], [0xC3]]
    assert made["content"][1]["logprob"] == -9999.0


def test_completions_count_characters_and_tell_half_ones_apart(tokenizer: Tokenizer) -> None:
    a, first, second, b = ids(tokenizer, "aéb")
    form = CompletionLogprobs(TokenTexts(tokenizer))
    prompt = form.prompt([a, first], [entry(first, best=(second,))])
    assert prompt["tokens"] == ["a", "bytes:\\xc3"]
    assert prompt["token_logprobs"] == [None, -1.0]
    assert prompt["top_logprobs"] == [None, {"bytes:\\xa9": -0.5, "bytes:\\xc3": -1.0}]
    rest = form.answer([entry(second), entry(b)])
    assert (prompt["text_offset"], rest["text_offset"]) == ([0, 1], [1, 2])
    assert rest["top_logprobs"] == [{"bytes:\\xa9": -1.0}, {"b": -1.0}]


def test_prompt_logprobs_are_those_of_vllm(tokenizer: Tokenizer) -> None:
    a, b = ids(tokenizer, "ab")
    made = prompt_logprobs(TokenTexts(tokenizer), [entry(a, -4.0, 9, (b,)), entry(b, -0.5, 1, (b,))])
    best = {"logprob": -0.5, "rank": 1, "decoded_token": "b"}
    assert made == [None, {str(b): best, str(a): {"logprob": -4.0, "rank": 9, "decoded_token": "a"}}, {str(b): best}]


def test_an_end_token_has_no_entry(tokenizer: Tokenizer) -> None:
    deltas = answer(tokenizer, "ab</s>")
    assert (text(deltas), shown(deltas)) == ("ab", list(ids(tokenizer, "ab")))
    assert deltas[-1].tokens == (EOS,)


def test_tokens_after_a_stop_string_have_none(tokenizer: Tokenizer) -> None:
    request = Request(id="r", prompt=(1,), params=SamplingParams(logprobs=0))
    tokens = ids(tokenizer, "abcd")
    output = Output(id="r", tokens=tokens, logprobs=tuple(map(entry, tokens)))
    delta = AnswerText(tokenizer, request, (EOS,), ("bc",)).add(output)
    assert (delta.text, delta.tokens, delta.finish) == ("a", tokens[:3], "stop")
    assert [entry.token for entry in delta.logprobs] == list(tokens[:3])


def test_the_stop_can_be_part_of_the_text(tokenizer: Tokenizer) -> None:
    assert text(answer(tokenizer, "abcd", stop=("bc",), include_stop=True)) == "abc"
    (x,) = ids(tokenizer, "x")
    assert text(answer(tokenizer, "abxd", stop_token_ids=[x], include_stop=True)) == "abx"
    assert text(answer(tokenizer, "abxd", stop_token_ids=[x])) == "ab"
    assert text(answer(tokenizer, "ab</s>", include_stop=True)) == "ab"


def test_no_stop_string_before_the_minimum(tokenizer: Tokenizer) -> None:
    assert text(answer(tokenizer, "abab", stop=("b",), least=1)) == "a"
    assert text(answer(tokenizer, "abab", stop=("b",), least=2)) == "aba"
    assert text(answer(tokenizer, "abab", stop=("b",), least=9)) == "abab"


def test_bad_words_are_translated_as_they_begin_and_as_they_follow_a_space(tokenizer: Tokenizer) -> None:
    wish = BadWords(bad_words=[" no"], bad_words_ids=[[5]]).tokenized(tokenizer)
    assert wish == BadWords(bad_words_ids=[[5], list(ids(tokenizer, "no")), list(ids(tokenizer, " no"))])
