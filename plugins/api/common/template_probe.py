"""What a chat template takes, found out once by rendering small conversations with known words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import product
from typing import Any, Literal

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.past_calls import CallForm, Empty

Message = dict[str, Any]
Run = Callable[[list[Message]], str]
Contents = Literal["any", "strings", "parts", "unknown"]

# Words that no template writes by itself.
_ASK, _SAY, _MORE, _LAST = "kqzask", "kqzsay", "kqzmore", "kqzlast"
_NAME, _KEY, _VALUE, _RESULT = "kqzname", "kqzkey", "kqzvalue", "kqzresult"
_STRANGER = "kqzrole"
_AS_DATA = re.compile(rf"""['"]text['"]\s*:\s*['"]{_SAY}""")  # parts that are printed instead of read
_LONG_ID, _SHORT_ID = "call_kqz0123456789abcdef", "kqz012345"
_ROLES = 32  # names of roles that are remembered


class TemplateProbe:
    """What one template takes. `run` renders a conversation as it is, and raises RequestError where that fails."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.takes_role = lru_cache(_ROLES)(self._takes_role)
        self.contents = lru_cache(_ROLES)(self._contents)
        self.shows_first = lru_cache(_ROLES)(self._shows_first)
        self.shows_later = lru_cache(_ROLES)(self._shows_later)

    @cached_property
    def calls(self) -> CallForm | None:
        """The form in which past calls and their results are shown; None where there is none."""
        for named, short in product((False, True), repeat=2):
            shown = [form for form in _forms(named=named, short_ids=short) if self._shows_calls(form)]
            if shown:
                text = shown[0].text
                empties: list[Empty] = [form.empties[0] for form in shown if form.text is text]
                found = CallForm(text=text, short_ids=short, named=named, empties=(*empties,))
                return found if text or self._shows_broken(found) else _without_broken(found)
        return None

    @cached_property
    def first_system(self) -> bool:
        """Whether a system message at the beginning is taken."""
        return self._takes([_message("system", _SAY), _message("user", _ASK)])

    @cached_property
    def several_systems(self) -> bool:
        """Whether two system messages in a row at the beginning are."""
        return self._takes([_message("system", _SAY), _message("system", _MORE), _message("user", _ASK)])

    @cached_property
    def later_system(self) -> bool:
        """Whether system messages are taken in the middle."""
        turns = [_message("user", _ASK), _message("assistant", _MORE)]
        return self._takes([*turns, _message("system", _SAY), _message("user", _LAST)])

    @cached_property
    def repeated_roles(self) -> bool:
        """Whether users and assistants may speak twice in a row."""
        return self._takes([_message(role, _SAY) for role in ("user", "user", "assistant", "assistant", "user")])

    @cached_property
    def assistant_first(self) -> bool:
        """Whether a conversation may begin with the assistant."""
        return self._takes([_message("assistant", _SAY), _message("user", _ASK)])

    @cached_property
    def text_beside_thoughts(self) -> bool:
        """Whether a message with calls may have both text and thoughts."""
        first, caller, result = _conversation(self.calls or CallForm(), {_KEY: _VALUE}, _RESULT)
        both = {"content": _SAY, "thinking": _MORE, "reasoning_content": _MORE}
        return self._takes([first, caller | both, result])

    @cached_property
    def developer(self) -> bool:
        """Whether the role "developer" is treated otherwise than a name that the template has never heard of."""
        rendered = [self._rendered(_beside(role, _SAY)) for role in ("developer", _STRANGER)]
        if rendered[0] is None or _SAY not in rendered[0]:
            return False
        return rendered[0].replace("developer", _STRANGER) != rendered[1]

    def _shows_first(self, roles: tuple[str, ...]) -> bool:
        """Whether all of several messages of these roles are shown at the beginning."""
        words = [f"{_SAY}{index}x" for index in range(len(roles))]
        before = [_message(role, word) for role, word in zip(roles, words, strict=True)]
        return self._shows([*before, _message("user", _ASK)], *words)

    def _shows_later(self, role: str) -> bool:
        """Whether a message of this role is shown in the middle and at the end, and the first one beside it."""
        begun = [_message("system", _NAME), _message("user", _ASK)]
        middle = [*begun, _message("assistant", _MORE), _message(role, _SAY), _message("user", _LAST)]
        return all(self._shows(messages, _SAY, _NAME) for messages in (middle, [*begun, _message(role, _SAY)]))

    def _takes_role(self, role: str) -> bool:
        """Whether a message of this role is taken."""
        return self._takes(_beside(role, _SAY))

    def _contents(self, role: str) -> Contents:
        """What contents of a role's messages are shown: strings, lists of parts or both."""
        strings = self._shows(self._around(role, _SAY), _SAY)
        parts = [{"type": "text", "text": _SAY}, {"type": "text", "text": _MORE}]
        rendered = self._rendered(self._around(role, parts))
        listed = rendered is not None and all(w in rendered for w in (_SAY, _MORE)) and not _AS_DATA.search(rendered)
        if strings and listed:
            return "any"
        return "strings" if strings else "parts" if listed else "unknown"

    def _around(self, role: str, content: Any) -> list[Message]:
        if role == "tool":
            return _conversation(self.calls or CallForm(), {_KEY: _VALUE}, content)
        return _beside(role, content)

    def _shows_calls(self, form: CallForm) -> bool:
        """Whether name, arguments and result of a call are shown, and the arguments as JSON."""
        arguments = f'{{"{_KEY}": "{_VALUE}"}}' if form.text else {_KEY: _VALUE}
        text = self._rendered(_conversation(form, arguments, _RESULT))
        if text is None or not all(word in text for word in (_NAME, _VALUE, _RESULT)):
            return False
        return arguments in text if isinstance(arguments, str) else str(arguments) not in text

    def _shows_broken(self, form: CallForm) -> bool:
        return self._shows(_conversation(form, _VALUE, _RESULT), _VALUE)

    def _shows(self, messages: list[Message], *words: str) -> bool:
        text = self._rendered(messages)
        return text is not None and all(word in text for word in words)

    def _takes(self, messages: list[Message]) -> bool:
        return self._rendered(messages) is not None

    def _rendered(self, messages: list[Message]) -> str | None:
        try:
            return self._run(messages)
        except RequestError:
            return None


def _message(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


def _beside(role: str, content: Any) -> list[Message]:
    """A conversation in which a message of a role stands where it usually does."""
    user, probed = _message("user", _ASK), _message(role, content)
    if role == "user":
        return [probed]
    if role == "assistant":
        return [user, probed, _message("user", _LAST)]
    return [probed, user] if role in ("system", "developer", _STRANGER) else [user, probed]


def _conversation(form: CallForm, arguments: Any, result: Any) -> list[Message]:
    """One with a call and its result in a form."""
    id = _SHORT_ID if form.short_ids else _LONG_ID
    call = {"id": id, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
    contents: dict[Empty, Message] = {"absent": {}, "text": {"content": ""}, "null": {"content": None}}
    caller = {"role": "assistant", **contents[form.empties[0]], "tool_calls": [call]}
    name = {"name": _NAME} if form.named else {}
    return [_message("user", _ASK), caller, {"role": "tool", "tool_call_id": id, **name, "content": result}]


def _forms(*, named: bool, short_ids: bool) -> Iterator[CallForm]:
    """Those to be tried: objects before text, and as transformers hands an empty content on before others."""
    empties: Sequence[Empty] = ("absent", "text", "null")
    for text, empty in product((False, True), empties):
        yield CallForm(text=text, short_ids=short_ids, named=named, empties=(empty,))


def _without_broken(form: CallForm) -> CallForm:
    return CallForm(text=form.text, short_ids=form.short_ids, named=form.named, empties=form.empties, broken_text=False)
