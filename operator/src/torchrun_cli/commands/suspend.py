"""`kubectl torchrun suspend` and `kubectl torchrun resume`."""

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.jobs import change_spec, done, live_job
from torchrun_cli.cluster.waiting import wait_for, wish_of
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.times import seconds_of

_TIMEOUT = click.option(
    "--timeout", metavar="DURATION", help="With --wait: give up after this time. Default: no limit."
)


@command(
    examples="""
    kubectl torchrun suspend digits
    kubectl torchrun suspend digits --wait
    """,
)
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until all pods of the job are gone.")
@_TIMEOUT
@target_options
def suspend(target: Target, name: str, wait: bool, timeout: str | None) -> None:
    """Suspend a job: all its pods end, and it keeps its snapshots."""
    _set(target, name, suspended=True, wait="suspended" if wait else None, timeout=timeout)


@command(
    examples="""
    kubectl torchrun resume digits
    kubectl torchrun resume digits --wait --timeout=10m
    """,
)
@click.argument("name")
@click.option("--wait", is_flag=True, help="Wait until the job trains.")
@_TIMEOUT
@target_options
def resume(target: Target, name: str, wait: bool, timeout: str | None) -> None:
    """Resume a suspended job from its last snapshot."""
    _set(target, name, suspended=False, wait="running" if wait else None, timeout=timeout)


def _set(target: Target, name: str, *, suspended: bool, wait: str | None, timeout: str | None) -> None:
    seconds = seconds_of(timeout) if timeout is not None else None
    client = connect(target)
    live_job(client, name, "suspend" if suspended else "resume")
    change_spec(client, name, suspend=suspended)
    click.echo(done(name, "suspended" if suspended else "resumed"))
    if wait is not None:
        wait_for(client, name, wish_of(wait), seconds=seconds)
