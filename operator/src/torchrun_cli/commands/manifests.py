"""What the commands that read a manifest share: their options, and how the manifest is found and read."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Command

if TYPE_CHECKING:
    from torchrun_cli.template.manifest import Manifest, Source

STDIN = "-"
SAMPLE = "sample:"
_VALUE = re.compile(r"[A-Za-z_][\w.-]*=", re.ASCII)


class _File(click.Path):
    """A file, or a sample: shells complete both."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the samples if the word begins as they do, else let the shell complete files."""
        if not incomplete or not SAMPLE.startswith(incomplete[: len(SAMPLE)]):
            return super().shell_complete(ctx, param, incomplete)
        from torchrun_cli.samples import every  # noqa: PLC0415

        names = [(f"{SAMPLE}{sample.name}", sample.title) for sample in every()]
        return [CompletionItem(name, help=title) for name, title in names if name.startswith(incomplete)]


@dataclass(frozen=True)
class Request:
    """Which manifest the user wants, and with which values."""

    file: str
    assignments: tuple[tuple[str, str], ...] = ()
    """Options and their values in the order of the command line: `--set`, `--set-string`, `--values`."""
    name: str | None = None
    generate_name: str | None = None
    local_dir: str | None = None


class ManifestCommand(Command):
    """A command that takes several values after one --set, as in `--set a=1 b=2`, and keeps their order."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments. The values go to `ctx.meta`."""
        words = list(_one_by_one(args))
        ctx.meta[__name__] = tuple(_assignments(words))
        return super().parse_args(ctx, words)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 click's own
        """Run the command with the request as `request`."""
        names = ("file", "name", "generate_name", "local_dir")
        given = {name: ctx.params.pop(name, None) for name in names}
        for name in ("set_", "set_string", "values"):
            ctx.params.pop(name, None)
        if given["name"] and given["generate_name"]:
            raise click.UsageError("write either --name or --generate-name, not both", ctx)
        ctx.params["request"] = Request(assignments=ctx.meta[__name__], **given)
        return super().invoke(ctx)


def manifest_command(name: str | None = None, *, examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return the decorator for a command that reads a manifest. It receives a Request as `request`."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        for option in (
            click.option(
                "--local-dir", metavar="DIR", help="The directory that localPath may read (default: that of FILE)."
            ),
            click.option(
                "--generate-name", metavar="PREFIX", help="Let the API server append five letters to this name."
            ),
            click.option("--name", metavar="NAME", help="The name of the job, instead of the one in the manifest."),
            click.option("--values", multiple=True, metavar="FILE", help="A YAML file with values of the template."),
            click.option(
                "--set-string", multiple=True, metavar="NAME=VALUE", help="As --set, but the value is always a text."
            ),
            click.option(
                "--set",
                "set_",
                multiple=True,
                metavar="NAME=VALUE",
                help="A value of the template, as YAML reads it. Several may follow: --set a=1 b=2.",
            ),
            click.argument("file", metavar="FILE", type=_File()),
        ):
            function = option(function)
        return click.command(name, cls=ManifestCommand, examples=examples)(function)

    return decorate


def load_request(request: Request) -> "Manifest":
    """Read and render the manifest; notes go to stderr. Raises CliError that says what is wrong, and where."""
    from torchrun_cli.template.manifest import Naming, load  # noqa: PLC0415 needs yaml

    manifest = load(_source(request), list(_settings(request)), Naming(request.name, request.generate_name))
    for note in manifest.notes:
        click.echo(f"note: {note}", err=True)
    return manifest


def _one_by_one(args: Sequence[str]) -> Iterator[str]:
    """Repeat the option before each further value: `--set a=1 b=2` becomes `--set a=1 --set b=2`."""
    option, rest = "", iter(args)
    for word in rest:
        if word == "--":
            yield word
            yield from rest
        elif word in ("--set", "--set-string"):
            option = word
            yield word
            yield next(rest, "")
        elif option and _VALUE.match(word):
            yield option
            yield word
        else:
            option = ""
            yield word


def _assignments(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        option, separator, value = word.partition("=")
        if word == "--":
            return
        if option in ("--set", "--set-string", "--values"):
            yield option, value if separator else next(rest, "")


def _settings(request: Request) -> Iterator[Any]:
    from torchrun_cli.template.local import read_input  # noqa: PLC0415 needs yaml
    from torchrun_cli.template.values import parse_set, read_values  # noqa: PLC0415 needs yaml

    # Values on the command line win over those of files, wherever they stand.
    for option, value in request.assignments:
        if option == "--values":
            yield from read_values(read_input(Path(value), 2**20), value)
    for option, value in request.assignments:
        if option != "--values":
            yield parse_set(value, option)


def _source(request: Request) -> "Source":
    from torchrun_cli.samples import find  # noqa: PLC0415
    from torchrun_cli.template.local import read_input  # noqa: PLC0415 needs yaml
    from torchrun_cli.template.manifest import MOST_MANIFEST_BYTES, Source  # noqa: PLC0415 needs yaml

    directory = Path(request.local_dir) if request.local_dir else None
    if request.file == STDIN:
        if sys.stdin.isatty():
            click.echo("reading the manifest from stdin", err=True)
        text = sys.stdin.read(MOST_MANIFEST_BYTES + 1)
        if len(text) > MOST_MANIFEST_BYTES:
            raise CliError(f"the manifest on stdin has more than {MOST_MANIFEST_BYTES // 2**20} MiB", Exit.USAGE)
        return Source(text, "stdin", directory)
    path = find(request.file.removeprefix(SAMPLE)).manifest if request.file.startswith(SAMPLE) else Path(request.file)
    name = request.file if request.file.startswith(SAMPLE) else str(path)
    return Source(read_input(path, MOST_MANIFEST_BYTES), name, directory or path.parent)
