"""`kubectl torchrun samples`: the gallery in the package."""

import click

from torchrun_cli.options import Command, write_examples
from torchrun_cli.samples import every, find


class _Group(click.Group):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        write_examples("kubectl torchrun samples list\nkubectl torchrun samples show elastic-torchrun", formatter)


@click.group(cls=_Group)
def samples() -> None:
    """List and show the sample jobs of this program."""


@samples.command("list", cls=Command, examples="kubectl torchrun samples list")
def list_samples() -> None:
    """List the samples."""
    found = every()
    width = max(len(sample.name) for sample in found)
    for sample in found:
        click.echo(f"{sample.name.ljust(width)}  {sample.title}")


@samples.command(
    cls=Command,
    examples="""
    kubectl torchrun samples show elastic-torchrun
    kubectl torchrun samples show elastic-torchrun --file manifest.yaml > job.yaml
    """,
)
@click.argument("name")
@click.option("--file", metavar="FILE", help="Print this file of the sample, as it is.")
def show(name: str, file: str | None) -> None:
    """Print what a sample shows, its values, and the names of its files."""
    sample = find(name)
    if file:
        click.echo(sample.read(file), nl=False)
        return
    click.echo(sample.read("README.md"))
    click.echo(f"Files: {', '.join(sample.files())}; print one with --file NAME")
