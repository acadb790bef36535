from __future__ import annotations

from pathlib import Path

import pytest

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.json_files import read_object, read_optional_object


def test_reads_objects(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"größe": 1}', encoding="utf-8")
    assert read_object(tmp_path / "a.json") == {"größe": 1}
    assert read_optional_object(tmp_path / "b.json") == {}


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
DIGITS = b'{"a":' + b"9" * 100_000 + b"}"


@pytest.mark.parametrize("content", [b"{", b"", b"\xff{}", b"[1]", b"null", DEEP, DIGITS])
def test_names_the_file_that_holds_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.json") as caught:
        read_object(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_more_than_any_model_has_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(ModelError, match="it has more than 256 MiB"):
        read_object(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.json cannot be read as JSON"):
        read_object(tmp_path / "gone.json")
