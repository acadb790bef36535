"""The built-in plugins, by name: what the package `maxserve` ships. The core imports none of them itself."""

from __future__ import annotations

# (plugin name, module that declares it)
BUILTINS: tuple[tuple[str, str], ...] = (
    ("builtin.architectures", "maxserve.architectures"),
    ("builtin.transformers", "maxserve.plugins.transformers"),
    ("builtin.tokenizers", "maxserve.plugins.tokenizers"),
    ("builtin.samplers", "maxserve.samplers"),
    ("builtin.cache", "maxserve.plugins.cache"),
    ("builtin.schedulers", "maxserve.plugins.schedulers"),
    ("builtin.attention", "maxserve.plugins.attention"),
    ("builtin.runners", "maxserve.plugins.runners"),
    ("builtin.executors", "maxserve.plugins.executors"),
    ("builtin.replicas", "maxserve.plugins.replicas"),
    ("builtin.native", "maxserve.plugins.cpu"),
    ("builtin.safetensors", "maxserve.plugins.safetensors"),
    ("builtin.gguf", "maxserve.plugins.gguf"),
    ("builtin.quantization", "maxserve.plugins.quantization"),
    ("builtin.cuda", "maxserve.plugins.cuda"),
    ("builtin.speculation", "maxserve.plugins.speculation"),
    ("builtin.huggingface", "maxserve.plugins.huggingface"),  # of sources the last are asked first: it downloads
    ("builtin.lora", "maxserve.plugins.lora"),
    ("builtin.parsers", "maxserve.plugins.parsers"),
    ("builtin.grammar", "maxserve.plugins.grammar"),
    ("builtin.uvicorn", "maxserve.plugins.uvicorn"),
    ("builtin.middleware", "maxserve.plugins.middleware"),
    ("builtin.conversations", "maxserve.plugins.api.common"),
    ("builtin.openai", "maxserve.plugins.api.openai"),
    ("builtin.anthropic", "maxserve.plugins.api.anthropic"),
    ("builtin.sagemaker", "maxserve.plugins.api.sagemaker"),
    ("builtin.kserve", "maxserve.plugins.api.kserve"),
    ("builtin.embeddings", "maxserve.plugins.embeddings"),
    ("builtin.audio", "maxserve.plugins.audio"),
    ("builtin.vision", "maxserve.plugins.vision"),
    ("builtin.rerank", "maxserve.plugins.embeddings.rerank"),
    ("builtin.admin", "maxserve.plugins.api.admin"),
    ("builtin.observers", "maxserve.plugins.observers"),
    ("builtin.profiling", "maxserve.plugins.profiling"),
    ("builtin.console", "maxserve.plugins.console"),
    ("builtin.commands", "maxserve.plugins.commands"),
    ("builtin.demo", "maxserve.plugins.demo"),
)
