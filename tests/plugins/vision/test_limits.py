"""Which hosts and folders may images come from?"""

from __future__ import annotations

from pathlib import Path

import pytest

from maxserve.core.config import Settings, resolve
from maxserve.core.interfaces.errors import SettingsError
from maxserve.plugins.vision.limits import ImageLimits
from maxserve.plugins.vision.options import ImageOptions
from maxserve.testing.sections import built_in_sections


def limits(*hosts: str) -> ImageLimits:
    return ImageLimits(count=1, size=1, pixels=1, seconds=1, hosts=hosts)


@pytest.mark.parametrize(
    ("patterns", "host", "port", "allowed"),
    [
        (("a.example",), "a.example", 443, True),
        (("a.example",), "b.a.example", 443, False),
        (("a.example",), "a.example", 8443, False),
        (("a.example:8443",), "a.example", 8443, True),
        (("a.example:8443",), "a.example", 443, False),
        (("*.example",), "a.example", 443, True),
        (("*.example",), "example", 443, False),
        (("*.example",), "evilexample", 443, False),
        (("*",), "anything", 443, True),
        (("*",), "anything", 22, False),
        (("b.example", "*:9000"), "anything", 9000, True),
        ((), "a.example", 443, False),
    ],
)
def test_hosts(patterns: tuple[str, ...], host: str, port: int, allowed: bool) -> None:
    assert limits(*patterns).allows("https", host, port) is allowed


def options(settings: Settings) -> ImageOptions:
    return ImageOptions(**settings.plugins.sections["images"])


def test_the_settings_say_it(tmp_path: Path) -> None:
    settings = resolve(
        {"allowed_image_domains": ["A.Example."], "allowed_image_roots": [str(tmp_path)], "max_images": 2},
        environ={},
        sections=built_in_sections(),
    )
    made = ImageLimits.of(options(settings))
    assert made.hosts == ("a.example",)
    assert made.roots == (tmp_path.resolve(),)
    assert made.count == 2
    assert ImageLimits.of(ImageOptions()).hosts == ()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none")
    with pytest.raises(SettingsError, match="--allowed-image-roots"):
        ImageLimits.of(ImageOptions(allowed_image_roots=(nowhere,)))
