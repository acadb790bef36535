"""The threads in which chat templates run and texts are encoded, and nothing else: images wait in others."""

from __future__ import annotations

from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.threads import Threads

PROMPTS = 4  # at the same time; a tokenizer lets other threads run, a template does not


def prompt_threads(context: ServerContext) -> Threads:
    """Those of one application: `context.once(prompt_threads)`."""
    return context.owned(Threads(PROMPTS, "prompts"))
