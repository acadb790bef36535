"""What the URLs of pictures lead to, and what they may not lead to."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from maxserve.core.images.limits import ImageLimits
from maxserve.core.images.sources import read_source


def limits(*, roots: tuple[Path, ...] = (), size: int = 100) -> ImageLimits:
    return ImageLimits(count=1, size=size, pixels=1, seconds=1, roots=roots)


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_data() -> None:
    assert read_source(data_url(b"abc"), limits()) == b"abc"
    assert read_source(data_url(b"abc", kind=""), limits()) == b"abc"
    assert read_source("data:image/png;name=a.png;base64,YWJj", limits()) == b"abc"
    assert read_source("DATA:image/png;base64,YWJj%2B%2B%2B%2B", limits()) == base64.b64decode("YWJj++++")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64", "base64"),
        ("data:text/html;base64,YWJj", "text/html"),
        ("data:image/png;base64,YW Jj", "not base64"),
        ("data:image/png;base64,YWJ", "not base64"),
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
        with pytest.raises(ValueError, match=r"no such file|null byte"):
            read_source(f"file://{root}/{path}", allowed)
    with pytest.raises(ValueError, match="this machine"):
        read_source(f"file://other{root}/link", allowed)
