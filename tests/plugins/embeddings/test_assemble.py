"""How an encoder's engine is bounded and what keeps it from starting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maxserve.core.config import resolve
from maxserve.core.interfaces.engine import EngineOptions
from maxserve.core.interfaces.errors import ModelError, PluginError
from maxserve.core.loading.model_loader import engine_context
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Host
from maxserve.plugins.embeddings import assemble as assemble_encoder
from maxserve.plugins.embeddings.assemble import step_tokens

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def build(folder: Path, host: Host | None = None, **options: Any) -> Any:
    host = host or PluginHost.discover(PluginOptions(autoload=False), strict=True)
    settings = resolve({"model_path": str(folder), **options}, environ={})
    files = resolve_model(settings.model, host, progress=NullProgress())
    return assemble_encoder.build(engine_context(settings, host, files, NullProgress()))


@pytest.mark.parametrize(
    ("typed", "device", "millions", "tokens"),
    [
        ({}, CPU, 1, 1024),
        ({}, CPU, 86, 128),
        ({}, CPU, 20, 500),
        ({"max_batch_input_tokens": 300}, CPU, 1, 300),
        ({"max_batch_input_tokens": 4096}, CPU, 86, 4096),
        ({}, GPU, 86, 8192),
    ],
)
def test_tokens_of_a_step(typed: dict[str, int], device: torch.device, millions: int, tokens: int) -> None:
    spec: Any = SimpleNamespace(vocab_size=1000, dim=1000)
    options = EngineOptions(name="tiny", **typed, chosen=frozenset(typed))
    assert step_tokens(options, spec, (millions + 1) * 1_000_000, device) == tokens


def test_what_is_known_of_the_model(encoder_folder: Callable[..., Path]) -> None:
    engine = build(encoder_folder(), max_batch_size=5)
    info = engine.info
    assert (info.task, info.architecture, info.max_length, info.max_batch_size) == (
        "embeddings_generation",
        "BertModel",
        48,
        5,
    )
    assert (info.vectors.size, info.vectors.normalized, info.vectors.sizes) == (32, True, None)
    assert engine.stats().steps == 0  # the warm-up is not counted
    assert not engine.busy
    assert engine.reset_prefix_cache() == 0


def test_a_model_that_does_not_fit_is_refused(
    encoder_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble_encoder, "free_memory", lambda device, index: 1 << 16)
    with pytest.raises(ModelError, match=r"the model does not fit: weights .* need more than the 57"):
        build(encoder_folder())


def test_strangers_models(
    encoder_folder: Callable[..., Path], plugin_folder: Any, plugin_host: Any, tmp_path: Path
) -> None:
    """A plugin of one file brings an encoder; one that builds something else is told what is missing."""
    plugin_folder.module(
        "acme_encoder",
        """
        from maxserve import Architecture, hookimpl
        from maxserve.architectures.encoders import HEADLESS
        from maxserve.architectures.bert import Model, config

        class Halved(Model):
            def forward(self, step):
                return super().forward(step) / 2

        @hookimpl
        def maxserve_architectures():
            common = {"config": config, "weights": HEADLESS, "task": "embeddings_generation"}
            yield Architecture(name="AcmeModel", build=Halved, **common)
            yield Architecture(name="OddModel", build=lambda config: object(), **common)
        """,
    )
    host = plugin_host("acme_encoder")
    plain = encoder_folder()
    for name in ("AcmeModel", "OddModel"):
        folder = tmp_path / name
        folder.mkdir()
        for file in plain.iterdir():
            if file.is_file():
                (folder / file.name).write_bytes(file.read_bytes())
        (folder / "modules.json").unlink()
        (folder / "config.json").write_text(
            json.dumps({**json.loads((plain / "config.json").read_text()), "architectures": [name]})
        )
    assert build(tmp_path / "AcmeModel", host).info.architecture == "AcmeModel"
    with pytest.raises(PluginError, match=r"built a object; build.config. must give a torch.nn.Module with prepare"):
        build(tmp_path / "OddModel", host)
