"""What the URLs of images lead to, and what they may not lead to."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from maxserve.plugins.vision.limits import ImageLimits
from maxserve.plugins.vision.sources import read_source


def limits(*, roots: tuple[Path, ...] = (), size: int = 100) -> ImageLimits:
    return ImageLimits(count=1, size=size, pixels=1, seconds=1, roots=roots)


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


BYTES = bytes(range(256)) * 2
TEXT = base64.b64encode(BYTES).decode()
URL_SAFE = base64.urlsafe_b64encode(BYTES).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:base64,{TEXT}".replace("data:", "data:;"),
        f"data:image/png;name=a.png;base64,{TEXT}",
        f"data:image/png;base64;charset=utf-8,{TEXT}",
        f"data:image/png; base64,{TEXT}",
        f"DATA:IMAGE/PNG;BASE64,{TEXT}",
        f"data:application/octet-stream;base64,{TEXT}",
        f"data:text/plain;base64,{TEXT}",
        f" data:image/png;base64,{TEXT}\n",
        f"da\nta:image/png;base64,{TEXT}",
        "data:image/png;base64," + base64.encodebytes(BYTES).decode(),
        "data:image/png;base64," + base64.encodebytes(BYTES).decode().replace("\n", "\r\n\t "),
        "data:image/png;base64," + TEXT.rstrip("="),
        f"data:image/png;base64,{TEXT}==",
        f"data:image/png;base64,{URL_SAFE}",
        "data:image/png;base64," + URL_SAFE.rstrip("="),
        "data:image/png;base64," + quote(TEXT, safe=""),
        "data:image/png;base64," + quote(base64.encodebytes(BYTES), safe=""),
        "data:image/png," + quote(BYTES, safe=""),
    ],
)
def test_data(url: str) -> None:
    assert read_source(url, limits(size=len(BYTES))) == BYTES


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 5, 3_000_001])
def test_large_data_is_read_in_slices(size: int) -> None:
    data = bytes(i * 7 % 251 for i in range(1000)) * (size // 1000) + bytes(size % 1000)
    bounds = limits(size=size)
    assert read_source(data_url(data), bounds) == data
    assert read_source("data:image/png;base64," + quote(base64.b64encode(data), safe=""), bounds) == data
    assert (
        read_source("data:image/png;base64," + "".join(f"%{byte:02x}" for byte in base64.b64encode(data)), bounds)
        == data
    )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64", "base64"),
        ("data:image/png;base64,YWJjZ", "not base64"),
        ("data:image/png;base64,YW.Jj", "not base64"),
        ("data:image/png;base64,YW=Jj", "not base64"),
        ("data:image/png;base64,YWJ\u00e4", "not base64"),
        ("data:image/png;base64,YWJ\ud800", "not base64"),
        ("data:image/png," + "x" * 101, "--max-image-bytes"),
        (data_url(b"x" * 101), "--max-image-bytes"),
        (data_url(b"x" * 1000), "--max-image-bytes"),
        ("http://example.org/a.png", "--allowed-image-domains"),
        ("file:///etc/passwd", "--allowed-image-roots"),
        ("gopher://example.org", "a URL with"),
        ("", "a URL with"),
        ("no url", "a URL with"),
    ],
)
def test_what_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_source(url, limits())


def test_files(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "a b.png").write_bytes(b"abc")
    (root / "large").write_bytes(b"x" * 101)
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside / "secret")
    (root / "inner").symlink_to(root / "a b.png")
    os.mkfifo(root / "pipe")
    allowed = limits(roots=(root,))
    assert read_source((root / "a b.png").as_uri(), allowed) == b"abc"
    assert read_source(f"file://localhost{root}/inner", allowed) == b"abc"
    with pytest.raises(ValueError, match="--max-image-bytes"):
        read_source((root / "large").as_uri(), allowed)
    for path in ("../outside/secret", "link", "pipe", "none", "", "a%00b"):
        with pytest.raises(ValueError, match=r"no such file|null (byte|character)"):
            read_source(f"file://{root}/{path}", allowed)
    with pytest.raises(ValueError, match="this machine"):
        read_source(f"file://other{root}/link", allowed)
