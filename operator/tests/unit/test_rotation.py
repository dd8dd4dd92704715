"""When the operator starts again because of a rotated file."""

import pytest

from torchrun_operator.process import rotation
from torchrun_operator.process.rotation import Rotation


class File:
    """A file with these contents, one after the other. None: there is nothing that can be used."""

    def __init__(self, contents: str) -> None:
        self._contents = list(contents)

    def __call__(self) -> bytes:
        if not self._contents:
            raise AssertionError("the change went unnoticed")
        now = self._contents.pop(0)
        if now == "-":
            raise OSError("gone")
        if now == "x":
            raise ValueError("too short")
        return now.encode()

    @property
    def left(self) -> str:
        return "".join(self._contents)


@pytest.mark.parametrize(
    ("key", "certificate", "changed", "warnings"),
    [
        ("ab.", "kkk", "key", 0),
        ("aaab.", "kkkk", "key", 0),
        ("aaa.", "kkl.", "certificate", 0),
        ("a-ab.", "kkkkk", "key", 1),
        ("axxxb.", "kkkkk", "key", 1),
        ("axax-b.", "kkkkkk", "key", 2),
        ("aab.", "-kk", "key", 0),  # outside a pod there is no certificate
    ],
)
async def test_the_first_file_with_other_content(
    key: str,
    certificate: str,
    changed: str,
    warnings: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(rotation, "_PERIOD_SECONDS", 0)
    files = {"key": File(key), "certificate": File(certificate)}
    assert await Rotation(files).wait() == changed
    assert files[changed].left == "."
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
