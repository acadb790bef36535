"""Compiled products read no memory beyond what they are given and make: they run where that ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(sys.platform != "linux", reason="allocations are replaced as the dynamic linker of Linux does"),
]

PROGRAM = """
import ctypes, os, sys
guard = ctypes.CDLL(os.environ["LD_PRELOAD"]).guard_memory
import torch
from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.linear import PanelMethod
from maxserve.testing.codes import CODES, random_codes

torch.set_num_threads(1)
outputs, inputs = 40, 256

def method(precision):
    sections = {Config: Config(precision=precision)}
    return PanelMethod(LinearContext(compute=torch.float32, device=torch.device("cpu"), sections=sections))

def weights(precision):
    for kind in CODES:
        codes = random_codes(kind, outputs, inputs)
        made = method(precision).create_codes(outputs, inputs, [codes.layout])
        made.load_codes(codes, 0)
        yield kind, made
    for dtype in (torch.float32, torch.bfloat16):
        made = method(precision).create(outputs, inputs, dtype)
        made.load_rows(torch.randn(outputs, inputs).to(dtype), 0)
        yield dtype, made

for name, made in weights(sys.argv[1]):
    print(name, flush=True)
    guard(1)
    for rows in (*range(1, 18), 33):
        for options in ({}, {"many": True}) if isinstance(name, str) else ({},):
            made.multiply(torch.randn(rows, inputs), None, **options)
    guard(0)
if len(sys.argv) > 2:
    guard(1)
    beyond = torch.ones(1000)
    print(ctypes.c_float.from_address(beyond.data_ptr() + 4096).value)
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("guarded") / "guarded_memory.so"
    source = Path(__file__).with_name("guarded_memory.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def run(guarded: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "faulthandler", "-c", PROGRAM, *arguments]
    return subprocess.run(command, env={**os.environ, "LD_PRELOAD": str(guarded)}, capture_output=True, text=True)


@pytest.mark.parametrize("precision", ["auto", "exact", "fast"])
def test_products_stay_within_their_memory(precision: str, guarded: Path) -> None:
    done = run(guarded, precision)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_reads_beyond_is_ended(guarded: Path) -> None:
    done = run(guarded, "auto", "beyond")
    assert done.returncode < 0, done.stdout
    assert "bfloat16" in done.stdout
