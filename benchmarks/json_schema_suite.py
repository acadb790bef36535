"""How much of the public JSON-Schema-Test-Suite is honoured? Usage: json_schema_suite.py FOLDER [MODEL]

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
from maxserve.core.errors import EngineError, GrammarUnsupported
from maxserve.core.nouns import Constraint

SEEDS = 4
TOKENS = 96


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--backend", default="llguidance")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        llm = maxserve.LLM(str(given.model or random_model(Path(folder))), max_batch_size=SEEDS + 1)
        table = {name: tried(llm, schemas, given.backend) for name, schemas in suite(given.folder)}
    show(table)
    return int(any(counts["FAILED"] for counts in table.values()))


def random_model(folder: Path) -> Path:
    """Two layers of noise: whatever comes out is the grammar's doing."""
    from tests.conftest import write_model  # only there when run from the repository

    return write_model(folder)


def suite(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """The schemas of each file, which is called after its keyword."""
    for file in sorted(folder.glob("*.json")):
        yield file.stem, [case["schema"] for case in json.loads(file.read_text())]


def tried(llm: Any, schemas: list[Any], backend: str) -> Counter[str]:
    """Outcomes of one keyword; failures are shown at once."""
    counts: Counter[str] = Counter()
    compiler = llm._engine._guides._compilers(backend)
    for schema in schemas:
        text = json.dumps(schema)
        try:
            compiler.check("json_schema", text)
            compiler.compile("json_schema", text)
        except GrammarUnsupported:
            counts["refused"] += 1
            continue
        counts.update(outcomes(llm, schema, Constraint(kind="json_schema", text=text, backend=backend)))
    return counts


def outcomes(llm: Any, schema: Any, constraint: Constraint) -> Iterator[str]:
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for fields in [{"temperature": 0.0}, *({"temperature": 1.0, "seed": seed} for seed in range(SEEDS))]:
        try:
            (done,) = llm.generate("x", max_tokens=TOKENS, constraint=constraint, **fields)
        except EngineError as error:
            print(f"FAILED {json.dumps(schema)}: {error}", file=sys.stderr)
            yield "FAILED"
            continue
        if done.finish == "length":
            yield "length"
        elif valid(validator, done.text):
            yield "validated"
        else:
            print(f"FAILED {json.dumps(schema)}: {done.text!r}", file=sys.stderr)
            yield "FAILED"


def valid(validator: Any, text: str) -> bool:
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def show(table: dict[str, Counter[str]]) -> None:
    columns = ("validated", "length", "refused", "FAILED")
    print("keyword".ljust(24), *(column.rjust(9) for column in columns))
    total: Counter[str] = Counter()
    for name, counts in table.items():
        total += counts
        print(name.ljust(24), *(str(counts[column]).rjust(9) for column in columns))
    print("all".ljust(24), *(str(total[column]).rjust(9) for column in columns))


if __name__ == "__main__":
    sys.exit(main())
