"""Addresses that images may be fetched from: those of the Internet at large.

The rule is IANA's special-purpose address registries (IPv4 and IPv6), not the `is_global` of the Python at hand, whose
lists differ between versions. Blocks of anycast services (such as 192.0.0.9/32) count as special: they lead to the
nearest device that offers the service.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_IPV4_SPECIAL = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private use
    "100.64.0.0/10",  # shared by the customers of a carrier
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local; metadata services of clouds
    "172.16.0.0/12",  # private use
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT relays
    "192.88.99.0/24",  # 6to4 relays, deprecated
    "192.168.0.0/16",  # private use
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
_IPV6_GLOBAL = "2000::/3"  # the only block that global unicast addresses were given out of
_IPV6_SPECIAL = (
    "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, anycast services
    "2001:db8::/32",  # documentation
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
# Blocks whose addresses stand for an IPv4 address, and the bits below it.
_IPV6_EMBEDDING = (
    ("::ffff:0:0/96", 0),  # IPv4-mapped
    ("64:ff9b::/96", 0),  # NAT64
    ("2002::/16", 80),  # 6to4
)


def public(address: Address) -> bool:
    """Whether the address is one of the Internet at large, also where it embeds an IPv4 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return not _within(address, _SPECIAL4)
    for block, shift in _EMBEDDING:
        if address in block:
            return public(ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF))
    return address in _GLOBAL6 and not _within(address, _SPECIAL6)


def _networks(texts: Iterable[str]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return map(ipaddress.ip_network, texts)


def _within(address: Address, blocks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return any(address in block for block in blocks)


_SPECIAL4 = tuple(_networks(_IPV4_SPECIAL))
_SPECIAL6 = tuple(_networks(_IPV6_SPECIAL))
_GLOBAL6 = ipaddress.ip_network(_IPV6_GLOBAL)
_EMBEDDING = tuple((ipaddress.ip_network(text), shift) for text, shift in _IPV6_EMBEDDING)
