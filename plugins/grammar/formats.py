"""Strings of a schema's `format`, as expressions. Each is narrower than its RFC: every text of it is valid."""

from __future__ import annotations

from collections.abc import Mapping

_YEAR = "[12][0-9]{3}"
_DAY = "(0[1-9]|1[0-9]|2[0-8])"
_DATE = f"{_YEAR}-((0[1-9]|1[0-2])-{_DAY}|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"  # no leap days
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[a-z]([a-z0-9]{0,20}|[a-z0-9]{0,10}-[a-z0-9]{1,10})"
_HOST = rf"{_LABEL}(\.{_LABEL}){{0,3}}"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HEX = "[0-9a-f]"
_URI = rf"^https?://{_HOST}(:[1-9][0-9]{{1,3}})?(/[A-Za-z0-9._~-]{{0,30}}){{0,6}}$"
_EMAIL = rf"^[a-z0-9_+-]{{1,20}}(\.[a-z0-9_+-]{{1,20}}){{0,2}}@{_HOST}$"

FORMATS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^({_DATE})T{_TIME}$",
    "duration": "^P([1-9][0-9]{0,2}[DW]|([1-9][0-9]{0,2}D)?T[1-9][0-9]{0,2}[HMS])$",
    **dict.fromkeys(("email", "idn-email"), _EMAIL),
    **dict.fromkeys(("hostname", "idn-hostname"), f"^{_HOST}$"),
    "ipv4": rf"^({_OCTET}\.){{3}}{_OCTET}$",
    "ipv6": f"^({_HEX}{{1,4}}:){{7}}{_HEX}{{1,4}}$",
    "uuid": f"^{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}$",
    **dict.fromkeys(("uri", "iri"), _URI),
    **dict.fromkeys(("uri-reference", "iri-reference"), rf"^({_URI[1:-1]}|(/[A-Za-z0-9._~-]{{1,30}}){{1,6}})$"),
}
