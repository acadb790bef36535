"""A grammar back end for choices: the answer is one string of a list, followed byte by byte."""

import json

from maxserve import ByteGrammar, GrammarBackend, hookimpl


class Choices(ByteGrammar):
    def start(self, kind, text):
        return frozenset(choice.encode() for choice in json.loads(text))  # a state is what may still come

    def follow(self, rests, byte):
        return frozenset(rest[1:] for rest in rests if rest[:1] == bytes([byte])) or None

    def may_end(self, rests):
        return b"" in rests


@hookimpl
def maxserve_grammar_backends():
    yield GrammarBackend(name="choice-tree", build=Choices, accepts=frozenset({"choice"}), summary="choices, by bytes")
