from __future__ import annotations

from maxserve.testing import RoutesChecks


class TestNextToken(RoutesChecks):
    routes = "next-token"
    requests = (
        ("GET", "/count?text=abc", None, 200, '"tokens":3'),
        ("GET", "/next?text=abc", None, 200, '"next":"H"'),
        ("GET", "/count", None, 400, "text"),
    )
