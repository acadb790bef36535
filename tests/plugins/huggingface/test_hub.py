from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import errors

from maxserve.core.interfaces.errors import ModelError
from maxserve.plugins.huggingface.hub import WAITS, _reporting_bar, is_network_failure, patiently

HTTP_ERROR = errors.HfHubHTTPError.__bases__[0]
HTTP = __import__(HTTP_ERROR.__module__.partition(".")[0])  # the HTTP library of this huggingface_hub


def http_error(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    response = HTTP.Response(status, request=HTTP.Request("GET", "https://huggingface.co/org/m"))
    return kind(f"{status} from the hub\nwith details", response=response)


def from_cache(cause: Exception) -> errors.LocalEntryNotFoundError:
    """What snapshot_download raises when it found neither network nor cache."""
    try:
        raise errors.LocalEntryNotFoundError("nothing in the cache") from cause
    except errors.LocalEntryNotFoundError as error:
        return error


class Call:
    """Fails with each of the errors in turn, then succeeds."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0
        self.waits: list[float] = []

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "done"

    def run(self, *, offline: bool = False) -> str:
        return patiently(self, "org/m", "main", offline=offline, sleep=self.waits.append)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            http_error(errors.GatedRepoError, 403),
            r"org/m is gated: accept its licence at https://huggingface\.co/org/m",
        ),
        (http_error(errors.GatedRepoError, 401), "HF_TOKEN"),
        (http_error(errors.RepositoryNotFoundError, 404), "no folder 'org/m' and no model of this name.*HF_TOKEN if"),
        (http_error(errors.RepositoryNotFoundError, 401), "set HF_TOKEN if the repository is private"),
        (http_error(errors.RevisionNotFoundError, 404), "org/m has no revision 'main'"),
        (http_error(errors.DisabledRepoError, 403), "was disabled"),
        (http_error(errors.HfHubHTTPError, 401), r"does not give access to org/m \(HTTP 401\).*HF_TOKEN"),
        (http_error(errors.HfHubHTTPError, 429), "HTTP 429"),
        (from_cache(http_error(errors.HfHubHTTPError, 403)), "does not give access"),
        (errors.HFValidationError("bad name"), r"not the name of a Hugging Face repository \(org/name\)"),
    ],
)
def test_what_another_try_cannot_help_is_said_at_once(error: Exception, reason: str) -> None:
    call = Call(error)
    with pytest.raises(ModelError, match=reason) as caught:
        call.run()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error
    assert (call.calls, call.waits) == (1, [])


NETWORK_FAILURES: list[Callable[[], Exception]] = [
    lambda: HTTP.ConnectError("no route to host"),
    lambda: HTTP.ReadTimeout("timed out"),
    lambda: http_error(errors.HfHubHTTPError, 503),
    lambda: from_cache(HTTP.ConnectError("no route to host")),
    lambda: from_cache(http_error(errors.HfHubHTTPError, 502)),
    lambda: ConnectionResetError("reset"),
]


@pytest.mark.parametrize("make", NETWORK_FAILURES)
def test_network_failures_are_tried_again(make: Callable[[], Exception], caplog: pytest.LogCaptureFixture) -> None:
    call = Call(make(), make())
    with caplog.at_level(logging.WARNING):
        assert call.run() == "done"
    assert call.calls == 3
    assert len([message for message in caplog.messages if "next try in" in message]) == 2


@pytest.mark.parametrize("make", NETWORK_FAILURES)
def test_patience_ends(make: Callable[[], Exception]) -> None:
    random.seed(5)
    call = Call(*[make() for _ in range(9)])
    with pytest.raises(ModelError, match=r"org/m.*(HF_HUB_OFFLINE=1 to use the cache|try again later)") as caught:
        call.run()
    assert "\n" not in str(caught.value)
    assert call.calls == len(WAITS) + 1
    assert WAITS == (1, 2, 4, 8, 16)
    assert all(0.75 * wait <= waited <= 1.25 * wait for wait, waited in zip(WAITS, call.waits, strict=True))
    assert list(WAITS) != call.waits


def test_offline_is_told_from_a_broken_network() -> None:
    for error in (errors.LocalEntryNotFoundError("x"), errors.OfflineModeIsEnabled("x")):
        call = Call(error)
        with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set and org/m .main. is not complete in the cache"):
            call.run(offline=True)
        assert call.waits == []


def test_what_is_not_the_hubs_goes_through() -> None:
    for error in (KeyError("x"), ModelError("clear already"), PermissionError("cache is read-only")):
        with pytest.raises(type(error)) as caught:
            Call(error).run()
        assert caught.value is error


def test_offline_mode_is_no_network_failure() -> None:
    assert not is_network_failure(errors.OfflineModeIsEnabled("x"))
    assert not is_network_failure(errors.LocalEntryNotFoundError("x"))
    assert not is_network_failure(ValueError("x"))


def test_bytes_count_more_than_files(capsys: pytest.CaptureFixture[str]) -> None:
    fractions: list[float] = []
    bar: Any = _reporting_bar(fractions.append)
    assert list(bar([1, 2], total=2, desc="files")) == [1, 2]
    assert fractions == [0.5, 1.0]
    with bar(total=0, unit="B", unit_scale=True, desc="bytes") as size, bar(total=4, desc="files") as count:
        size.total += 100
        size.update(25)
        count.update(4)
        size.set_description("late")
        size.set_postfix_str("1 MB/s", refresh=False)
        size.refresh()
        size.update(75)
    assert fractions[2:] == [0.25, 0.25, 1.0]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text", ["[Errno -2] Name or service not known", "[Errno -3] Temporary failure in name resolution"]
)
def test_a_name_that_is_not_resolved_is_no_matter_of_patience(text: str) -> None:
    """A machine without a network says so at once: another half minute would not help."""
    errors_of_both_kinds = [HTTP.ConnectError(text), socket.gaierror(-2, "x")]
    for error in errors_of_both_kinds:
        failure = from_cache(HTTP.ConnectError("cannot connect"))
        failure.__cause__.__context__ = error  # type: ignore[union-attr]
        call = Call(*[failure] * 9)
        with pytest.raises(ModelError, match="the Hugging Face hub cannot be reached"):
            call.run()
        assert call.calls == 2
        assert sum(call.waits) < 2
