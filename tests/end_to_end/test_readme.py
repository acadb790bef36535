"""The README's examples, run as they stand against the model that ships."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

README = Path(__file__).resolve().parents[2] / "README.md"
ADDRESS = "http://127.0.0.1:8000"


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    return next(b for b in blocks if containing in b)


def test_the_curl_and_the_client_of_the_readme(start: Any) -> None:
    server = start().wait_ready()
    curl = block("sh", "curl")
    body = json.loads(re.search(r"-d '(.*)'", curl, re.DOTALL)[1])  # type: ignore[index]
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    text = answer["choices"][0]["message"]["content"]
    assert "--model" in text
    assert answer["choices"][0]["finish_reason"] == "stop"

    code = block("python", "OpenAI(").replace(ADDRESS, server.url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "length" in done.stdout or "tokens" in done.stdout
