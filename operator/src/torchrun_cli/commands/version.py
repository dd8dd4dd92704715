"""`kubectl torchrun version`."""

import click

from torchrun_cli.options import command


@command(examples="kubectl torchrun version")
def version() -> None:
    """Print the version of this program."""
    from importlib.metadata import version as version_of  # noqa: PLC0415 only this command needs it

    click.echo(version_of("torchrun-operator"))
