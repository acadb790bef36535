"""The words of the field: what code must not be called, and what it is called instead.

Where a word also has a plain meaning, the row names the folders in which it would have the private one, or the way in
which it would be a name. `python tests/meta/test_glossary.py` lists what is found.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
ALL = ("core", "plugins", "architectures", "samplers", "src/maxserve")
POSITIONS = ("core", "architectures", "plugins/cpu")


class Row(NamedTuple):
    """Words that are out, as an expression, and what stands in their place; `modules` are names of files."""

    out: str
    instead: str
    folders: tuple[str, ...] = ALL
    modules: str = "(?!)"


ROWS = (
    Row("still_dim|turned_dim|turned|turning", "apply_rope, rotary, rope_dim", POSITIONS),
    Row("turns?", "rotary", ("core/engine", "core/loading", "plugins/attention", "plugins/cpu"), "turns?"),
    Row("Turns", "options of the tts plugin itself"),
    Row("places|place(?= =)", "positions, index, location, address", ("core", "architectures"), "places?"),
    Row("Flight|aloft|take_off|Lanes?", "InFlightStep, launch, complete, DeviceQueue", modules="flight|lanes?"),
    Row("land(s|ed)?", "complete", ("core/engine",)),
    Row("Company|_meet", "SamplingBatch", modules="company"),
    Row("wishes|barred|picky", "resolved params, no_allowed_token, needs_check", modules="wishes"),
    Row("spare", "fallback", ("core",)),
    Row("Guides?", "GrammarState, GrammarManager", ("core",), "guides?"),
    Row("WeightKeeper|KeptWeight|GivesRows|KeepsExperts|KeptExperts", "LinearMethod, PackedLinear, SupportsExperts"),
    Row("Seen|pictures?|LooksDeeper", "VisionLanguageModel, ImageSpan, images, DeepStack", modules="pictures?|seen"),
    Row(r"shown(?= =|\()", "images, features", ("architectures", "plugins/vision", "core/engine")),
    Row("together(?= = )", "bidirectional spans", ("architectures", "core/interfaces", "core/engine")),
    Row("wordings|Tellers?|Telling|Scribe", "dialect, StreamEncoder, ChoiceEncoder", modules="wordings|telling|scribe"),
    Row("told", "known, given", ("core/engine", "core/registry", "core/runtime", "plugins/api/openai")),
    Row(r"refusals|Refusal|refuse_\w+", "validate_*, RequestRejected", modules="refusals?"),
    Row("packings", "quantization formats", modules="packings?"),
    Row(r"given(?= =|[.:\[]\w)", "source value", ("core/config",), "given"),
    Row("Choosable|choices", "OptionSpec, enums", ("core/config",)),
    Row("(tables|slots)(?=: )", "block_tables, slot_mapping", ("core/interfaces/inputs.py",), "tables|slots"),
    Row(
        "(seconds|skip)(?=: )",
        "pair_starts, prompt_prefix",
        ("core/interfaces/request.py", "plugins/embeddings/engine.py"),
    ),
    Row("[Nn]obody|[Ww]hoever|[Ss]omebody|[Ee]very(one|body)", "an empty batch, new requests, other requests"),
    Row("(?!)", "output_parsing, events, …", modules="advice|edge|gate|single|readers|reading|jobs|thinking|roles"),
)


def hits(row: Row) -> list[str]:
    """Lines with words that are out, as file:line: text, and files that are called so."""
    found = []
    for folder in row.folders:
        top = ROOT / folder
        for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
            where = path.relative_to(ROOT)
            if re.fullmatch(row.modules, path.stem):
                found.append(f"{where}: the name of the file")
            word, text = re.compile(rf"\b({row.out})(?!\w)"), path.read_text(encoding="utf-8")
            if word.search(text):  # most files have none, and one search says so
                lines = enumerate(text.splitlines(), 1)
                found += [f"{where}:{number}: {line.strip()}" for number, line in lines if word.search(line)]
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.instead)
def test_the_word_of_the_field_is_used(row: Row) -> None:
    found = hits(row)
    assert not found, f"write {row.instead}:\n" + "\n".join(found)


def test_private_words_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("still_dim: int", "# Nobody waits.", "shown = 1", "given.value", "class Flight:", "places = []")
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "edge.py").write_text("\n".join(lines))
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = {hit for row in ROWS for hit in hits(row._replace(folders=("core",)))}
    assert len(found) == len(lines) + 1


if __name__ == "__main__":
    lines = [f"{hit}  -> {row.instead}" for row in ROWS for hit in hits(row)]
    print("\n".join(lines) or "0 hits")
    sys.exit(bool(lines))
