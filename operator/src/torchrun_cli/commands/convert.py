"""`kubectl torchrun convert`."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import command

_MOST_BYTES = 4 * 1024 * 1024
_MOST_SECONDS = 20.0


@command(
    examples="""
    kubectl torchrun convert workflow.yaml -o job.yaml
    kubectl get pytorchjob mnist -o yaml | kubectl torchrun convert - > job.yaml
    """
)
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the manifest to this file."
)
def convert(file: str, output: Path | None) -> None:
    """Convert an OSMO workflow, a PyTorchJob or a TrainJob to a TorchrunJob.

    Reads FILE, or the standard input for `-`, and prints a manifest. What has no counterpart in a TorchrunJob becomes a
    comment that says what to do. Expressions of a template stay, where that is possible. Nothing is sent to a cluster.
    """
    from torchrun_cli.convert.convert import convert as converted  # noqa: PLC0415 only this command needs it

    text = _read(file)
    with _limited():
        manifest = converted(text, file)
    if output is None:
        click.echo(manifest, nl=False)
        return
    if file != "-" and output.exists() and output.samefile(file):
        raise CliError(f"{output} is the file to convert; write another name after -o", Exit.USAGE)
    try:
        output.write_text(manifest, encoding="utf-8")
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error.strerror}", Exit.FAILED) from error
    comments = sum(line.lstrip().startswith("# ") for line in manifest.splitlines()) - 1
    hint = f"; read its {comments} lines of comments" if comments else ""
    click.echo(f"{output} written{hint}", err=True)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Limit the time of a conversion, where the system can: a template may have loops without end."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_signal: int, _frame: object) -> None:
        raise CliError("the conversion takes too long; look for a loop without end in the template", Exit.USAGE)

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, _MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _read(file: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise CliError(f"{file} does not exist", Exit.USAGE) from error
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}", Exit.USAGE) from error
    if len(data) > _MOST_BYTES:
        raise CliError(f"{file} has more than {_MOST_BYTES // 1024**2} MiB: no job is that large", Exit.USAGE)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CliError(
            f"{file} is no UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}", Exit.USAGE
        ) from error
