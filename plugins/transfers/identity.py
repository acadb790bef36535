"""What tells models apart whose keys and values must not be mixed."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

from maxserve.interfaces.engine import ModelFiles

SAMPLES = 64  # places of a file that are looked at
SAMPLE = 16 * 1024  # bytes each: all of a large checkpoint would take longer to read than to load


def model_digest(files: ModelFiles) -> str:
    """Of the config, how weights are served, and parts of them: their sizes, and what is at some places."""
    digest = blake2b(digest_size=12)
    how = [files.architecture, files.encoding, files.rounding]
    digest.update(json.dumps([files.config, how], sort_keys=True, default=str).encode())
    for path in sorted(files.weights, key=lambda path: Path(path).name):
        size = Path(path).stat().st_size
        digest.update(f"{Path(path).name} {size}".encode())
        with open(path, "rb") as file:
            for number in range(SAMPLES):
                file.seek(max(0, size - SAMPLE) * number // (SAMPLES - 1))
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()
