"""The size of the automaton of an expression: some have twice as many states for each character more.

outlines-core makes all of them at once and cannot be stopped, so that they are counted in a process that can be.
"""

from __future__ import annotations

import subprocess
import sys

from outlines_core import Index, Vocabulary

from maxserve.interfaces.errors import GrammarUnsupported

MOST_STATES = 2_000
SECONDS = 5  # of processor time
MEMORY = 1024**3  # no more than the process has in which a server tries constraints

_COUNT = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from outlines_core import Index, Vocabulary
bytes_alone = Vocabulary(256, {{bytes([byte]): [byte] for byte in range(256)}})
print(len(Index(sys.stdin.buffer.read().decode(), bytes_alone).get_transitions()))
"""


def count_states(expression: str) -> int:
    """The states of an automaton that is known not to be too large."""
    bytes_alone = Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
    return len(Index(expression, bytes_alone).get_transitions())


def validate_size(expression: str) -> None:
    """GrammarUnsupported when an index of `expression` would take too long, or when it is none at all."""
    command = [sys.executable, "-I", "-c", _COUNT]
    try:
        ran = subprocess.run(command, input=expression.encode(), capture_output=True, timeout=4 * SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _too_large() from None
    if ran.returncode or int(ran.stdout) > MOST_STATES:
        raise _too_large()


def _too_large() -> GrammarUnsupported:
    return GrammarUnsupported(f"its automaton has more than {MOST_STATES} states; make it smaller, or use llguidance")
