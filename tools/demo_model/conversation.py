"""Which texts does the model see? Conversations of one or more turns, and a little plain English."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from corpus import Corpus, Fact
from phrasing import Phrasing

SHARES = {"option": 0.33, "default": 0.07, "example": 0.04, "topic": 0.42, "off_topic": 0.09, "talk": 0.05}
SPOKEN = 0.4  # share of the questions that are drawn from those a person wrote out, where there are any
PROSE = 0.03  # share of the texts that are plain English
LONG = 0.02  # share of the conversations that go on for many turns


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """Either a conversation or, without messages, plain prose."""

    messages: tuple[Message, ...] = ()
    prose: str = ""


class Writer:
    """An endless, reproducible stream of training texts."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._rng = Random(seed)
        self._wording = Phrasing(corpus.phrases, corpus.forbidden())
        asked = [fact for fact in corpus.training if fact.questions]
        self._facts = {topic: [f for f in asked if f.topic == topic] for topic in SHARES}
        self._weights = {topic: tuple(accumulate(f.weight for f in facts)) for topic, facts in self._facts.items()}
        self._spoken = {fact.name: sorted(fact.spoken) for fact in asked}
        self._by_name = {fact.name: fact for fact in corpus.training}

    def texts(self) -> Iterator[Text]:
        """Texts without end; the same ones for the same seed."""
        while True:
            yield Text(prose=self._plain()) if self._rng.random() < PROSE else Text(self._conversation())

    def rounds(self) -> Iterator[Text]:
        """One question about each fact in turn, without end: what is asked seldom comes as often as the rest."""
        while True:
            for fact in self._by_name.values():
                if fact.questions:
                    yield Text(tuple(self._turn(fact, self._question(fact))))

    def _conversation(self) -> tuple[Message, ...]:
        rng = self._rng
        messages: list[Message] = []
        if rng.random() < 0.2:
            messages.append(Message("system", rng.choice(self._corpus.systems)))
        for _ in range(self._turns()):
            messages += self._exchange()
        return tuple(messages)

    def _turns(self) -> int:
        draw = self._rng.random()
        if draw < LONG:
            return self._rng.randint(5, 11)
        return self._rng.randint(2, 3) if draw < 0.15 else 1

    def _exchange(self) -> list[Message]:
        """One question and its answer, sometimes with a follow-up about the same option."""
        fact = self._draw()
        turns = self._turn(fact, self._question(fact))
        if fact.topic == "option" and self._rng.random() < 0.12:
            kind = self._rng.choice(("default", "example"))
            again = self._by_name[f"{fact.name} {kind}"]
            turns += self._turn(again, self._rng.choice(self._corpus.phrases[f"{kind}_again"]))
        return turns

    def _turn(self, fact: Fact, question: str) -> list[Message]:
        asked = self._wording.vary(question, self._rng)
        return [Message("user", asked), Message("assistant", self._rng.choice(fact.answers))]

    def _question(self, fact: Fact) -> str:
        spoken = self._spoken[fact.name]
        return self._rng.choice(spoken if spoken and self._rng.random() < SPOKEN else fact.questions)

    def _draw(self) -> Fact:
        topic = self._rng.choices(tuple(SHARES), weights=tuple(SHARES.values()))[0]
        return self._rng.choices(self._facts[topic], cum_weights=self._weights[topic])[0]

    def _plain(self) -> str:
        """A paragraph of prose, or a few answers as if they were prose."""
        if self._rng.random() < 0.7:
            first = self._rng.randrange(len(self._corpus.prose))
            return "\n\n".join(self._corpus.prose[first : first + self._rng.randint(1, 2)])
        return " ".join(self._rng.choice(self._facts["topic"]).answers[0] for _ in range(2))
