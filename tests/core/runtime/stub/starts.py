"""Start messages for tests of processes: no plugins, no model, an engine of stub_engine.py."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from maxserve.core.config import Settings
from maxserve.core.interfaces.engine import ModelFiles
from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.registry.host import Manifest, PluginHost
from maxserve.core.runtime.messages import Start

MANIFEST = Manifest(sources=())


def files_of(path: str = "") -> ModelFiles:
    return ModelFiles(
        ref="counter",
        path=path,
        config={},
        generation_config={},
        weights=(),
        encoding="float32",
        explicit_encoding=False,
        architecture="Counter",
    )


def start_of(endpoints: Endpoints, engine: str = "build", **changes: Any) -> Start:
    fields: dict[str, Any] = {
        "manifest": MANIFEST,
        "settings": Settings().model_dump_json(),
        "files": files_of(),
        "endpoints": endpoints,
        "search_path": tuple(sys.path),
        "parent": os.getpid(),
        "log_level": logging.INFO,
        "engine": f"stub_engine:{engine}",
    }
    return Start(**{**fields, **changes})


def fingerprint() -> str:
    return PluginHost.from_manifest(MANIFEST).fingerprint
