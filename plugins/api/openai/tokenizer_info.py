"""GET /tokenizer_info: the configuration of the served model's tokenizer, as vLLM tells it.

Nothing in it is secret: what a chat template does to messages is shown by /tokenize as well, and asks for the same key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maxserve.interfaces.routes import ServerContext
from maxserve.loading import read_optional_object


class TokenizerInfo:
    """tokenizer_config.json, with the special tokens and the chat template that are in use."""

    def __init__(self, context: ServerContext) -> None:
        config = read_optional_object(Path(context.model.path) / "tokenizer_config.json")
        self._info = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **config,
            **context.tokenizer.special_tokens,
            "chat_template": None if context.template is None else context.template.source(),
        }

    async def answer(self) -> dict[str, Any]:
        return self._info
