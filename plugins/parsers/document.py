"""The page docs/parsers.md, made from the parsers themselves.

`python -m maxserve.plugins.parsers.document > docs/parsers.md` renews it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from maxserve.interfaces.parsers import ReasoningParser, ToolParser
from maxserve.plugins.parsers import maxserve_reasoning_parsers, maxserve_tool_parsers

_HEAD = """\
# Parsers of answers

Models write tool calls and thoughts into their text, each family in a form of its own. A parser turns that
into `tool_calls` and `reasoning_content` (on `/v1/messages` and `/v1/responses` into their blocks and items),
whole and streamed alike. The tables are made from the plugins; plugins of your own add to them
([hooks.md](hooks.md)).

`--tool-parser auto` and `--reasoning-parser auto`, the defaults, go by the chat template, which shows past
calls in the form in which the model was trained to write them; the log says at the start which parsers serve,
and so does `GET /v1/models/{id}`. A name chooses one, and `none` leaves the text as it is. Special tokens
that carry a form reach its parser, whatever `skip_special_tokens` says.

The form is that of calls the model makes of itself. Where a call must be made (`tool_choice` required, or a
function), the text is held to the JSON Schema of the calls, which is the same for every family.

What a client sends back of an answer renders as the model wrote it, where its template does so: templates may
leave out earlier thoughts, and number calls anew. GPT-OSS takes either text or thoughts beside a call: of
both, the text becomes part of the thoughts. It also takes one call in a message; of several the template
shows the first.

## Tool calls
"""

_REASONING = """
## Reasoning
"""

_TAIL = """
Reasoning ends where its last tag is, or where the answer does. Messages of GPT-OSS to no function are content (`final`,
`commentary`) or reasoning (`analysis`); several of a kind are given as lines.
"""


def document() -> str:
    return "".join((_HEAD, *_table(maxserve_tool_parsers()), _REASONING, *_table(maxserve_reasoning_parsers()), _TAIL))


def _table(parsers: Iterable[ToolParser | ReasoningParser]) -> Iterable[str]:
    yield "\n| name | form: models | by the template |\n|---|---|---|\n"
    for parser in sorted(parsers, key=lambda parser: parser.name):
        summary = parser.summary.replace("|", "\\|").replace("<", "&lt;")
        yield f"| `{parser.name}` | {summary} | {'yes' if parser.recognises else 'no, by name only'} |\n"


if __name__ == "__main__":
    sys.stdout.write(document())
