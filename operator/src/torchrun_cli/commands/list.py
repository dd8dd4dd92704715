"""`kubectl torchrun list`."""

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.options import Target, command, output_option, target_options
from torchrun_cli.show.jobs import job_table
from torchrun_cli.show.objects import formatted
from torchrun_cli.terminal import now, paint, say, width


@command(
    "list",
    examples="""
    kubectl torchrun list
    kubectl torchrun list -A
    kubectl torchrun list -l team=vision -o name
    """,
)
@click.option("-A", "--all-namespaces", is_flag=True, help="List the jobs of all namespaces.")
@click.option("-l", "--selector", metavar="LABELS", default="", help="List the jobs with these labels.")
@output_option()
@target_options
def list_jobs(target: Target, all_namespaces: bool, selector: str, output: str | None) -> None:
    """List jobs: their states, nodes, workers and steps."""
    client = connect(target)
    jobs, _ = client.list(JOBS, None if all_namespaces else client.namespace, labels=selector)
    if output:
        click.echo(formatted(jobs, output, many=True), nl=False)
    elif jobs:
        say(job_table(jobs, now(), namespaces=all_namespaces, paint=paint(), width=width()))
    else:
        where = "all namespaces" if all_namespaces else f"namespace {client.namespace}"
        click.echo(f"No jobs found in {where}.", err=True)
