"""Drafts what followed the last two tokens when the text had them before."""

from maxserve import Speculator, hookimpl


class PairLookup:
    """Knows where each pair of tokens was last; reads only what is new of a text."""

    def __init__(self, context):
        self.known = {}  # by sequence: tokens that were read, and what begins behind a pair

    def propose(self, step):
        for over in (step.kept == 0).nonzero()[0]:
            self.known.pop(step.sequences[over].id, None)
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self.drafts(sequence, wanted) if wanted else [] for sequence, wanted in pairs]

    def drafts(self, sequence, wanted):
        tokens = sequence.tokens
        read, behind = self.known.pop(sequence.id, (2, {}))
        new = tokens[read - 2 :].tolist()
        for i in range(len(new) - 2):
            behind[new[i], new[i + 1]] = read + i
        self.known[sequence.id] = max(len(tokens), 2), behind
        while len(self.known) > 1024:  # a client that went away is not heard of again
            del self.known[next(iter(self.known))]
        start = behind.get(tuple(new[-2:]), len(tokens))
        return tokens[start : start + wanted].tolist()


@hookimpl
def maxserve_speculators():
    yield Speculator(name="pair-lookup", build=PairLookup, summary="what followed the last two tokens before")
