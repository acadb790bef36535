from __future__ import annotations

import pytest
import torch

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.loading.device import choose_device

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("gpus")
def test_a_gpu_is_taken_when_there_is_one() -> None:
    assert choose_device("default") == choose_device("gpu") == torch.device("cuda", 0)
    assert choose_device("gpu:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU
    with pytest.raises(SettingsError, match=r"gpu:2: there is no such GPU; this machine has gpu:0, gpu:1"):
        choose_device("gpu:2")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_there_is_the_cpu() -> None:
    assert choose_device("default") == choose_device("cpu") == CPU
    with pytest.raises(SettingsError, match="no usable GPU; use --devices cpu"):
        choose_device("gpu")
