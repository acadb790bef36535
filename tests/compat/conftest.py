"""Packages of other releases are installed for their tests, and not collected with ours."""

from __future__ import annotations

collect_ignore_glob = ["v1/*"]
