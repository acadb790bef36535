"""The share of the public JSON-Schema-Test-Suite that is honoured. Usage: json_schema_suite.py FOLDER [MODEL]

FOLDER holds the JSON files of one draft, such as tests/draft2020-12 of a checkout. Each schema is refused, or texts of
a model under it are held against the `jsonschema` package, per keyword:

    validated  whole texts, valid       length  cut by the limit of tokens
    refused    schemas, by name         FAILED  whole texts that are not valid: there must be none

MODEL is a folder; without it, a random model with a byte-level vocabulary is made.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

import maxserve
from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.core.interfaces.request import Constraint, Output, Request

COLUMNS = ("validated", "length", "refused", "FAILED")
SEEDS = 4
TOKENS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--backend", default="llguidance")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        llm = maxserve.LLM(str(given.model or random_model(Path(folder))), max_batch_size=64)
        total: Counter[str] = Counter()
        print("keyword".ljust(24), *(column.rjust(9) for column in COLUMNS))
        for name, schemas in suite(given.folder):
            counts = tried(llm, schemas, given.backend)
            total += counts
            show(name, counts)
    show("all", total)
    return int(bool(total["FAILED"]))


def random_model(folder: Path) -> Path:
    """Two layers of noise: whatever comes out is the grammar's doing."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a script's own folder is all it finds otherwise
    from tests.conftest import write_model

    return write_model(folder)


def suite(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """The schemas of each file, which is called after its keyword."""
    for file in sorted(folder.glob("*.json")):
        yield file.stem, [case["schema"] for case in json.loads(file.read_text())]


def tried(llm: Any, schemas: list[Any], backend: str) -> Counter[str]:
    """Outcomes of one keyword; failures are shown at once. All texts are written side by side."""
    counts: Counter[str] = Counter()
    compiler = llm._engine._grammars._compilers(backend)
    requests: dict[str, tuple[Any, Request]] = {}
    for number, schema in enumerate(schemas):
        constraint = Constraint(kind="json_schema", text=json.dumps(schema), backend=backend)
        try:
            compiler.check("json_schema", constraint.text)
            compiler.compile("json_schema", constraint.text)
        except GrammarUnsupported:
            counts["refused"] += 1
            continue
        for seed in range(-1, SEEDS):
            fields = {"temperature": 0.0} if seed < 0 else {"temperature": 1.0, "seed": seed}
            params = llm.params(max_tokens=TOKENS, constraint=constraint, **fields)
            id = f"{number} {seed}"
            requests[id] = schema, Request(id=id, prompt=(5,), params=params)
    counts.update(outcomes(llm, requests))
    return counts


def outcomes(llm: Any, requests: dict[str, tuple[Any, Request]]) -> Iterator[str]:
    tokens: dict[str, list[int]] = {id: [] for id in requests}
    for _, request in requests.values():
        llm._engine.add(request)
    while llm._engine.busy:
        for output in llm._engine.next_outputs():
            tokens[output.id] += output.tokens
            if output.finish is not None:
                yield outcome(requests[output.id][0], llm.tokenizer.decode(tokens[output.id]), output)


def outcome(schema: Any, text: str, last: Output) -> str:
    if last.finish == "length":
        return "length"
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    if last.finish == "stop" and valid(validator, text):
        return "validated"
    print(f"FAILED {json.dumps(schema)}: {last.error or repr(text)}", file=sys.stderr, flush=True)
    return "FAILED"


def valid(validator: Any, text: str) -> bool:
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def show(name: str, counts: Counter[str]) -> None:
    print(name.ljust(24), *(str(counts[column]).rjust(9) for column in COLUMNS), flush=True)


if __name__ == "__main__":
    sys.exit(main())
