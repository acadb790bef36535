"""The tokenizers of model folders: tokenizer.json by the library of that name, others by transformers.

A plugin for another format may build on `backed.BackedTokenizer`, which asks a `Backend` for the work and does the
rest.
"""

from __future__ import annotations

from maxserve import hookimpl
from maxserve.interfaces.tokenizer import TokenizerContext, TokenizerFiles


@hookimpl
def maxserve_tokenizer(context: TokenizerContext) -> TokenizerFiles:
    """Whatever the folder has; asked last of all."""
    from maxserve.plugins.tokenizers.folder import TokenizerFolder

    return TokenizerFolder(context.path, trust_remote_code=context.trust_remote_code)
