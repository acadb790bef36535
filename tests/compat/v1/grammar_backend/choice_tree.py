"""A grammar back end for choices: the answer is one string of a list, followed byte by byte."""

from __future__ import annotations

import json

from maxserve import GrammarBackend, hookimpl


class Matcher:
    """Where one answer is: what was written after every token."""

    def __init__(self, compiler, choices):
        self.compiler, self.choices, self.written = compiler, choices, [b""]

    def rest(self):
        return [choice[len(self.written[-1]) :] for choice in self.choices if choice.startswith(self.written[-1])]

    def accept(self, token):
        self.written.append(self.written[-1] + self.compiler.vocabulary[token])

    def rollback(self, count):
        del self.written[len(self.written) - count :]

    def fill(self, row):
        row[:] = 0
        bits = row.view("uint32")
        for rest in self.rest():
            beginnings = [rest[:end] for end in range(1, len(rest) + 1)] or [b""]
            for token in (token for beginning in beginnings for token in self.compiler.ids.get(beginning, ())):
                bits[token // 32] |= 1 << token % 32

    def finished(self):
        return self.rest() == [b""]


class Compiler:
    def __init__(self, context):
        self.vocabulary, self.ids = context.vocabulary, {}
        for token, text in enumerate(context.vocabulary):
            self.ids.setdefault(text, []).append(token)
        self.ids[b""] = context.eos_token_ids  # what ends an answer; other tokens without text are never allowed

    def check(self, kind, text):
        return None

    def cached(self, kind, text):
        return True

    def compile(self, kind, text):
        choices = [choice.encode() for choice in json.loads(text)]
        return lambda: Matcher(self, choices)


@hookimpl
def maxserve_grammar_backends():
    yield GrammarBackend(name="choice-tree", build=Compiler, accepts=frozenset({"choice"}), summary="choices, by bytes")
