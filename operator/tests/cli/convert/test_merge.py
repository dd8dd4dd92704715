"""Many tasks become one: texts that differ by the number of the node."""

import pytest

from torchrun_cli.convert.marks import INDEX, OFFSET, expression
from torchrun_cli.convert.merge import Merged, merge

CASES = {
    "same": (["a", "a", "a"], Merged("a")),
    "index": (["n --rank 0", "n --rank 1", "n --rank 2"], Merged(f"n --rank {INDEX}")),
    "index in a word": (["log-0.txt", "log-1.txt"], Merged(f"log-{INDEX}.txt")),
    "offset": (["--first 0", "--first 8", "--first 16"], Merged(f"--first {OFFSET}")),
    "both": (["0 of 0", "1 of 8"], Merged(f"{INDEX} of {OFFSET}")),
    "more than ten": ([f"n{i}" for i in range(12)], Merged(f"n{INDEX}")),
    "other numbers": (["p 5", "p 6", "p 7"], Merged(None, "p 5")),
    "lead differs": (["prepare && run", "run", "run"], Merged("run", "prepare && run")),
    "lead differs, others by number": (["lead", "w 1", "w 2"], Merged(f"w {INDEX}", "lead")),
    "all differ": (["a", "b", "c"], Merged(None, "a")),
    "expressions": ([f"{expression(1)} 0", f"{expression(1)} 1"], Merged(f"{expression(1)} {INDEX}")),
    "other expressions": ([expression(0), expression(1), expression(1)], Merged(expression(1), expression(0))),
    "one": (["a 0"], Merged("a 0")),
    "leading zeros are text": (["n 00", "n 01"], Merged("n 01", "n 00")),
}


@pytest.mark.parametrize(("texts", "merged"), CASES.values(), ids=CASES)
def test_texts_are_merged(texts: list[str], merged: Merged) -> None:
    assert merge(texts, 8) == merged
