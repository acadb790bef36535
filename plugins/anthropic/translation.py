"""How does a request for a message become the body of a chat?"""

from __future__ import annotations

from typing import Any

from maxserve.core.answers.answering import Answering
from maxserve.core.answers.bodies import ChatBody
from maxserve.core.answers.thinking import ThinkingControls
from maxserve.core.answers.translation import Translator
from maxserve.core.errors import RequestError
from maxserve.plugins.anthropic.bodies import CountBody, MessageBody, OutputConfig, Thinking, Tool, ToolChoice
from maxserve.plugins.anthropic.conversation import messages_of

HOTTEST = 1.0  # Anthropic's temperatures end here


class MessageTranslation:
    """Makes chat bodies of messages, with warnings about what cannot be done as asked."""

    def __init__(self, answering: Answering) -> None:
        self._translator = Translator(answering, ChatBody)
        self._controls = ThinkingControls.of(answering.context.template)

    def chat_body(self, body: CountBody) -> tuple[ChatBody, list[str]]:
        """The chat body and the warnings. RequestError for what is refused."""
        _check_temperature(getattr(body, "temperature", None))
        variables, warnings = self._thinking(body)
        said = {
            "model": body.model,
            "messages": messages_of(body),
            "continue_final_message": True if body.messages[-1].role == "assistant" else None,
            "chat_template_kwargs": {**(body.chat_template_kwargs or {}), **variables} or None,
            **_tools(body),
            **_format(body.output_config),
            **(_limits(body) if isinstance(body, MessageBody) else {}),
        }
        # Nothing but the prompt counts when tokens are counted.
        chat = self._translator.body(said, body if isinstance(body, MessageBody) else None)
        return chat, self._translator.warnings(body) + warnings

    def _thinking(self, body: CountBody) -> tuple[dict[str, Any], list[str]]:
        """The chat template's variables, and warnings; an effort alone thinks as it says."""
        variables: dict[str, Any] = {}
        warnings: list[str] = []
        if body.thinking is not None:
            _check_budget(body.thinking, body)
            on = body.thinking.type != "disabled"
            variables, warnings = self._controls.switched(on, param="thinking")
            if body.thinking.budget_tokens is not None:
                warnings.append("thinking.budget_tokens: not enforced; max_tokens bounds thinking and answer together")
        if body.output_config is not None and body.output_config.effort is not None:
            more, said = self._controls.effort(body.output_config.effort, param="output_config.effort")
            variables, warnings = more | variables, warnings + said
        return variables, warnings


def _check_temperature(temperature: float | None) -> None:
    if temperature is not None and temperature > HOTTEST:
        raise RequestError(f"temperature: must be at most {HOTTEST:g}, got {temperature:g}", param="temperature")


def _check_budget(thinking: Thinking, body: CountBody) -> None:
    budget, param = thinking.budget_tokens, "thinking.budget_tokens"
    if thinking.type == "enabled" and budget is None:
        raise RequestError(f"{param}: needed when thinking is enabled", param=param)
    if budget is not None and isinstance(body, MessageBody) and budget >= body.max_tokens:
        raise RequestError(f"{param}: must be less than max_tokens, got {budget}", param=param)


def _limits(body: MessageBody) -> dict[str, Any]:
    return {
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences or None,
        "stream": body.stream,
        "user": body.metadata.user_id if body.metadata is not None else None,
    }


def _tools(body: CountBody) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if body.tools:
        said["tools"] = [_tool(index, tool) for index, tool in enumerate(body.tools)]
    if (choice := body.tool_choice) is not None:
        said["tool_choice"] = _choice(choice)
        if choice.disable_parallel_tool_use is not None:
            said["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return said


def _tool(index: int, tool: Tool) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        param = f"tools[{index}].type"
        message = f"{param}: tools of type {tool.type[:64]!r} are not supported; this server takes custom tools"
        raise RequestError(message, param=param, code="unsupported_parameter")
    if tool.input_schema is None:
        param = f"tools[{index}].input_schema"
        raise RequestError(f"{param}: a custom tool needs it", param=param)
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.type == "tool":
        if not choice.name:
            raise RequestError("tool_choice.name: needed when the type is tool", param="tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.type == "any" else choice.type


def _format(config: OutputConfig | None) -> dict[str, Any]:
    if config is None or config.format is None:
        return {}
    schema = {"name": "answer", "schema": config.format.schema_, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
