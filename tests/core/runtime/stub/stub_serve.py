"""`python stub_serve.py FOLDER ENGINE SETTINGS GRACE`: serves an engine of stub_engine.py as `max serve` would."""

from __future__ import annotations

import json
import sys

from maxserve.core.config import Settings
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.runtime import supervisor
from maxserve.core.runtime.launch import serve
from maxserve.plugins.commands.show import describe

DIALECTS = ("openai", "anthropic", "sagemaker", "kserve", "embeddings", "audio", "rerank", "admin")
OTHER_ROUTES = tuple(
    f"builtin.{name}" for name in DIALECTS
)  # whose imports take most of a start, and serve nothing here


def main(folder: str, engine: str, changes: str, grace: str) -> int:
    supervisor.FIRST_DELAY = 0.05
    if grace:
        from maxserve.core.runtime import serving

        serving.GRACE = float(grace)
    server = {"port": 0, "enable_routes": ["stub_routes"], **json.loads(changes)}
    settings = Settings.model_validate({"model": {"model_path": folder}, "server": server})
    host = PluginHost.discover(PluginOptions(plugin=("stub_routes",), no_plugin=OTHER_ROUTES), strict=True)
    return serve(
        settings, host, engine=f"stub_engine:{engine}", notes=describe(settings, sections=host.plugin_sections())
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
