from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.quantization import RoundingCache

BY = "plugin 'gguf' (maxserve 1.0)"
ROWS = torch.arange(64, dtype=torch.bfloat16).view(2, 32)
TENSORS = {
    "values": torch.arange(12.0).view(3, 4).to(torch.float8_e4m3fn),
    "scales": torch.tensor([[0.5], [0.25]]),
    "bytes": torch.arange(7, dtype=torch.uint8),
    "for all": torch.tensor(0.125),
}


def content(tensors: dict[str, Tensor]) -> dict[str, object]:
    return {role: (each.dtype, each.shape, each.flatten().view(torch.uint8).tolist()) for role, each in tensors.items()}


def same(one: dict[str, Tensor] | None, other: dict[str, Tensor]) -> bool:
    return one is not None and content(one) == content(other)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    cache = RoundingCache(str(tmp_path / "new" / "folder"), BY)
    assert cache.find("q4_0", ROWS) is None
    cache.add("q4_0", ROWS, TENSORS)
    assert same(cache.find("q4_0", ROWS), TENSORS)
    assert same(RoundingCache(str(tmp_path / "new" / "folder"), BY).find("q4_0", ROWS), TENSORS)


def test_an_entry_is_of_one_content_and_one_encoding(tmp_path: Path) -> None:
    cache = RoundingCache(str(tmp_path), BY)
    cache.add("q4_0", ROWS, TENSORS)
    assert cache.find("q8_0", ROWS) is None
    assert cache.find("q4_0", ROWS.view(4, 16)) is None
    assert cache.find("q4_0", ROWS.view(torch.float16)) is None
    assert cache.find("q4_0", torch.cat((ROWS[:1], ROWS[:1]))) is None


def test_an_entry_is_of_one_plugin_in_one_version(tmp_path: Path) -> None:
    RoundingCache(str(tmp_path), BY).add("q4_0", ROWS, TENSORS)
    for other in ("plugin 'gguf' (maxserve 1.1)", "plugin 'other' (maxserve 1.0)"):
        assert RoundingCache(str(tmp_path), other).find("q4_0", ROWS) is None


def test_an_entry_that_is_damaged_anywhere_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = RoundingCache(str(tmp_path), BY)
    cache.add("q4_0", ROWS, TENSORS)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    for damaged in (b"", whole[:10], whole[:-1], whole + b"x", *_flipped(whole)):
        file.write_bytes(damaged)
        caplog.clear()
        assert cache.find("q4_0", ROWS) is None
        assert "is damaged: the weight is rounded again" in caplog.text
    cache.add("q4_0", ROWS, TENSORS)
    assert same(cache.find("q4_0", ROWS), TENSORS)


def _flipped(content: bytes) -> list[bytes]:
    return [content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :] for i in range(len(content))]


def test_many_may_write_and_read_one_entry(tmp_path: Path) -> None:
    """A reader finds nothing, or all of it."""
    wrong: list[object] = []

    def work() -> None:
        cache = RoundingCache(str(tmp_path), BY)
        for _ in range(50):
            found = cache.find("q4_0", ROWS)
            if found is not None and not same(found, TENSORS):
                wrong.append(found)
            cache.add("q4_0", ROWS, TENSORS)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(files(tmp_path)) == 1


def test_a_folder_that_is_full_is_no_reason_not_to_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RoundingCache(str(tmp_path), BY)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    cache.add("q4_0", ROWS, TENSORS)
    assert "cannot be written (No space left on device): a later start rounds the weight again" in caplog.text
    assert not files(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"--cache-quantized .*: nothing can be written there \(.*\)"):
        RoundingCache(str(tmp_path / "file" / "below"), BY)
