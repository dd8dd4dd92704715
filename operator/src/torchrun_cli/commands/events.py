"""`kubectl torchrun events`."""

from collections.abc import Iterator
from typing import Any

import click

from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.events import concerns, events_of
from torchrun_cli.cluster.resources import EVENTS, JOBS
from torchrun_cli.options import Target, command, output_option, target_options
from torchrun_cli.show.events import event_line, event_table
from torchrun_cli.show.objects import formatted
from torchrun_cli.terminal import now, paint, say, width


@command(
    examples="""
    kubectl torchrun events digits
    kubectl torchrun events digits --job-only
    kubectl torchrun events digits --watch
    """,
)
@click.argument("name")
@click.option("--job-only", is_flag=True, help="Leave out the events of the pods.")
@click.option("-w", "--watch", is_flag=True, help="Print new events as they come.")
@output_option()
@target_options
def events(target: Target, name: str, job_only: bool, watch: bool, output: str | None) -> None:
    """Show the events of a job and its pods, the newest last."""
    client = connect(target)
    job = client.find(JOBS, name)
    if watch:
        if output:
            raise click.UsageError("--watch goes with the table only: leave out --output")
        for event in _new_events(client, name, job_only):
            say([event_line(event, paint())])
        return
    found = events_of(client, name, job_only=job_only)
    if not found and job is None:
        client.get(JOBS, name)  # says that there is no such job
    if output:
        click.echo(formatted(found, output, many=True), nl=False)
    elif found:
        say(event_table(found, now(), paint=paint(), width=width()))
    else:
        click.echo(f"No events of {name} found. The cluster keeps events for an hour or so.", err=True)


def _new_events(client: Client, name: str, job_only: bool) -> Iterator[dict[str, Any]]:
    from torchrun_cli.cluster.follow import Feed  # noqa: PLC0415 the table does not need it

    feed = Feed(client, EVENTS, client.namespace)
    for change in feed.changes():
        if not change.deleted and concerns(change.object, name, job_only=job_only):
            yield change.object
