"""Adapters in repositories of the Hugging Face hub."""

from __future__ import annotations

from fnmatch import fnmatchcase

from maxserve.interfaces.adapter_source import AdapterSourceContext
from maxserve.interfaces.errors import ModelError, RequestError
from maxserve.loading import is_repository
from maxserve.plugins.huggingface.hub import HubClient, HuggingFaceHub, patiently
from maxserve.plugins.lora.options import LoRAOptions

FILES = ("adapter_config.json", "adapter_model.safetensors")
REVISION = "main"


class HubAdapters:
    """A FindsAdapters: of requests those of --lora-hub alone, of the operator any repository."""

    def __init__(self, context: AdapterSourceContext, hub: HubClient | None = None) -> None:
        options = context.config(LoRAOptions)
        self._patterns = options.lora_hub if options.enable_lora else ()
        self._any = options.enable_lora and context.of_operator
        self._hub = hub or HuggingFaceHub()

    def find(self, name: str) -> str | None:
        """The folder with the files of the repository, which are downloaded unless they are there already."""
        wanted = self._any or any(fnmatchcase(name, pattern) for pattern in self._patterns)
        if not wanted or name.count("/") != 1 or not is_repository(name):
            return None
        try:
            return patiently(lambda: self._fetch(name), name, REVISION, offline=self._hub.offline)
        except ModelError as error:
            raise RequestError(f"the adapter {name!r} cannot be had: {error}", param="lora_name") from error

    def _fetch(self, name: str) -> str:
        cached = self._hub.offline
        return self._hub.fetch(name, REVISION, FILES, force=False, cached=cached, done=lambda fraction: None)
