from __future__ import annotations

import hashlib

import pytest
from starlette.datastructures import Headers

from maxserve.plugins.api.common.identity import client_of

KEY = "key-" + hashlib.sha256(b"sk-secret").hexdigest()[:16]


@pytest.mark.parametrize(
    ("user", "authorization", "client"),
    [
        ("ann", "Bearer sk-secret", "ann"),
        (None, "Bearer sk-secret", KEY),
        ("", "bearer  sk-secret ", KEY),
        (None, "Basic YTpi", ""),
        (None, "Bearer ", ""),
        (None, "sk-secret", ""),
        (None, None, ""),
    ],
)
def test_a_client_is_its_user_or_its_key(user: str | None, authorization: str | None, client: str) -> None:
    headers = Headers({} if authorization is None else {"Authorization": authorization})
    assert client_of(user, headers) == client


def test_long_names_are_cut_down_and_still_tell_apart() -> None:
    one, other = (client_of("x" * 10_000 + end, Headers()) for end in "ab")
    assert one != other
    assert len(one) == len(other) == len("user-") + 16


def test_names_that_are_no_text_are_no_failure() -> None:
    assert client_of("\ud800" * 200, Headers()).startswith("user-")
