"""How does a request for a message become the body of a chat?"""

from __future__ import annotations

from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.anthropic.bodies import CountBody, MessageBody, OutputFormat
from maxserve.plugins.api.anthropic.conversation import messages_of
from maxserve.plugins.api.anthropic.failures import NO_THREADS
from maxserve.plugins.api.anthropic.tools import tool_fields
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.system_messages import SystemMessages
from maxserve.plugins.api.common.translation import Translator

HOTTEST = 1.0  # Anthropic's temperatures end here
_REFUSED = {
    "mcp_servers": "this server reaches no MCP servers; give their tools as tools of the client",
    "thread": "this server keeps no conversations; send the whole of it as messages",
    "compaction": "this server summarises no conversations; ask for a summary in a message",
}


class MessageTranslation:
    """Makes chat bodies of messages, with warnings about what cannot be done as asked."""

    def __init__(self, answering: Answering) -> None:
        self._translator = Translator(answering, ChatBody)
        self._controls = answering.conversations.controls
        self._systems = SystemMessages(answering.conversations.renderer)

    def chat_body(self, body: CountBody) -> tuple[ChatBody, list[str]]:
        """The chat body and the warnings. RequestError for what is refused."""
        _check_temperature(getattr(body, "temperature", None))
        _check_kept_nothing(body)
        variables, warnings = self._thinking(body)
        tools, left_out = tool_fields(body)
        messages = self._systems.shown(messages_of(body), tools="tools" in tools)
        if not messages:  # each block of each message was one that stands for nothing
            raise RequestError("messages: none of them has content for the model", param="messages")
        fields = {
            "model": body.model,
            "messages": messages,
            "continue_final_message": True if messages[-1]["role"] == "assistant" else None,
            "chat_template_kwargs": {**variables, **(body.chat_template_kwargs or {})} or None,
            **tools,
            **_format(body),
            **(_limits(body) if isinstance(body, MessageBody) else {}),
        }
        # Nothing but the prompt counts when tokens are counted.
        chat = self._translator.body(fields, body if isinstance(body, MessageBody) else None)
        return chat, self._translator.warnings(body) + warnings + left_out

    def _thinking(self, body: CountBody) -> tuple[dict[str, Any], list[str]]:
        """The chat template's variables, and warnings; an effort alone thinks as it says."""
        variables: dict[str, Any] = {}
        warnings: list[str] = []
        if body.thinking is not None:
            on = body.thinking.type != "disabled"
            variables, warnings = self._controls.switched(on, param="thinking")
            if body.thinking.budget_tokens is not None:
                warnings.append("thinking.budget_tokens: not enforced; max_tokens bounds thinking and answer together")
        if body.output_config is not None and body.output_config.effort is not None:
            more, fields = self._controls.effort(body.output_config.effort, param="output_config.effort")
            variables, warnings = more | variables, warnings + fields
        return variables, warnings


def _check_temperature(temperature: float | None) -> None:
    if temperature is not None and temperature > HOTTEST:
        raise RequestError(f"temperature: must be at most {HOTTEST:g}, got {temperature:g}", param="temperature")


def _check_kept_nothing(body: CountBody) -> None:
    """RequestError for what other machines would have to add to the conversation."""
    for name, reason in _REFUSED.items():
        if getattr(body, name):
            code = NO_THREADS if name == "thread" else "unsupported_parameter"
            raise RequestError(f"{name}: {reason}", param=name, code=code)


def _limits(body: MessageBody) -> dict[str, Any]:
    return {
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences or None,
        "stream": body.stream,
        "user": body.metadata.user_id if body.metadata is not None else None,
    }


def _format(body: CountBody) -> dict[str, Any]:
    config = body.output_config
    wanted: OutputFormat | None = (config and config.format) or body.output_format
    if wanted is None:
        return {}
    schema = {"name": "answer", "schema": wanted.schema_, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
