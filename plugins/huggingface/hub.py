"""The client of the Hugging Face hub."""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from maxserve.interfaces.errors import ModelError

log = logging.getLogger("maxserve.model")

T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
_NEVER_RETRIED = frozenset({400, 401, 403, 404, 429})
_THREADS = 8
# The resolver's words, for HTTP libraries that keep them and drop its exception.
_UNRESOLVED = ("Name or service not known", "Temporary failure in name resolution", "nodename nor servname")


class HubClient(Protocol):
    """What is asked of the hub. Methods raise what huggingface_hub raises."""

    @property
    def offline(self) -> bool:
        """HF_HUB_OFFLINE is set: only the cache may be used."""
        ...

    def files(self, repo: str, revision: str) -> list[str]:
        """Every file of a repository."""
        ...

    def pipeline_tag(self, repo: str, revision: str) -> str | None:
        """What the repository's page says that the model is for."""
        ...

    def fetch(
        self,
        repo: str,
        revision: str,
        patterns: Sequence[str],
        *,
        force: bool,
        cached: bool,
        done: Callable[[float], None],
    ) -> str:
        """Brings the files that match into the cache and gives their folder; `cached`: without network."""
        ...


class HuggingFaceHub:
    """The real one. HF_TOKEN, HF_HOME, HF_ENDPOINT and the like are read by huggingface_hub itself."""

    def __init__(self, *, endpoint: str | None = None, cache: str | None = None) -> None:
        self._endpoint = endpoint
        self._cache = cache

    @property
    def offline(self) -> bool:
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    def files(self, repo: str, revision: str) -> list[str]:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint).list_repo_files(repo, revision=revision)

    def pipeline_tag(self, repo: str, revision: str) -> str | None:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint).model_info(repo, revision=revision).pipeline_tag

    def fetch(
        self,
        repo: str,
        revision: str,
        patterns: Sequence[str],
        *,
        force: bool,
        cached: bool,
        done: Callable[[float], None],
    ) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            force_download=force,
            local_files_only=cached,
            max_workers=_THREADS,
            tqdm_class=_reporting_bar(done),
            endpoint=self._endpoint,
            cache_dir=self._cache,
        )


def patiently(
    call: Callable[[], T], repo: str, revision: str, *, offline: bool, sleep: Callable[[float], None] = time.sleep
) -> T:
    """What `call` gives, tried again while the network fails; ModelError saying what is wrong otherwise."""
    for tries, wait in enumerate((*WAITS, None), start=1):
        try:
            return call()
        except Exception as error:  # every failure of a foreign library; what is not the hub's is raised as it is
            reason = _reason(error, repo, revision, offline)
            if reason is None:
                raise
            hopeless = tries > 1 and is_unresolved(error)
            if wait is None or offline or hopeless or not is_network_failure(error):
                raise ModelError(reason) from error
            wait *= random.uniform(0.75, 1.25)
            log.warning("the hub does not answer (%s), next try in %.0f s", _short(error), wait)
            sleep(wait)
    raise AssertionError("the last round returns or raises")


def is_unresolved(error: BaseException | None) -> bool:
    """Whether the host's name could not be resolved: a machine without a network says so at once, and again later."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, socket.gaierror) or any(text in str(error) for text in _UNRESOLVED):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def is_network_failure(error: BaseException) -> bool:
    """Whether another try may help: no connection, a time-out, a server in trouble."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        # The hub's client looks into the cache when it finds no network, and then tells of both.
        return error.__cause__ is not None and is_network_failure(error.__cause__)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return False
    if isinstance(error, errors.HfHubHTTPError):
        return error.response.status_code not in _NEVER_RETRIED
    return isinstance(error, (_transport_error(), ConnectionError, TimeoutError))


def _reason(error: Exception, repo: str, revision: str, offline: bool) -> str | None:
    """One line for what the hub's client raised; None for what has nothing to do with it."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its licence at {page}, then set HF_TOKEN to a token of your account"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}; see {page}/tree/main for those it has"
    if isinstance(error, errors.DisabledRepoError):
        return f"{repo} was disabled by its author or by Hugging Face"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is no folder {repo!r} and no model of this name on the Hugging Face hub; check the spelling, or "
            "set HF_TOKEN if the repository is private"
        )
    if isinstance(error, errors.HFValidationError):
        return f"there is no folder {repo!r}, and it is not the name of a Hugging Face repository (org/name) either"
    if offline and isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return f"HF_HUB_OFFLINE is set and {repo} ({revision}) is not complete in the cache; unset it once to download"
    return _network_reason(error, repo, page)


def _network_reason(error: Exception, repo: str, page: str) -> str | None:
    from huggingface_hub import errors

    inner = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    if isinstance(inner, errors.HfHubHTTPError):
        status = inner.response.status_code
        if status in (401, 403):
            return f"the hub does not give access to {repo} (HTTP {status}): look at {page} and check HF_TOKEN"
        if status == 429:
            return f"the hub refuses more requests for now (HTTP 429) while fetching {repo}; wait, or set HF_TOKEN"
        return f"the hub failed with HTTP {status} while fetching {repo}; try again later, or give a local folder"
    if isinstance(error, errors.LocalEntryNotFoundError) or is_network_failure(error):
        return (
            f"{repo} cannot be fetched: the Hugging Face hub cannot be reached ({_short(inner or error)}); check the "
            "network, set HF_HUB_OFFLINE=1 to use the cache alone, or give a local folder"
        )
    return None


def _transport_error() -> type[BaseException]:
    """The base error of the HTTP library under the hub's client, which differs between its releases."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]


def _reporting_bar(done: Callable[[float], None]) -> Any:
    """A tqdm class that draws nothing and tells how far the download is; bytes count more than files."""
    from huggingface_hub.utils.tqdm import tqdm

    seen: dict[str, float] = {}

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._counts = str(kwargs.get("unit", "files"))
            begin: Any = super().__init__
            begin(*args, **{**kwargs, "disable": True})

        def __iter__(self) -> Any:
            for item in self.iterable:
                yield item
                self.update(1)

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if self.total:
                seen[self._counts] = max(seen.get(self._counts, 0.0), min(1.0, self.n / self.total))
                done(seen.get("B", seen[self._counts]))

    return Bar
