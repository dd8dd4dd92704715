"""Ten lines make a plain DistributedDataParallel script elastic, and its results stay the same."""

import difflib
import re
from pathlib import Path

import pytest

from support import agents

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "e2e/examples/plain_ddp"
GUIDE = ROOT / "docs/how-to/make-a-script-elastic.md"


def lines(script: str) -> list[str]:
    return [line for line in (EXAMPLE / script).read_text().splitlines() if line.strip()]


def test_ten_lines_change() -> None:
    """A line that replaces another counts once; blank lines do not count."""
    before, after = lines("before.py"), lines("after.py")
    changes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in changes if kind != "equal")
    assert 0 < changed <= 10


def test_the_guide_shows_these_lines() -> None:
    before, after = ((EXAMPLE / name).read_text().splitlines() for name in ("before.py", "after.py"))
    diff = [line for line in difflib.unified_diff(before, after, n=2) if not line.startswith(("---", "+++", "@@"))]
    shown = re.search(r"```diff\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert shown
    assert shown[1].splitlines() == diff


def torchrun(script: str, workers: int, directory: Path) -> float:
    """Run the script; return its final error."""
    command = [str(EXAMPLE / script), "--total-epochs=4", "--save-every=2", "--batch-size=64"]
    command += [f"--snapshot-path={directory / 'snapshot.pt'}"]
    error = re.search("error=(.*)", agents.output(command, workers))
    assert error
    return float(error[1])


@pytest.mark.torch
def test_both_scripts_arrive_at_the_same_error(tmp_path: Path) -> None:
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    error = torchrun("before.py", 1, tmp_path / "before")
    assert 0 < error < 0.15  # it begins with 0.27
    assert torchrun("after.py", 3, tmp_path / "after") == pytest.approx(error, rel=1e-5)  # 64 in uneven shares
