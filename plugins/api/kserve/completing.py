"""How are the texts of a request continued, and its parameters understood?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.interfaces.engine import ModelInfo
from maxserve.plugins.api.common.answering import Answering, Generation
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.models import unknown_model
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
        self._translator = Translator(answering, CompletionBody, taken=_TAKEN)

    async def begin(self, texts: Sequence[str], fields: Mapping[str, Any], call: Call) -> Generation:
        """The answers on their way; RequestError when that cannot be done."""
        check_model(call.path, self._info)
        body = self._translator.body({"prompt": list(texts)}, Fields.model_validate(dict(fields)))
        prompts = await self._answering.threads.run(lambda: [self._tokens(text) for text in texts])
        user = client_of(body.user, call.headers)
        return await self._answering.complete(body, prompts, user=user, default_limit=DEFAULT_LIMIT)

    def _tokens(self, text: str) -> list[int]:
        return encoded(text, self._tokenizer, self._info, add_special_tokens=True, prompt_field="prompt")


def check_model(path: Mapping[str, str], info: ModelInfo) -> None:
    """RequestError 404 unless the path names the served model, whole or after its last slash, and its version."""
    name, version = path["name"], path.get("version", VERSION)
    if name not in (info.name, info.name.rpartition("/")[2]):
        raise unknown_model(name, info)
    if version != VERSION:
        raise unknown_model(f"{name} in version {version}", info)
