"""`kubectl torchrun timeline`."""

from pathlib import Path

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.events import events_of
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.timeline import timeline as timeline_of
from torchrun_cli.show.timeline_lines import timeline_lines
from torchrun_cli.terminal import now, paint, say, width


@command(
    examples="""
    kubectl torchrun timeline digits
    kubectl torchrun timeline digits --svg digits.svg
    """,
)
@click.argument("name")
@click.option("--svg", metavar="FILE", help="Write the picture to this file; - for the standard output.")
@target_options
def timeline(target: Target, name: str, svg: str | None) -> None:
    """Show the life of a job as a picture: training, losses, pauses.

    Below the bar are the nodes of each round and the steps over time. The phases come from the events of the job, which
    the cluster keeps for an hour or so; the last 20 rounds come from its status.
    """
    client = connect(target)
    found = timeline_of(client.get(JOBS, name), events_of(client, name, job_only=True), now())
    if svg is None:
        say(timeline_lines(found, paint=paint(), width=width()))
        return
    from torchrun_cli.show.timeline_svg import timeline_svg  # noqa: PLC0415 only --svg needs it

    picture = timeline_svg(found)
    if svg == "-":
        click.echo(picture, nl=False)
        return
    try:
        Path(svg).write_text(picture, encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot write {svg}: {error.strerror}", Exit.USAGE) from error
