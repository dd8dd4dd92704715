"""`kubectl torchrun status`."""

import threading
from collections.abc import Callable
from typing import Any

import click

from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.options import Target, command, output_option, target_options
from torchrun_cli.show.job import Pace, job_screen
from torchrun_cli.show.objects import formatted
from torchrun_cli.terminal import is_terminal, live, now, paint, say, width


@command(
    examples="""
    kubectl torchrun status digits
    kubectl torchrun status digits --watch
    kubectl torchrun status digits -o json
    """,
)
@click.argument("name")
@click.option("-w", "--watch", is_flag=True, help="Show each change, until the job has ended.")
@output_option()
@target_options
def status(target: Target, name: str, watch: bool, output: str | None) -> None:
    """Show a job on one screen: progress, nodes, conditions, last failure."""
    client = connect(target)
    if output:
        if watch:
            raise click.UsageError("--watch goes with the screen only: leave out --output")
        click.echo(formatted([client.get(JOBS, name)], output), nl=False)
    elif watch:
        _watch(client, name)
    else:
        say(job_screen(client.get(JOBS, name), now(), paint=paint(), width=width()))


def _watch(client: Client, name: str) -> None:
    from torchrun_cli.cluster.follow import Feed  # noqa: PLC0415 the plain screen does not need it
    from torchrun_cli.show.pace import Stopwatch, has_ended  # noqa: PLC0415

    client.get(JOBS, name)  # a wrong name is an error at once
    feed = Feed(client, JOBS, client.namespace, fields=f"metadata.name={name}")
    stopwatch = Stopwatch()
    with live() as show, _Ticker(show) as ticker:
        for change in feed.changes():
            if change.deleted:
                break
            ticker.set(change.object, stopwatch.pace(change.object))
            if has_ended(change.object):
                break


class _Ticker:
    """Draws the screen at each change, and every second on a terminal, so that the ages in it grow."""

    def __init__(self, show: Callable[[list[str]], None]) -> None:
        self._show = show
        self._shown: tuple[dict[str, Any], Pace | None] | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "_Ticker":
        if is_terminal():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def set(self, job: dict[str, Any], pace: Pace | None) -> None:
        """Show a new version of the job."""
        self._shown = (job, pace)
        self._draw()

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self._shown is not None:
                job, pace = self._shown
                self._show(job_screen(job, now(), pace=pace, paint=paint(), width=width()))
