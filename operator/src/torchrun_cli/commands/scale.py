"""`kubectl torchrun scale`."""

from typing import Any

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.jobs import done, live_job
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.times import seconds_of


@command(
    examples="""
    kubectl torchrun scale digits 4
    kubectl torchrun scale digits 2 --wait --timeout=5m
    """,
)
@click.argument("name")
@click.argument("nodes", type=click.IntRange(1), metavar="NODES")
@click.option("--wait", is_flag=True, help="Wait until the job trains with this number of nodes.")
@click.option("--timeout", metavar="DURATION", help="With --wait: give up after this time. Default: no limit.")
@target_options
def scale(target: Target, name: str, nodes: int, wait: bool, timeout: str | None) -> None:
    """Change the number of nodes that a job wants.

    It must be from MIN to MAX of spec.nnodes. One change is one new round, and uses up no restart.
    """
    seconds = seconds_of(timeout) if timeout is not None else None
    client = connect(target)
    live_job(client, name, "scale")
    client.patch(JOBS, name, {"spec": {"replicas": nodes}}, subresource="scale")
    click.echo(done(name, "scaled"))
    if wait:
        from torchrun_cli.cluster.waiting import Wish, wait_for  # noqa: PLC0415 only --wait needs it

        wish = Wish(f"training with {nodes} nodes", lambda job: _trains_with(job, nodes))
        wait_for(client, name, wish, seconds=seconds)


def _trains_with(job: dict[str, Any], nodes: int) -> bool:
    status = job.get("status") or {}
    current = (status.get("observedGeneration") or 0) >= (job["metadata"].get("generation") or 0)
    return bool(current and status.get("state") == "Running" and status.get("membership", {}).get("nodes") == nodes)
