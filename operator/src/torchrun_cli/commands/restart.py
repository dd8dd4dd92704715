"""`kubectl torchrun restart`."""

import click

from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.jobs import change_spec, done, live_job
from torchrun_cli.cluster.logs import node_pods, source_of
from torchrun_cli.cluster.resources import PODS
from torchrun_cli.cluster.waiting import wait_for, wish_of
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.times import seconds_of


@command(
    examples="""
    kubectl torchrun restart digits
    kubectl torchrun restart digits --node 3
    """,
)
@click.argument("name")
@click.option("--node", type=click.IntRange(0), help="Replace the pod of this node only: the job starts a new round.")
@click.option("--timeout", metavar="DURATION", default="10m", show_default=True, help="How long the pods may take.")
@target_options
def restart(target: Target, name: str, node: int | None, timeout: str) -> None:
    """Restart a job with new pods, from its last snapshot.

    The job is suspended, and resumed once its pods have ended. This uses up no restart. With --node, only the pod of
    that node is deleted, and the operator replaces it.
    """
    seconds = seconds_of(timeout)
    client = connect(target)
    job = live_job(client, name, "restart")
    if node is not None:
        _replace(client, name, node)
        return
    if (job.get("spec") or {}).get("suspend"):
        raise CliError(f"{name} is suspended: run kubectl torchrun resume {name}", Exit.REFUSED)
    change_spec(client, name, suspend=True)
    try:
        wait_for(client, name, wish_of("suspended"), seconds=seconds)
        change_spec(client, name, suspend=False)
    except (CliError, KeyboardInterrupt):
        click.echo(f"{name} stays suspended: run kubectl torchrun resume {name} once its pods have ended", err=True)
        raise
    click.echo(done(name, "restarted"))


def _replace(client: Client, name: str, node: int) -> None:
    pods = [pod for pod in node_pods(client, name) if source_of(pod).node == node]
    live = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    if not live:
        raise CliError(f"node {node} of {name} has no pod now", Exit.NOT_FOUND)
    for pod in live:
        client.delete(PODS, pod["metadata"]["name"], uid=pod["metadata"]["uid"])
        click.echo(f"pod/{pod['metadata']['name']} deleted")
