"""The digits example learns on any number of workers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "e2e/examples/digits"


@pytest.mark.torch
def test_digits_are_learnt_by_two_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(EXAMPLE / "train.py"), "--total-epochs=15", f"--snapshot-path={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    accuracy = re.search(r"accuracy=(.*)", result.stdout)
    assert accuracy
    assert float(accuracy[1]) >= 0.95
