"""The built-in plugins, by name. The core loads this tuple and imports none of them itself."""

from __future__ import annotations

# (plugin name, module that declares it)
BUILTINS: tuple[tuple[str, str], ...] = (
    ("builtin.architectures", "maxserve.architectures"),
    ("builtin.transformers", "maxserve.plugins.transformers"),
    ("builtin.samplers", "maxserve.samplers"),
    ("builtin.cache", "maxserve.plugins.cache"),
    ("builtin.schedulers", "maxserve.plugins.schedulers"),
    ("builtin.attention", "maxserve.plugins.attention"),
    ("builtin.native", "maxserve.plugins.native"),
    ("builtin.parsers", "maxserve.plugins.parsers"),
    ("builtin.grammar", "maxserve.plugins.grammar"),
    ("builtin.openai", "maxserve.plugins.openai"),
    ("builtin.anthropic", "maxserve.plugins.anthropic"),
    ("builtin.sagemaker", "maxserve.plugins.sagemaker"),
    ("builtin.kserve", "maxserve.plugins.kserve"),
    ("builtin.rerank", "maxserve.plugins.rerank"),
    ("builtin.admin", "maxserve.plugins.admin"),
    ("builtin.observers", "maxserve.plugins.observers"),
    ("builtin.demo", "maxserve.plugins.demo"),
)
