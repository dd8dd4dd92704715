"""The digits example learns on any number of workers."""

import re
from pathlib import Path

import pytest

from support import agents

EXAMPLE = Path(__file__).parents[2] / "e2e/examples/digits"


@pytest.mark.torch
def test_digits_are_learnt_by_two_workers(tmp_path: Path) -> None:
    command = [str(EXAMPLE / "train.py"), "--total-epochs=15", f"--snapshot-path={tmp_path}"]
    accuracy = re.search(r"accuracy=(.*)", agents.output(command, 2))
    assert accuracy
    assert float(accuracy[1]) >= 0.95
