"""The command `convert`: files in and out."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from torchrun_cli.app import PROGRAM, app
from torchrun_cli.commands import convert as module

HERE = Path(__file__).parent
SOURCE = HERE / "trainjob/alone.yaml"
EXPECTED = (HERE / "trainjob/alone.expected.yaml").read_text()


def run(*args: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["convert", *args], prog_name=PROGRAM, input=stdin)


def test_the_manifest_goes_to_the_standard_output() -> None:
    shown = run(str(SOURCE))
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, EXPECTED, "")
    assert run("-", stdin=SOURCE.read_bytes()).stdout == EXPECTED


def test_the_manifest_goes_to_a_file(tmp_path: Path) -> None:
    target = tmp_path / "job.yaml"
    shown = run(str(SOURCE), "-o", str(target))
    lines = sum(line.strip().startswith("#") for line in EXPECTED.splitlines()) - 1
    assert target.read_text() == EXPECTED
    assert (shown.exit_code, shown.stdout, shown.stderr) == (
        0,
        "",
        f"{target} written; read its {lines} lines of comments\n",
    )


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "job.yaml"
    source.write_text(SOURCE.read_text())
    shown = run(str(source), "-o", str(source))
    assert (shown.exit_code, shown.stderr) == (
        2,
        f"error: {source} is the file to convert; write another name after -o\n",
    )
    assert source.read_text() == SOURCE.read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind: Job\xff", "is no UTF-8 text: byte 9 is 0xff"),
        (b"#" * (4 * 1024 * 1024 + 1), "has more than 4 MiB: no job is that large"),
        (None, "does not exist"),
    ],
)
def test_what_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    source = tmp_path / "a.yaml"
    if content is not None:
        source.write_bytes(content)
    shown = run(str(source))
    assert (shown.exit_code, shown.stderr, shown.stdout) == (2, f"error: {source} {message}\n", "")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert run(str(tmp_path)).stderr == f"error: {tmp_path} cannot be read: Is a directory\n"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "none" / "job.yaml"
    shown = run(str(SOURCE), "-o", str(target))
    assert (shown.exit_code, shown.stderr) == (1, f"error: {target} cannot be written: No such file or directory\n")


def test_a_template_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SECONDS", 0.2)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    shown = run("-", stdin=f"workflow:\n  name: a{loop}\n")
    assert (shown.exit_code, shown.stderr) == (
        2,
        "error: the conversion takes too long; look for a loop without end in the template\n",
    )
