"""Texts with drafts have the distribution of texts without, by chi-square over a vocabulary of 32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maxserve.core.engine import sequence as sequences
from maxserve.core.engine import verification
from maxserve.core.engine.grammar import GrammarManager
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.sequence import DrawnFrom
from maxserve.core.engine.verification import DrawnDrafts, draw_by_weights
from maxserve.core.interfaces.grammar import allow_tokens
from maxserve.core.interfaces.request import Constraint, Output, Request, SamplingParams
from maxserve.core.interfaces.speculator import Drafts, DraftStep
from maxserve.core.registry.protocol import Host
from tests.core.engine.conftest import EOS

Run = Callable[..., dict[str, list[Output]]]
Floats = NDArray[np.float64]

SIZE = 32
SEEDS = 20
EACH = 120  # requests of a seed
FIRST = 5  # the token that every text begins with


def table(seed: int, spread: float) -> torch.Tensor:
    """Logits of the token after each token."""
    found = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * spread
    found[0] = -50.0
    found[0, FIRST] = 50.0
    return found


TARGET = table(1, 1.4)
DRAFTER = 0.6 * TARGET + table(2, 0.8)
PROMPT = (3, 9, 0)


class MarkovModel:
    """The logits of a token are those of the table."""

    def forward(self, step: Any) -> torch.Tensor:
        found: torch.Tensor = step.inputs.input_ids
        return found

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return TARGET[hidden]


def distribution(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().softmax(-1)


class TableDrafter:
    """Drafts by a table of its own: `drawn` by the engine, `given` with what they were drawn from, or `likeliest`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.random = np.random.default_rng(0)

    def propose(self, step: DraftStep) -> list[Sequence[int]]:
        who = np.flatnonzero(step.wanted)
        last = torch.tensor([int(step.sequences[i].tokens[-1]) for i in who.tolist()], dtype=torch.int64)
        drafts: list[list[int]] = [[] for _ in step.sequences]
        probs: list[list[torch.Tensor]] = [[] for _ in step.sequences]
        for count in range(1, int(step.wanted.max(initial=0)) + 1):
            on = step.wanted[who] >= count
            who, last = who[on], last[torch.from_numpy(on)]
            logits = DRAFTER[last]
            if self.kind == "drawn":
                last = step.draw(who, logits)
            elif self.kind == "given":
                q = distribution(logits)
                last = draw_by_weights(q, torch.from_numpy(self.random.random(len(who))))
                for i, row in zip(who, q, strict=True):
                    probs[i].append(row)
            else:
                last = logits.argmax(-1)
            for i, token in zip(who, last.tolist(), strict=True):
                drafts[i].append(token)
        if self.kind != "given":
            return list(drafts)
        return [Drafts(d, torch.stack(p)) if d else d for d, p in zip(drafts, probs, strict=True)]


# --- what is to come out, in float64 and one history at a time -------------------------------------------------------


def penalised(logits: Floats, history: Sequence[int], fields: dict[str, Any]) -> Floats:
    text = history[len(PROMPT) :]
    out = logits.copy()
    for token in set(text):
        out[token] -= fields.get("presence_penalty", 0.0)
        out[token] -= fields.get("frequency_penalty", 0.0) * text.count(token)
    for token in set(history):
        factor = fields.get("repetition_penalty", 1.0)
        out[token] = out[token] / factor if out[token] > 0 else out[token] * factor
    for key, value in fields.get("logit_bias", {}).items():
        out[int(key)] += -math.inf if value is False else value
    return out


def kept(logits: Floats, fields: dict[str, Any]) -> Floats:
    """The logits after temperature, top-k, top-p and min-p."""
    out = logits / fields.get("temperature", 1.0)
    order = np.argsort(-out, kind="stable")
    if fields.get("top_k"):
        out[order[fields["top_k"] :]] = -math.inf
    if "top_p" in fields:
        probs = np.exp(out - out.max())
        before = np.cumsum(probs[order] / probs.sum()) - probs[order] / probs.sum()
        out[order[before >= fields["top_p"]]] = -math.inf
    if "min_p" in fields:
        out[out < out.max() + math.log(fields["min_p"])] = -math.inf
    return out


def expected(history: Sequence[int], fields: dict[str, Any], *, constrained: bool) -> Floats:
    logits = TARGET[history[-1]].double().numpy()
    if constrained:
        logits = np.where(np.isin(np.arange(SIZE), allowed(history[len(PROMPT) :])), logits, -math.inf)
    logits = kept(penalised(logits, history, fields), fields)
    probs: Floats = np.exp(logits - logits.max())
    return probs / probs.sum()


def allowed(text: Sequence[int]) -> list[int]:
    """What the grammar allows behind a text, never its end: multiples of three behind odd tokens, else the others."""
    if not text:
        return [FIRST]
    return [token for token in range(SIZE) if token != EOS and (token % 3 == 0) == (text[-1] % 2 == 1)]


class ParityMatcher:
    def __init__(self) -> None:
        self.text: list[int] = []

    def accept(self, token: int) -> None:
        assert token in allowed(self.text)
        self.text.append(token)

    def rollback(self, count: int) -> None:
        del self.text[len(self.text) - count :]

    def fill(self, row: NDArray[np.int32]) -> None:
        allow_tokens(row, allowed(self.text))

    def finished(self) -> bool:
        return False


class ParityCompiler:
    def compile(self, kind: str, text: str) -> Callable[[], ParityMatcher]:
        return ParityMatcher


def p_value(counts: Floats, probs: Floats) -> float:
    """How likely counts are to be as far from their distribution; rare outcomes count as one."""
    total = counts.sum()
    assert counts[probs == 0].sum() == 0, "an outcome that cannot be"
    order = np.argsort(probs, kind="stable")
    order = order[probs[order] > 0]
    merged: list[list[float]] = [[0.0, 0.0]]
    for i in order.tolist():
        if merged[-1][1] >= 5:
            merged.append([0.0, 0.0])
        merged[-1][0] += float(counts[i])
        merged[-1][1] += float(probs[i]) * float(total)
    found, means = np.array(merged).T
    statistic = float(((found - means) ** 2 / means).sum())
    return float(torch.special.gammaincc(torch.tensor((len(means) - 1) / 2).double(), torch.tensor(statistic / 2)))


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 6},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.08},
    "all of them": {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.02},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": 1.1},
    "repetition_penalty": {"repetition_penalty": 1.6},
    "logit_bias": {"logit_bias": {"5": 2.5, "7": False, "9": -1.0}},
    "grammar": {},
}


def grouped(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {name: value} for name, value in fields.items()}


@pytest.fixture
def entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What requests without a seed draw with is decided by their ids."""
    given = sequences._seed
    monkeypatch.setattr(sequences, "_seed", lambda request: (given(request), int(request.id))[given(request) is None])


CASES = [(setting, way) for setting in SETTINGS for way in ("drawn", "seeded")]
CASES += [(setting, way) for setting in ("hot", "all of them", "grammar") for way in ("given", "likeliest")]


@pytest.mark.usefixtures("entropy")
@pytest.mark.parametrize(("setting", "way"), CASES)
def test_the_distribution_is_that_without_drafts(
    make_engine: Callable[..., Engine], run: Run, plugin_host: Callable[..., Host], setting: str, way: str
) -> None:
    constrained, fields = setting == "grammar", SETTINGS[setting]
    grammars = GrammarManager(lambda name: ParityCompiler(), (), SIZE) if constrained else None  # type: ignore[arg-type, return-value]
    engine = make_engine(
        vocab=SIZE,
        model=MarkovModel(),
        samplers=plugin_host(),
        grammars=grammars,
        drafter=TableDrafter("drawn" if way == "seeded" else way),
        draft_tokens=2,
        rows=128,
        tokens=512,
        pages=600,
        share=False,
    )
    texts: NDArray[np.int64] = np.zeros((SEEDS, EACH, 4), dtype=np.int64)
    for index in range(SEEDS * EACH):
        params = SamplingParams(
            max_tokens=4,
            ignore_eos=True,
            seed=index if way == "seeded" else None,
            fields=grouped(fields),
            constraint=Constraint(kind="regex", text="", backend="test") if constrained else None,
        )
        engine.add(Request(id=str(index), prompt=PROMPT, params=params))
    for id, outputs in run(engine).items():
        assert outputs[-1].error is None, outputs[-1].error
        texts[divmod(int(id), EACH)] = [token for output in outputs for token in output.tokens]
    assert (texts[..., 0] == FIRST).all()
    assert engine.stats().accepted_tokens > (0.5 if way == "drawn" else 0.1) * SEEDS * EACH

    second = expected([*PROMPT, FIRST], fields, constrained=constrained)
    third = np.array([expected([*PROMPT, FIRST, token], fields, constrained=constrained) for token in range(SIZE)])
    pairs = texts[..., 1] * SIZE + texts[..., 2]
    for outcomes, probs in ((texts[..., 1], second), (pairs, (second[:, None] * third).ravel())):
        counts = np.array([np.bincount(row, minlength=len(probs)) for row in outcomes], dtype=np.float64)
        assert p_value(counts.sum(0), probs) > 0.01
        assert min(p_value(row, probs) for row in counts) > 0.01 / SEEDS


class Sharing(TableDrafter):
    """Drafts with the target's own logits."""

    def propose(self, step: DraftStep) -> list[Sequence[int]]:
        who = np.flatnonzero(step.wanted)
        last = torch.tensor([int(step.sequences[i].tokens[-1]) for i in who.tolist()], dtype=torch.int64)
        drafts: list[Any] = [[] for _ in step.sequences]
        for count in range(1, int(step.wanted.max(initial=0)) + 1):
            on = step.wanted[who] >= count
            who, last = who[on], last[torch.from_numpy(on)]
            last = step.draw(who, TARGET[last])
            for i, token in zip(who, last.tolist(), strict=True):
                drafts[i].append(token)
        return drafts


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("setting", [name for name in SETTINGS if name != "grammar"])
def test_all_drafts_of_the_target_itself_stand(
    make_engine: Callable[..., Engine], run: Run, plugin_host: Callable[..., Host], setting: str, seed: int | None
) -> None:
    """Drafts see the samplers that their requests ask for, with all drafts before them."""
    engine = make_engine(vocab=SIZE, model=MarkovModel(), samplers=plugin_host(), drafter=Sharing("drawn"))
    for index in range(3):
        fields = grouped({"temperature": (0.0, 0.8, 1.3)[index], **SETTINGS[setting]})
        params = SamplingParams(max_tokens=30, ignore_eos=True, seed=seed, fields=fields)
        engine.add(Request(id=str(index), prompt=PROMPT, params=params))
    run(engine)
    stats = engine.stats()
    assert stats.accepted_tokens == stats.draft_tokens > 60


def test_a_draft_stands_as_often_as_it_can() -> None:
    """With probability min(1, p / q), and what is drawn in its place is something else."""
    p, q = torch.tensor([0.1, 0.6, 0.3]), torch.tensor([0.4, 0.4, 0.2])
    uniforms = torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1]
    others = uniforms[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    for token, chance in ((0, 0.25), (1, 1.0), (2, 1.0)):
        drawn = DrawnDrafts.of(
            (row, token, float(uniform), DrawnFrom(q[None], 0)) for row, uniform in enumerate(uniforms)
        )
        found = drawn.draw(p.log().expand(len(uniforms), -1), others)
        assert float((found == token).double().mean()) == pytest.approx(chance, abs=2e-3)
        instead = torch.bincount(found[found != token], minlength=3).double()
        if chance < 1:  # of what p has more than q, in these parts
            assert (instead / instead.sum()).tolist() == pytest.approx([0.0, 2 / 3, 1 / 3], abs=0.02)


def test_rows_without_drawn_drafts_are_drawn_as_ever() -> None:
    logits = torch.randn(4, SIZE, generator=torch.Generator().manual_seed(0))
    uniforms = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    drawn = DrawnDrafts.of([(2, 3, 0.999999, DrawnFrom(torch.eye(SIZE), 3))])
    found, expected_tokens = drawn.draw(logits, uniforms), draw_by_weights(logits.softmax(-1), uniforms)
    assert found[[0, 1, 3]].tolist() == expected_tokens[[0, 1, 3]].tolist()
    assert found[2] != 3


@pytest.mark.parametrize("at_once", [1, 100 * SIZE, 1 << 24])
def test_drafts_of_several_tables_are_each_compared_with_their_own(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """In any slices of rows, and without a change of what was kept."""
    monkeypatch.setattr(verification, "VALUES_AT_ONCE", at_once)
    generator, count = torch.Generator().manual_seed(0), 205
    logits, uniforms = torch.randn(count, SIZE, generator=generator), torch.rand(2, count, generator=generator).double()
    tables = [torch.randn(count, SIZE, generator=generator).softmax(-1) for _ in range(2)]
    kept = [table.clone() for table in tables]
    order = torch.randperm(count, generator=generator).tolist()
    tokens = torch.randint(SIZE, (count,), generator=generator).tolist()
    drafts = [(r, tokens[r], float(uniforms[0, r]), DrawnFrom(tables[r % 2], order[r])) for r in range(0, count, 3)]
    found, weights = DrawnDrafts.of(drafts).draw(logits, uniforms[1]), logits.softmax(-1)
    expected = draw_by_weights(weights, uniforms[1])
    for row, token, uniform, (table, at) in drafts:
        p, q = weights[row], table[at]
        stands = uniform * q[token].double() < p[token].double()
        instead = draw_by_weights((p - q).clamp(min=0)[None], uniforms[1, row : row + 1])[0]
        expected[row] = token if stands else instead
    assert found.tolist() == expected.tolist()
    assert all(torch.equal(*each) for each in zip(kept, tables, strict=True))


def test_what_is_barred_is_not_drawn_where_nothing_is_left() -> None:
    p, q = torch.tensor([[0.0, 0.5, 0.5]]), torch.tensor([[1e-3, 0.5, 0.5]])
    drawn = DrawnDrafts.of([(0, 0, 0.0, DrawnFrom(q, 0))])
    assert drawn.draw(p.log(), torch.tensor([0.0], dtype=torch.float64)).tolist() == [1]
