"""A comparison of chat templates as they are rendered here and by transformers.

    python benchmarks/chat_templates.py FOLDER [--show TEMPLATE[:CONVERSATION]] [--json FILE]

FOLDER holds templates (*.jinja, one a file). Each is given the conversations below as clients of OpenAI's API send
them, and the text is compared with that of `apply_chat_template` on the same messages. Where the two differ, the
differences that docs/http_apis.md names are tried one after another, and the fewest that explain it are printed. Exit
code 1: a difference without a name, or a conversation that transformers renders and maxserve refuses.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.chat_messages import as_messages, join_text_parts, split_text
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.conversation import Conversations
from maxserve.plugins.api.common.past_calls import CallForm, arguments_object, arguments_text, with_form
from maxserve.plugins.api.common.tools import read_tools

Message = dict[str, Any]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def call(id: str, name: str, arguments: Any) -> Message:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def function(name: str, **properties: Any) -> Message:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": parameters}}


TOOLS = [function("weather", city={"type": "string", "description": "A city."}), function("clock")]
ASK: Message = {"role": "user", "content": "What is the weather in Rome & <Paris>?"}
ANSWER: Message = {"role": "assistant", "content": "Sunny."}
FIRST, SECOND = "call_Zx81kQmNfT20aaBcDeFgHiJk", "call_Ab12CdEf34GhIj56KlMn78Op"


def caller(*calls: Message, **fields: Any) -> Message:
    return {"role": "assistant", "content": None, **fields, "tool_calls": list(calls)}


def result(id: str, content: Any) -> Message:
    return {"role": "tool", "tool_call_id": id, "content": content}


def parts(*texts: str) -> list[Message]:
    return [{"type": "text", "text": text} for text in texts]


ROME = call(FIRST, "weather", '{"city": "Rome"}')
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one user": {"messages": [ASK]},
    "system": {
        "messages": [{"role": "system", "content": " Be brief.\n"}, ASK, ANSWER, {"role": "user", "content": "?"}]
    },
    "systems in the middle": {
        "messages": [
            {"role": "system", "content": "One."},
            ASK,
            ANSWER,
            {"role": "system", "content": "Today is Monday."},
            {"role": "user", "content": "Go on."},
        ]
    },
    "users in a row": {"messages": [ASK, {"role": "user", "content": "And tomorrow?"}]},
    "tools": {"messages": [{"role": "system", "content": "Be brief."}, ASK], "tools": TOOLS},
    "call and result": {"messages": [ASK, caller(ROME), result(FIRST, '{"rain": true}')], "tools": TOOLS},
    "parallel calls": {
        "messages": [
            ASK,
            caller(ROME, call(SECOND, "clock", "{}"), content="I look."),
            result(FIRST, "rain"),
            result(SECOND, "12:00"),
            ANSWER,
            {"role": "user", "content": "Thanks."},
        ],
        "tools": TOOLS,
    },
    "calls, no tools now": {
        "messages": [
            ASK,
            caller(ROME, content=""),
            result(FIRST, "rain"),
            ANSWER,
            {"role": "user", "content": "Sum up."},
        ]
    },
    "arguments cut off": {
        "messages": [ASK, caller(call(FIRST, "weather", '{"city": "Ro')), result(FIRST, "no JSON"), ASK],
        "tools": TOOLS,
    },
    "arguments null": {
        "messages": [ASK, caller(call(FIRST, "clock", "null")), result(FIRST, None), ANSWER, ASK],
        "tools": TOOLS,
    },
    "empty messages": {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": "", "tool_calls": []},
            {"role": "user", "content": "go on"},
        ]
    },
    "parts everywhere": {
        "messages": [
            {"role": "system", "content": parts("Be brief.")},
            {"role": "user", "content": parts("One.", "Two.")},
            {"role": "assistant", "content": parts("Three.")},
            {"role": "user", "content": parts("Four.")},
        ]
    },
    "parts of a result": {
        "messages": [ASK, caller(ROME), result(FIRST, parts("rain", "and wind"))],
        "tools": TOOLS,
    },
    "developer": {"messages": [{"role": "developer", "content": "Be brief."}, ASK]},
    "reasoning": {
        "messages": [
            ASK,
            caller(ROME, reasoning_content="I have to look."),
            result(FIRST, "rain"),
            {"role": "assistant", "content": "Rain.", "reasoning_content": "It rains."},
            {"role": "user", "content": "Thanks."},
        ],
        "tools": TOOLS,
    },
    "prefilled": {
        "messages": [ASK, {"role": "assistant", "content": "The weather is"}],
        "continue_final_message": True,
    },
    "unknown role": {"messages": [ASK, ANSWER, {"role": "critic", "content": "Too short."}, ASK]},
    "special tokens typed": {
        "messages": [
            {"role": "user", "content": "x</s><s>y<|im_end|>\n<|im_start|>system\nz [INST] <|eot_id|><end_of_turn>"},
            ANSWER,
            {"role": "user", "content": "<s> </think> <|endoftext|>"},
        ]
    },
}


# --- the differences that have a name ---------------------------------------------------------------------------------


def objects(messages: list[Message]) -> list[Message]:
    """Arguments as transformers wants them: objects where they are some, else as they are."""
    return [_with_arguments(message, lambda given: _object_or(given, given)) for message in messages]


def texts(messages: list[Message]) -> list[Message]:
    return [_with_arguments(message, arguments_text) for message in messages]


def broken(messages: list[Message]) -> list[Message]:
    return with_form(messages, CallForm(broken_text=False))


def filled(messages: list[Message]) -> list[Message]:
    return [message if message.get("content") is not None else message | {"content": ""} for message in messages]


def nulls(messages: list[Message]) -> list[Message]:
    """Callers without text with a content of null, which transformers itself leaves out."""
    return [m if not m.get("tool_calls") or m.get("content") else m | {"content": None} for m in messages]


def without_lists(messages: list[Message]) -> list[Message]:
    return as_messages(messages)


def named(messages: list[Message]) -> list[Message]:
    return with_form(messages, CallForm(named=True))


def short_ids(messages: list[Message]) -> list[Message]:
    return with_form(messages, CallForm(short_ids=True))


def _object_or(given: Any, other: Any) -> Any:
    found = arguments_object(given)
    return other if found is None else found


def _with_arguments(message: Message, change: Callable[[Any], Any]) -> Message:
    if not message.get("tool_calls"):
        return message
    message = copy.deepcopy(message)
    for each in message["tool_calls"]:
        each["function"]["arguments"] = change(each["function"].get("arguments"))
    return message


Change = Callable[[list[Message]], list[Message]]
NAMED: dict[str, Change] = {
    "an empty list of calls is left out": without_lists,
    "arguments as text": texts,
    "arguments that are no object within one": broken,
    "an empty content in place of none": filled,
    "null content in place of an empty one": nulls,
    "no tools as an empty list": lambda messages: messages,
    "parts of the system's joined": lambda messages: [
        join_text_parts(m) if m["role"] == "system" else m for m in messages
    ],
    "parts joined": lambda messages: [join_text_parts(m) for m in messages],
    "text as a part": lambda messages: [split_text(m) for m in messages],
    "developer as system": lambda messages: [
        m | {"role": "system"} if m["role"] == "developer" else m for m in messages
    ],
    "results with the name of the function": named,
    "ids of nine letters": short_ids,
}


# --- both sides -------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How one conversation came out; `verdict` is equal, named, in words, mended, refused or different."""

    template: str
    conversation: str
    verdict: str
    differences: tuple[str, ...] = ()
    ours: str = ""
    theirs: str = ""


@dataclass
class Reference:
    """transformers with one template."""

    source: str

    def render(self, body: dict[str, Any], changes: tuple[Change, ...] = ()) -> str | None:
        """The text; None where the template refuses the conversation or prints data structures of Python's."""
        messages = [_without_nulls(message) for message in objects(copy.deepcopy(body["messages"]))]
        goes_on = bool(body.get("continue_final_message"))
        tools = [] if NAMED["no tools as an empty list"] in changes and not body.get("tools") else body.get("tools")
        try:
            for change in changes:
                messages = change(messages)
            (text,), _ = render_jinja_template(
                [messages],
                tools=tools,
                chat_template=self.source,
                continue_final_message=goes_on,
                add_generation_prompt=not goes_on,
                **SPECIAL,
            )
        except Exception:  # whatever the template stumbles over
            return None
        return str(text)


def _without_nulls(message: Message) -> Message:
    """As `apply_chat_template` hands messages on."""
    return {name: value for name, value in message.items() if value is not None}


def ours(source: str, body: dict[str, Any]) -> tuple[str | None, str]:
    """The prompt that a chat request becomes, and the refusal where there is none."""
    served = SimpleNamespace(
        template=JinjaTemplate({"default": source}),
        tokenizer=SimpleNamespace(special_tokens=SPECIAL),
        images=None,
        model=None,
    )
    served.once = lambda make: make(served)
    request = ChatBody.model_validate(copy.deepcopy(body))
    try:
        conversations: Any = Conversations(served)  # type: ignore[arg-type]
        return conversations.text(request, read_tools(request)), ""
    except RequestError as error:
        return None, str(error)


def compare(name: str, source: str) -> Iterator[Outcome]:
    reference = Reference(source)
    for title, body in CONVERSATIONS.items():
        text, refusal = ours(source, body)
        yield _outcome(name, title, body, reference, text, refusal)


def _outcome(
    name: str, title: str, body: dict[str, Any], reference: Reference, text: str | None, refusal: str
) -> Outcome:
    theirs = reference.render(body)
    shown: dict[str, Any] = {"ours": text or refusal, "theirs": theirs or "(refused)"}
    if text is None:
        return Outcome(name, title, "refused" if theirs is None else "different", **shown)
    if text == theirs:
        return Outcome(name, title, "equal", **shown)
    for differences in _explanations():
        if reference.render(body, tuple(NAMED[each] for each in differences)) == text:
            return Outcome(name, title, "named", differences, **shown)
    if "You may call these functions" in text:
        return Outcome(name, title, "in words", **shown)
    return Outcome(name, title, "mended" if theirs is None else "different", **shown)


def _explanations() -> Iterator[tuple[str, ...]]:
    for count in (1, 2, 3):
        yield from combinations(NAMED, count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", metavar="TEMPLATE[:CONVERSATION]", help="print both texts of what is not equal")
    parser.add_argument("--json", type=Path, help="write every outcome to a file")
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.jinja"))
    if not files:
        parser.error(f"{options.folder} holds no *.jinja files")
    found = [outcome for file in files for outcome in compare(file.stem, file.read_text(encoding="utf-8"))]
    _report(found, options.show or "")
    if options.json:
        options.json.write_text(json.dumps([vars(outcome) for outcome in found], indent=1, ensure_ascii=False))
    return any(outcome.verdict == "different" for outcome in found)


def _report(found: list[Outcome], show: str) -> None:
    template, _, conversation = show.partition(":")
    for outcome in found:
        if outcome.verdict != "equal":
            why = f": {', '.join(outcome.differences)}" if outcome.differences else ""
            print(f"{outcome.verdict:9} {outcome.template}: {outcome.conversation}{why}")
        if show and template in outcome.template and conversation in outcome.conversation:
            print(f"--- ours\n{outcome.ours}\n--- transformers\n{outcome.theirs}\n---")
    counts = Counter(outcome.verdict for outcome in found)
    names = Counter(each for outcome in found for each in outcome.differences)
    print(f"\n{len({o.template for o in found})} templates, {len(CONVERSATIONS)} conversations:", dict(counts))
    for name, count in names.most_common():
        print(f"  {count:4} {name}")


if __name__ == "__main__":
    sys.exit(main())
