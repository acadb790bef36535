"""The built-in parsers of answers: tool calls, by how models write them, and reasoning."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.parsers import ReasoningParser, ToolParser

_HERE = "maxserve.plugins.parsers"
_HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|call|>", "<|return|>")


@hookimpl
def maxserve_tool_parsers() -> Iterable[ToolParser]:
    yield ToolParser(
        name="gpt_oss",
        build=f"{_HERE}.harmony:HarmonyCalls",
        recognises=f"{_HERE}.harmony:recognises",
        markers=_HARMONY,
        summary="<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>: GPT-OSS",
    )
    yield ToolParser(
        name="hermes",
        build=f"{_HERE}.hermes:Hermes",
        recognises=f"{_HERE}.templates:hermes",
        markers=("<tool_call>", "</tool_call>"),
        summary="<tool_call>{…}</tool_call>: Hermes, Qwen 2.5 and 3",
    )
    yield ToolParser(
        name="llama3_json",
        build=f"{_HERE}.llama3:Llama3",
        recognises=f"{_HERE}.templates:llama3",
        markers=("<|python_tag|>",),
        summary='{"name": …, "parameters": {…}}, several with ; between: Llama 3.1 to 3.3',
    )
    yield ToolParser(
        name="mistral",
        build=f"{_HERE}.mistral:Mistral",
        recognises=f"{_HERE}.templates:mistral",
        markers=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"),
        summary="[TOOL_CALLS][{…}] or [TOOL_CALLS]name[ARGS]{…}: Mistral",
    )
    yield ToolParser(
        name="pythonic",
        build=f"{_HERE}.pythonic:Pythonic",
        recognises=f"{_HERE}.templates:pythonic",
        markers=("<|python_start|>", "<|python_end|>", "<|tool_call_start|>", "<|tool_call_end|>"),
        summary="[f(a=1), g()]: Llama 3.2, ToolACE, LFM2, OLMo 3",
    )
    yield ToolParser(
        name="qwen3_coder",
        build=f"{_HERE}.qwen3_coder:Qwen3Coder",
        recognises=f"{_HERE}.templates:qwen3_coder",
        markers=("<tool_call>", "</tool_call>"),
        summary="<tool_call><function=f><parameter=a>…: Qwen3-Coder, Qwen3.5",
    )
    yield ToolParser(
        name="deepseek_v3",
        build=f"{_HERE}.deepseek_v3:DeepSeekV3",
        recognises=f"{_HERE}.deepseek_v3:recognises",
        markers=(
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁end｜>",
            "<｜tool▁call▁begin｜>",
            "<｜tool▁call▁end｜>",
            "<｜tool▁sep｜>",
        ),
        summary="<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}, and with a code fence: DeepSeek V3, R1, V3.1",
    )
    yield ToolParser(
        name="deepseek_v32",
        build=f"{_HERE}.invoke:DeepSeekV32",
        recognises=f"{_HERE}.invoke:deepseek_v32",
        markers=("｜DSML｜",),
        summary="<｜DSML｜invoke name=…><｜DSML｜parameter name=…>: DeepSeek V3.2, V4",
    )
    yield ToolParser(
        name="gemma3",
        build=f"{_HERE}.gemma:Gemma3",
        recognises=f"{_HERE}.gemma:gemma3",
        markers=("<start_function_call>", "<end_function_call>", "<escape>"),
        summary="<start_function_call>call:f{a:<escape>…<escape>}, or a tool_code fence: FunctionGemma, Gemma 3",
    )
    yield ToolParser(
        name="gemma4",
        build=f"{_HERE}.gemma:Gemma4",
        recognises=f"{_HERE}.gemma:gemma4",
        markers=("<|tool_call>", "<tool_call|>", '<|"|>'),
        summary='<|tool_call>call:f{a:<|"|>…<|"|>}<tool_call|>: Gemma 4',
    )
    yield ToolParser(
        name="glm45",
        build=f"{_HERE}.glm45:Glm45",
        recognises=f"{_HERE}.glm45:recognises",
        markers=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        summary="<tool_call>f<arg_key>a</arg_key><arg_value>…</arg_value></tool_call>: GLM 4.5 to 4.7",
    )
    yield ToolParser(
        name="granite",
        build=f"{_HERE}.marked_json:Granite",
        recognises=f"{_HERE}.marked_json:granite",
        markers=("<|tool_call|>", "<tool_call>", "</tool_call>"),
        summary="<|tool_call|>[{…}]: Granite 3",
    )
    yield ToolParser(
        name="kimi_k2",
        build=f"{_HERE}.kimi_k2:KimiK2",
        recognises=f"{_HERE}.kimi_k2:recognises",
        markers=(
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            "<|tool_call_begin|>",
            "<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
        summary="<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}: Kimi K2",
    )
    yield ToolParser(
        name="llama4",
        build=f"{_HERE}.llama4:Llama4",
        recognises=f"{_HERE}.llama4:recognises",
        markers=("<|python_start|>", "<|python_end|>"),
        summary="<|python_start|>[f(a=1)] or {…}, also without the marker: Llama 4",
    )
    yield ToolParser(
        name="minimax_m2",
        build=f"{_HERE}.invoke:MiniMaxM2",
        recognises=f"{_HERE}.invoke:minimax_m2",
        markers=("<minimax:tool_call>", "</minimax:tool_call>"),
        summary="<minimax:tool_call><invoke name=…><parameter name=…>: MiniMax M2",
    )
    yield ToolParser(
        name="phi4",
        build=f"{_HERE}.marked_json:Phi4",
        recognises=f"{_HERE}.marked_json:phi4",
        markers=("<|tool_call|>", "<|/tool_call|>"),
        summary="<|tool_call|>[{…}]<|/tool_call|> or functools[{…}]: Phi-4-mini, FireFunction 2",
    )
    yield ToolParser(
        name="seed_oss",
        build=f"{_HERE}.seed_oss:SeedOss",
        recognises=f"{_HERE}.seed_oss:recognises",
        markers=("<seed:tool_call>", "</seed:tool_call>"),
        summary="<seed:tool_call><function=f><parameter=a>…: Seed-OSS",
    )
    yield ToolParser(
        name="tool_call_list",
        build=f"{_HERE}.marked_json:ToolCallList",
        recognises=f"{_HERE}.marked_json:tool_call_list",
        markers=("<TOOLCALL>", "</TOOLCALL>", "<tool_calls>", "</tool_calls>"),
        summary="<TOOLCALL>[{…}]</TOOLCALL>, <tool_calls>…: Nemotron Nano, Apriel, MiniMax-M1",
    )
    yield ToolParser(
        name="json",
        build=f"{_HERE}.plain_json:PlainJson",
        recognises=f"{_HERE}.templates:any_tools",
        summary="objects with the name of a tool and its arguments, also in arrays and code fences",
    )


@hookimpl
def maxserve_reasoning_parsers() -> Iterable[ReasoningParser]:
    yield ReasoningParser(
        name="gpt_oss",
        build=f"{_HERE}.harmony:HarmonyReasoning",
        thoughts=f"{_HERE}.harmony:thoughts",
        recognises=f"{_HERE}.harmony:recognises",
        markers=_HARMONY,
        summary="the analysis channel of harmony; final and commentary are content: GPT-OSS",
    )
    yield ReasoningParser(
        name="think",
        build=f"{_HERE}.think:Think",
        thoughts=f"{_HERE}.think:Think.thoughts",
        recognises=f"{_HERE}.templates:think",
        markers=("<think>", "</think>"),
        summary="<think>…</think>, also where the template writes the first tag",
    )
    yield ReasoningParser(
        name="mistral",
        build=f"{_HERE}.think_tags:MistralThink",
        thoughts=f"{_HERE}.think_tags:MistralThink.thoughts",
        recognises=f"{_HERE}.think_tags:mistral",
        markers=("[THINK]", "[/THINK]"),
        summary="[THINK]…[/THINK]: Magistral, Ministral",
    )
    yield ReasoningParser(
        name="seed_oss",
        build=f"{_HERE}.think_tags:SeedOssThink",
        thoughts=f"{_HERE}.think_tags:SeedOssThink.thoughts",
        recognises=f"{_HERE}.think_tags:seed_oss",
        markers=("<seed:think>", "</seed:think>"),
        summary="<seed:think>…</seed:think>: Seed-OSS",
    )
    yield ReasoningParser(
        name="deepseek",
        build=f"{_HERE}.think_tags:DeepSeekThink",
        thoughts=f"{_HERE}.think_tags:DeepSeekThink.thoughts",
        recognises=f"{_HERE}.think_tags:deepseek",
        markers=("<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "｜DSML｜"),
        summary="<think>…</think>, also ended by tool calls: DeepSeek R1, V3.1 to V4",
    )
    yield ReasoningParser(
        name="kimi_k2",
        build=f"{_HERE}.think_tags:KimiK2Think",
        thoughts=f"{_HERE}.think_tags:KimiK2Think.thoughts",
        recognises=f"{_HERE}.think_tags:kimi_k2",
        markers=("<think>", "</think>", "<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        summary="<think>…</think>, also ended by tool calls: Kimi K2 Thinking",
    )
    yield ReasoningParser(
        name="gemma4",
        build=f"{_HERE}.think_tags:Gemma4Think",
        thoughts=f"{_HERE}.think_tags:Gemma4Think.thoughts",
        recognises=f"{_HERE}.think_tags:gemma4",
        markers=("<|channel>", "<channel|>"),
        summary="<|channel>thought…<channel|>: Gemma 4",
    )
    yield ReasoningParser(
        name="granite",
        build=f"{_HERE}.granite_reasoning:GraniteReasoning",
        thoughts=f"{_HERE}.granite_reasoning:GraniteReasoning.thoughts",
        recognises=f"{_HERE}.granite_reasoning:recognises",
        markers=("<think>", "</think>", "<response>", "</response>"),
        summary="<think>…</think><response>…</response>, or sentences before each: Granite 3.2 and 3.3",
    )
    yield ReasoningParser(
        name="think_from_start",
        build=f"{_HERE}.think:from_start",
        thoughts=f"{_HERE}.think:thoughts_from_start",
        markers=("<think>", "</think>"),
        summary="…</think>: models that leave out the first tag, so that every answer begins as reasoning",
    )
