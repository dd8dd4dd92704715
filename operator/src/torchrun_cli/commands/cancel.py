"""`kubectl torchrun cancel`."""

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.jobs import change_spec, done, live_job
from torchrun_cli.options import Target, command, target_options


@command(examples="kubectl torchrun cancel digits")
@click.argument("name")
@target_options
def cancel(target: Target, name: str) -> None:
    """End a job for good, and keep its record and its logs.

    This sets spec.activeDeadlineSeconds to 1: the operator stops the nodes, and the job is Failed with the reason
    DeadlineExceeded. It cannot be resumed. To continue it later, suspend it instead; to remove it, delete it.
    """
    client = connect(target)
    job = live_job(client, name, "cancel")
    change_spec(client, name, activeDeadlineSeconds=1)
    click.echo(done(name, "cancelled"))
    if (job.get("spec") or {}).get("suspend"):
        click.echo(f"{name} is suspended and stays so. If it is resumed, it fails after a second.", err=True)
