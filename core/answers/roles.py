"""Does a chat template know the role "developer", or must such messages become system messages?"""

from __future__ import annotations

from collections.abc import Mapping

from maxserve.core.errors import RequestError
from maxserve.core.model.chat_template import ChatTemplate

_STRANGER = "qzxjk"  # a role no template knows
_CONTENT = "0b7c1f"


def knows_developer(template: ChatTemplate, special_tokens: Mapping[str, str]) -> bool:
    """Whether it treats a developer otherwise than any name it has never heard of."""
    developer = _rendered(template, special_tokens, "developer")
    if developer is None or _CONTENT not in developer:
        return False
    return developer.replace("developer", _STRANGER) != _rendered(template, special_tokens, _STRANGER)


def _rendered(template: ChatTemplate, special_tokens: Mapping[str, str], role: str) -> str | None:
    turns = [{"role": role, "content": _CONTENT}, {"role": "user", "content": "?"}]
    try:
        return template.render(turns, special_tokens=special_tokens)
    except RequestError:
        return None
