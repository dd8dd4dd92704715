"""`kubectl torchrun port-forward`."""

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.logs import node_pods, source_of
from torchrun_cli.cluster.programs import kubectl, run
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.commands.exec import running_pods
from torchrun_cli.errors import CliError
from torchrun_cli.options import Target, command, target_options
from torchrun_operator.api.names import TRAINER_CONTAINER


@command(
    "port-forward",
    examples="""
    kubectl torchrun port-forward digits 8080
    kubectl torchrun port-forward digits --node 1 9000:8080
    """,
)
@click.argument("name")
@click.argument("ports", nargs=-1, required=True, metavar="[LOCAL:]PORT...")
@click.option("--node", type=click.IntRange(0), help="The node with this index. Default: the first that runs.")
@target_options
def port_forward(target: Target, name: str, ports: tuple[str, ...], node: int | None) -> int:
    """Forward ports of this computer to a node of a job.

    This runs kubectl port-forward.
    """
    client = connect(target)
    pods = running_pods(node_pods(client, name), node, TRAINER_CONTAINER)
    if not pods:
        client.get(JOBS, name)  # says that there is no such job
        raise CliError(f"no node of {name} runs now" if node is None else f"node {node} of {name} does not run")
    return run(kubectl(target, client.namespace, "port-forward", f"pod/{source_of(pods[0]).pod}", *ports))
