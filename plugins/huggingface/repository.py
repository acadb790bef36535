"""A model in a repository on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.model_source import ModelQuery
from maxserve.loading import Folder
from maxserve.plugins.huggingface.hub import HubClient, is_network_failure, patiently
from maxserve.registry import cause

log = logging.getLogger("maxserve.model")

T = TypeVar("T")
_WEIGHTS = re.compile(r"\.(gguf|safetensors|safetensors\.index\.json)$")
_TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template*",
    "additional_chat_templates/*",
)


def tagged(names: Collection[str], tag: str, ref: str) -> set[str]:
    """The names without weights of other models than those whose names have the tag; ModelError where none has."""
    weights = [name for name in names if _WEIGHTS.search(name)]
    part = re.compile(rf"(^|[^a-z0-9]){re.escape(tag.lower())}([.\-/]|$)")
    chosen = {name for name in weights if part.search(name.lower())}
    if not chosen:
        listed = ", ".join(sorted(weights)) or "none"
        raise ModelError(f"{ref}: no weight file of the repository has {tag} in its name; there are: {listed}")
    return {name for name in names if name not in weights} | chosen


class Repository:
    """A model on the hub: config and tokenizer at one revision, weights at another.

    `ref` is the name of the repository or, where it has several models, org/repo:TAG.
    """

    def __init__(
        self,
        ref: str,
        hub: HubClient,
        query: ModelQuery,
    ) -> None:
        self.ref = ref
        self._repo, _, self._tag = ref.partition(":")
        self._hub = hub
        self._progress = query.progress
        self._revision = query.revision
        self._weight_revision = query.weight_revision
        self._force = query.force_download
        code = ("*.py",) if query.trust_remote_code else ()
        self._text_files = (*_TEXT_FILES, *query.files, *code)

    def folder(self) -> Path:
        if self._hub.offline:
            if self._force:
                log.warning("--force-download cannot fetch %s while HF_HUB_OFFLINE is set: the cache is used", self.ref)
            return self._fetch(self._revision, ["config.json"])
        self._progress.phase(f"Fetching config and tokenizer of {self.ref}")
        return self._fetch(self._revision, self._text_files)

    def names(self) -> Collection[str]:
        names = self._cached().names() if self._available is None else self._available
        return tagged(names, self._tag, self.ref) if self._tag else names

    def fetch(self, names: Sequence[str]) -> list[str]:
        if self._available is None:
            return self._cached().fetch(names)
        for name in names:
            if name not in self._available:
                revision = f"at revision {self._weight_revision!r}"
                raise ModelError(f"--weight-path {name}: {self.ref} has no such file {revision}")
        self._progress.phase(f"Fetching weights of {self.ref}")
        folder = self._fetch_weights(names)
        return [str(folder / name) for name in names]

    def pipeline_tag(self) -> str | None:
        if self._hub.offline:
            return None
        try:
            return self._hub.pipeline_tag(self._repo, self._revision)
        except Exception as error:  # only a hint was wanted: files decide instead
            log.warning("the hub does not say what %s is for (%s): its files decide", self.ref, cause(error))
            return None

    @cached_property
    def _available(self) -> set[str] | None:
        """The repository's files, or None when only the cache can tell."""
        if self._hub.offline:
            return None
        return self._ask(self._weight_revision, self._listed)

    def _listed(self) -> set[str] | None:
        try:
            return set(self._hub.files(self._repo, self._weight_revision))
        except Exception as error:  # judged below; what is no network failure goes on to `patiently`
            if not (is_network_failure(error) and self._is_cached()):
                raise
            log.warning("the hub cannot be reached (%s): using the cached copy of %s", cause(error), self.ref)
            return None

    def _is_cached(self) -> bool:
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            self._hub_fetch(self._weight_revision, ["config.json"], cached=True)
        except LocalEntryNotFoundError:
            return False
        return True

    def _cached(self) -> Folder:
        revision = self._weight_revision
        return Folder(
            Path(self._ask(revision, lambda: self._hub_fetch(revision, ["config.json"], cached=True))), self.ref
        )

    def _fetch_weights(self, names: Sequence[str]) -> Path:
        # Names are given as patterns; a bracket in one would be read as a set of characters.
        return self._fetch(self._weight_revision, [re.sub(r"([\[?*])", r"[\1]", name) for name in names])

    def _fetch(self, revision: str, patterns: Sequence[str]) -> Path:
        cached = self._hub.offline
        return Path(self._ask(revision, lambda: self._hub_fetch(revision, patterns, cached=cached)))

    def _hub_fetch(self, revision: str, patterns: Sequence[str], *, cached: bool) -> str:
        force = self._force and not cached
        return self._hub.fetch(self._repo, revision, patterns, force=force, cached=cached, done=self._progress.advance)

    def _ask(self, revision: str, call: Callable[[], T]) -> T:
        return patiently(call, self._repo, revision, offline=self._hub.offline)
