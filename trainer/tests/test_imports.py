"""Importing the library does nothing else; taking a public name from it prepares the process."""

import subprocess
import sys

import pytest

STATE = """
import atexit, signal, sys, threading
def state():
    hook = getattr(sys.excepthook, "records_errors", False)
    return hook, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, threading.active_count(), atexit._ncallbacks()
import torch, torch.distributed, torch.utils.data
before = state()
"""
IMPORT_ALL = """
import importlib, pkgutil, torchrun_trainer
for module in pkgutil.walk_packages(torchrun_trainer.__path__, "torchrun_trainer."):
    if module.name.rpartition(".")[2] not in ("lightning", "transformers", "sharded"):
        importlib.import_module(module.name)
print(state() == before)
"""
TAKE_A_NAME = """
from torchrun_trainer import GlobalBatches
hook, default, threads, handlers = state()
print((hook, default, threads, handlers - before[-1]))
"""


@pytest.mark.torch
@pytest.mark.parametrize(
    ("script", "output"),
    [(IMPORT_ALL, "True"), (TAKE_A_NAME, "(True, True, 1, 1)")],
    ids=["imports", "a public name"],
)
def test_only_a_public_name_prepares_the_process(script: str, output: str) -> None:
    command = [sys.executable, "-c", STATE + script]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{output}\n"
