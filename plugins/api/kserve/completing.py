"""How are the texts of a request continued, and its parameters understood?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.interfaces.served_names import ServedName, ServedNames
from maxserve.plugins.api.common.answering import Answering, Generation
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.requests import encoded
from maxserve.plugins.api.common.translation import Translator
from maxserve.plugins.api.kserve.bodies import Fields
from maxserve.plugins.api.openai.completion_body import CompletionBody

VERSION = "1"
DEFAULT_LIMIT = 16  # tokens, as on /v1/completions
_TAKEN = frozenset({"max_tokens", "stop", "user", "response_format"})


class Completing:
    """Continues texts under the rules of plain completions."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._tokenizer = answering.context.tokenizer
        self._info = answering.context.model
        self._names = answering.context.names
        self._translator = Translator(answering, CompletionBody, taken=_TAKEN)

    async def begin(self, texts: Sequence[str], fields: Mapping[str, Any], call: Call) -> Generation:
        """The answers on their way; RequestError when that cannot be done."""
        await self._names.load(call.path["name"])
        served = named_by(call.path, self._names)
        body = self._translator.body({"model": served.name, "prompt": list(texts)}, Fields.model_validate(dict(fields)))
        prompts = await self._answering.threads.run(lambda: [self._tokens(text) for text in texts])
        user = client_of(body.user, call.headers)
        return await self._answering.complete(body, prompts, user=user, default_limit=DEFAULT_LIMIT)

    def _tokens(self, text: str) -> list[int]:
        return encoded(text, self._tokenizer, self._info, add_special_tokens=True, prompt_field="prompt")


def named_by(path: Mapping[str, str], names: ServedNames) -> ServedName:
    """Who answers under the name of a path, given whole or after its last slash; RequestError 404 for none."""
    name, version = path["name"], path.get("version", VERSION)
    served = names.find(name)
    if version != VERSION:
        raise names.unknown(f"{name} in version {version}")
    return served
