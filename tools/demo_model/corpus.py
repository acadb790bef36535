"""What may a newcomer ask, and what is the right answer?

Reads `facts/` and turns it into `Fact`s: every way of asking that was planned, and the one answer. Paraphrases in
`HELD_OUT` share and the hand-written ones of `facts/newcomer.yaml` are kept out of training. Which options still wait
for their feature is asked of maxserve itself, which must be installed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from maxserve.core.config.catalog import catalog
from maxserve.testing.sections import built_in_sections

FACTS = Path(__file__).parent / "facts"
HELD_OUT = 0.06  # share of the paraphrases that only the evaluation sees
LATER = "`max serve --help` says whether it is supported yet."  # true before the feature lands and after
SOME_LATER = "A value that is not supported yet is refused at start."
RARE = 0.4  # how often an option of the draft model is drawn, compared with another option


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Questions that have the same answer; `key` holds what a right answer must contain."""

    name: str
    topic: str  # "option", "default", "example", "topic", "talk", "off_topic"; "known" or "fresh" for a newcomer's
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    key: tuple[str, ...]
    spoken: frozenset[str] = frozenset()  # those of the questions that a person wrote out, which no pattern made
    weight: float = 1.0  # how often the fact is drawn, compared with others of its topic

    def accepts(self, answer: str) -> bool:
        """Whether an answer holds every key phrase, whatever its case."""
        return all(phrase.lower() in answer.lower() for phrase in self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All facts, split by question into those for training and those for evaluation."""

    training: tuple[Fact, ...]
    held_out: tuple[Fact, ...]
    newcomer: tuple[Fact, ...]  # hand-written questions, one each
    phrases: Mapping[str, Any]
    prose: tuple[str, ...]
    systems: tuple[str, ...]

    def forbidden(self) -> frozenset[str]:
        """The normal forms of all questions that training must not contain."""
        return frozenset(normal(q) for fact in (*self.held_out, *self.newcomer) for q in fact.questions)


def load() -> Corpus:
    """The whole corpus; the same on every machine."""
    phrases = _yaml("phrases")
    newcomer = tuple(_newcomer())
    facts = _without_doubles(_widened([*_topics(phrases), *_talk(), *_options(phrases), _off_topic()], phrases))
    asked = {normal(q) for fact in newcomer for q in fact.questions}
    parts = [_split(fact, asked) for fact in facts]
    return Corpus(
        training=tuple(train for train, _ in parts),
        held_out=tuple(held for _, held in parts if held.questions),
        newcomer=newcomer,
        phrases=phrases,
        prose=tuple((FACTS / "prose.txt").read_text(encoding="utf-8").strip().split("\n\n")),
        systems=tuple((FACTS / "systems.txt").read_text(encoding="utf-8").strip().split("\n")),
    )


def normal(question: str) -> str:
    """The question without case, punctuation and extra spaces, for comparison."""
    return re.sub(r"[\W_]+", " ", question.lower()).strip()


def option_answer(flag: str, entry: Mapping[str, str]) -> str:
    """The full answer about an option: what it does, its default, one command, whether to expect a refusal."""
    answer = f"`{flag}` {entry['does']}. Default: {entry['default']}. Example: `{entry['example']}`"
    return _honest(answer, [flag], _refused_by_value())


def _yaml(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FACTS / f"{name}.yaml").read_text(encoding="utf-8"))
    return content


def _options(phrases: Mapping[str, Any]) -> Iterator[Fact]:
    for flag, entry in _yaml("options").items():
        names = _name_forms(flag, phrases["name_forms"])
        yield _option(flag, entry, names, phrases)
        yield Fact(
            name=f"{flag} default",
            topic="default",
            questions=tuple(_fill(phrases["default"], [*names, *(f"the {n}" for n in entry["nouns"][:2])])),
            answers=(f"The default of `{flag}` is {entry['default']}.",),
            key=(f"`{flag}`", entry["default"]),
        )
        yield Fact(
            name=f"{flag} example",
            topic="example",
            questions=tuple(_fill(phrases["example"], names)),
            answers=(_honest(f"For example: `{entry['example']}`", [flag]),),
            key=(entry["example"],),
        )


def _option(flag: str, entry: Mapping[str, Any], names: Sequence[str], phrases: Mapping[str, Any]) -> Fact:
    questions = [
        *_fill(phrases["option_noun"], entry["nouns"]),
        *_fill([*phrases["goal"], *phrases["option_goal"]], entry["goals"]),
        *_fill(phrases["name"], names),
    ]
    return Fact(
        name=flag,
        topic="option",
        questions=tuple(questions),
        answers=(option_answer(flag, entry),),
        key=(f"`{flag}`",),
        weight=RARE if flag.startswith("--draft-") and flag != "--draft-model-path" else 1.0,
    )


def _topics(phrases: Mapping[str, Any]) -> Iterator[Fact]:
    for name, entry in _yaml("topics").items():
        questions = [
            *entry.get("asks", ()),
            *_fill(phrases["goal"], entry.get("goals", ())),
            *_fill(phrases["noun"], entry.get("nouns", ())),
        ]
        yield Fact(
            name=name,
            topic="topic",
            questions=tuple(questions),
            answers=(_honest(entry["answer"], re.findall(r"--[a-z][\w-]*", entry["answer"])),),
            key=tuple(entry["key"]),
            spoken=frozenset(entry.get("asks", ())),
        )


def _talk() -> Iterator[Fact]:
    for name, entry in _yaml("talk").items():
        answers = tuple(entry["answers"])
        yield Fact(
            name=name, topic="talk", questions=tuple(entry["asks"]), answers=answers, key=(answers[0].split(".")[0],)
        )


def _off_topic() -> Fact:
    entry = _yaml("off_topic")
    questions = [q for pattern in entry["patterns"] for q in _slots(pattern, entry["slots"])]
    return Fact(
        name="off_topic",
        topic="off_topic",
        questions=tuple(questions),
        answers=tuple(entry["answers"]),
        key=("only know maxserve",),
    )


def _newcomer() -> Iterator[Fact]:
    for part, questions in _yaml("newcomer").items():
        for question, key in questions.items():
            keys = (key,) if isinstance(key, str) else tuple(key)
            yield Fact(name=question, topic=part, questions=(question,), answers=(), key=keys)


def _widened(facts: Sequence[Fact], phrases: Mapping[str, Any]) -> list[Fact]:
    """The facts with what people really ask and with the features they name; KeyError when a name has no fact."""
    named = {fact.name: fact for fact in facts}
    for name, words in _yaml("features").items():
        named[name] = _asked(named[name], [*named[name].questions, *_fill(phrases["feature"], words)])
    for name, asks in _yaml("asks").items():
        spoken = named[name].spoken | frozenset(asks)
        named[name] = replace(_asked(named[name], [*asks, *named[name].questions]), spoken=spoken)
    return list(named.values())


def _honest(answer: str, flags: Iterable[str], some: frozenset[str] = frozenset()) -> str:
    """The answer, with a warning when one of the flags is refused today, or refused for `some` of its values."""
    named, end = frozenset(flags), "." if answer.endswith("`") else ""
    if named & _refused():
        return f"{answer}{end} {LATER}"
    return f"{answer}{end} {SOME_LATER}" if named & some else answer


@cache
def _refused() -> frozenset[str]:
    """The flags of options whose feature is not there yet."""
    return frozenset(option.flag for option in catalog(built_in_sections()) if option.unsupported)


@cache
def _refused_by_value() -> frozenset[str]:
    """The flags of options of which some values are refused."""
    return frozenset(option.flag for option in catalog(built_in_sections()) if option.unsupported_values)


def _slots(pattern: str, slots: Mapping[str, Sequence[str]]) -> list[str]:
    found = re.search(r"\{(\w+)\}", pattern)
    if found is None:
        return [pattern]
    filled = (pattern.replace(found[0], value, 1) for value in slots[found[1]])
    return [done for text in filled for done in _slots(text, slots)]


def _fill(patterns: Iterable[str], values: Iterable[str]) -> Iterator[str]:
    values = list(values)
    return (pattern.replace("{}", value) for pattern in patterns for value in values)


def _name_forms(flag: str, forms: Sequence[str]) -> list[str]:
    kebab = flag.removeprefix("--")
    words = {"flag": flag, "kebab": kebab, "snake": kebab.replace("-", "_"), "words": kebab.replace("-", " ")}
    return [form.format(**words) for form in forms]


def _without_doubles(facts: Sequence[Fact]) -> list[Fact]:
    """The facts with each question, in its normal form, left to the first fact that has it; spoken ones first."""
    owner: dict[str, str] = {}
    for fact in facts:
        for question in fact.spoken:
            owner.setdefault(normal(question), fact.name)
    for fact in facts:
        for question in fact.questions:
            owner.setdefault(normal(question), fact.name)
    return [_asked(fact, [q for q in fact.questions if owner[normal(q)] == fact.name]) for fact in facts]


def _split(fact: Fact, asked: set[str]) -> tuple[Fact, Fact]:
    forms = [(question, normal(question)) for question in fact.questions]
    held = [question for question, form in forms if _is_held_out(form)]
    kept = [question for question, form in forms if form not in asked and not _is_held_out(form)]
    return _asked(fact, kept), _asked(fact, held)


def _is_held_out(form: str) -> bool:
    digest = hashlib.sha256(form.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32


def _asked(fact: Fact, questions: Sequence[str]) -> Fact:
    """The fact with other questions; `spoken` keeps to them."""
    return replace(fact, questions=tuple(questions), spoken=fact.spoken.intersection(questions))
