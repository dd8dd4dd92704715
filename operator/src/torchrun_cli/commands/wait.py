"""`kubectl torchrun wait`."""

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.jobs import done
from torchrun_cli.cluster.waiting import DELETED, wait_for, wish_of
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.times import seconds_of


@command(
    examples="""
    kubectl torchrun wait digits
    kubectl torchrun wait digits --for=running --timeout=5m
    kubectl torchrun wait digits --for=condition=Resizing=False
    kubectl torchrun wait digits --for=deleted
    """,
)
@click.argument("name")
@click.option(
    "--for",
    "wish",
    default="complete",
    show_default=True,
    help="complete, running, suspended, deleted, condition=TYPE or condition=TYPE=STATUS.",
)
@click.option("--timeout", metavar="DURATION", help="Give up after this time: 90s, 5m, 2h. Default: no limit.")
@target_options
def wait(target: Target, name: str, wish: str, timeout: str | None) -> None:
    """Wait until a job is complete, runs, or has a condition.

    Exit with 1 if the job ends without it, with 124 when the time is over.
    """
    wished = wish_of(wish)
    seconds = seconds_of(timeout) if timeout is not None else None
    wait_for(connect(target), name, wished, seconds=seconds, absence=wish == DELETED)
    click.echo(done(name, "deleted" if wish == DELETED else "condition met"))
