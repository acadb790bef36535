"""Chat templates: conversations as the text of a model's prompts."""

from __future__ import annotations

from maxserve.core.interfaces.chat_template import *  # noqa: F403
