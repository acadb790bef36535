"""The operator's limits for images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.vision.options import ImageOptions

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """`roots` are resolved folders; `hosts` names of hosts, maybe "*" or "*.name", with a port or the usual one."""

    count: int
    size: int  # bytes of a file
    pixels: int
    seconds: float  # for fetching one
    hosts: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()
    private: bool = False

    @classmethod
    def of(cls, chosen: ImageOptions) -> ImageLimits:
        """Those that were chosen; SettingsError for a folder that is not there."""
        return cls(
            count=chosen.max_images,
            size=chosen.max_image_bytes,
            pixels=chosen.max_image_pixels,
            seconds=chosen.image_timeout,
            hosts=tuple(host.lower().rstrip(".") for host in chosen.allowed_image_domains),
            roots=tuple(map(_root, chosen.allowed_image_roots)),
            private=chosen.allow_private_image_addresses,
        )

    def allows(self, scheme: str, host: str, port: int) -> bool:
        """Whether images may be fetched from there."""
        usual = PORTS[scheme] == port
        return any(_matches(pattern, host, port, usual) for pattern in self.hosts)


def _matches(pattern: str, host: str, port: int, usual: bool) -> bool:
    name, colon, number = pattern.rpartition(":")
    if colon and number.isdecimal():
        if int(number) != port:
            return False
    elif usual:
        name = pattern
    else:
        return False
    return name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))


def _root(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SettingsError(f"--allowed-image-roots {folder}: there is no such folder")
    return path.resolve()
