from __future__ import annotations

from maxserve.testing import GrammarBackendChecks


class TestChoiceTree(GrammarBackendChecks):
    backend = "choice-tree"
    cases = (
        ("choice", '["yes", "no"]', ["yes", "no"], ["", "y", "yesno", "maybe"]),
        ("choice", '["a", "ab", "grün"]', ["a", "ab", "grün"], ["b", "abb", "gr"]),
    )
