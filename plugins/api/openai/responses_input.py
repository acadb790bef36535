"""A request for a response as the body of a chat."""

from __future__ import annotations

from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.system_messages import SystemMessages
from maxserve.plugins.api.common.translation import Translator
from maxserve.plugins.api.openai.responses_body import ResponseBody, ResponseChat, TextConfig, check_response
from maxserve.plugins.api.openai.responses_messages import messages_of
from maxserve.plugins.api.openai.responses_tools import ResponseTools, declared_tools


class ResponseTranslation:
    """Makes chat bodies of requests for responses, with warnings about what cannot be done as asked."""

    def __init__(self, answering: Answering) -> None:
        self._translator = Translator(answering, ResponseChat)
        self._controls = answering.conversations.controls
        self._systems = SystemMessages(answering.conversations.renderer)

    def chat_body(self, body: ResponseBody) -> tuple[ResponseChat, ResponseTools, list[str]]:
        """The chat body, the tools by the names that the model knows them by, and the warnings.

        RequestError for what is refused.
        """
        warnings = check_response(body)
        variables, of_reasoning = self._reasoning(body)
        tools = ResponseTools(declared_tools(body.tools, body.input), body.tool_choice)
        fields = {
            "model": body.model,
            "messages": self._systems.shown(messages_of(body), tools=bool(tools.functions)),
            "max_tokens": body.max_output_tokens,
            "stream": body.stream,
            "user": body.owner,
            "parallel_tool_calls": body.parallel_tool_calls,
            "chat_template_kwargs": {**variables, **(body.chat_template_kwargs or {})} or None,
            "tools": tools.functions or None,
            "tool_choice": tools.choice,
            "response_format": _format(body.text) if body.text is not None else None,
        }
        chat = self._translator.body(fields, body)
        return chat, tools, self._translator.warnings(body) + warnings + of_reasoning + tools.warnings

    def _reasoning(self, body: ResponseBody) -> tuple[dict[str, Any], list[str]]:
        asked = body.reasoning
        if asked is None:
            return {}, []
        variables: dict[str, Any] = {}
        warnings: list[str] = []
        if asked.effort is not None:
            variables, warnings = self._controls.effort(asked.effort, param="reasoning.effort")
        if asked.summary not in (None, "none") or asked.generate_summary is not None:
            warnings.append("reasoning.summary: no summaries are made; reasoning comes as it is")
        return variables, warnings


def _format(text: TextConfig) -> dict[str, Any] | None:
    wanted = text.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    if wanted.schema_ is None:
        message = "text.format.schema: a format of this type needs it"
        raise RequestError(message, param="text.format.schema")
    schema = wanted.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
    return {"type": "json_schema", "json_schema": {"name": "answer", **schema}}
