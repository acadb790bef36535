"""A grammar back end for choices: the answer is one string of a list, followed byte by byte."""

import json

from maxserve import GrammarBackend, hookimpl
from maxserve.interfaces.grammar import GrammarCompiler, allow_tokens


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
        beginnings = {rest[:end] for rest in self.rest() for end in range(1, len(rest) + 1)}
        ids = [id for text in beginnings for id in self.compiler.ids.get(text, ())]
        allow_tokens(row, [*ids, *self.compiler.eos] if b"" in self.rest() else ids)

    def finished(self):
        return self.rest() == [b""]


class Compiler(GrammarCompiler):
    def __init__(self, context):
        self.vocabulary, self.eos, self.ids = context.vocabulary, context.eos_token_ids, {}
        for token, text in enumerate(context.vocabulary):
            self.ids.setdefault(text, []).append(token)

    def compile(self, kind, text):
        choices = [choice.encode() for choice in json.loads(text)]
        return lambda: Matcher(self, choices)


@hookimpl
def maxserve_grammar_backends():
    yield GrammarBackend(name="choice-tree", build=Compiler, accepts=frozenset({"choice"}), summary="choices, by bytes")
