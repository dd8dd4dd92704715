"""`kubectl torchrun exec`."""

import sys
from typing import Any

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.logs import container_state, node_pods, source_of
from torchrun_cli.cluster.programs import kubectl, run, run_all
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.loglines import prefixed
from torchrun_cli.terminal import is_terminal, paint
from torchrun_operator.api.names import TRAINER_CONTAINER


@command(
    "exec",
    examples="""
    kubectl torchrun exec digits -- bash
    kubectl torchrun exec digits --node 2 -- nvidia-smi
    kubectl torchrun exec digits --all -- df -h /snapshots
    """,
)
@click.argument("name")
@click.argument("words", nargs=-1, required=True, metavar="-- COMMAND [ARGUMENTS]...", type=click.UNPROCESSED)
@click.option("--node", type=click.IntRange(0), help="Run it in the node with this index. Default: one that runs.")
@click.option("--all", "everywhere", is_flag=True, help="Run it in all nodes at the same time.")
@click.option("-c", "--container", default=TRAINER_CONTAINER, show_default=True, help="Run it in this container.")
@target_options
def exec_(target: Target, name: str, words: tuple[str, ...], node: int | None, everywhere: bool, container: str) -> int:
    """Run a command in a node of a job, or in all of them.

    This runs kubectl exec, and exits with the exit code of the command; with --all, with the highest one.
    """
    if everywhere and node is not None:
        raise click.UsageError("--all and --node exclude each other")
    client = connect(target)
    pods = running_pods(node_pods(client, name), node, container)
    if not pods:
        client.get(JOBS, name)  # says that there is no such job
        what = f"node {node}" if node is not None else "no node"
        raise CliError(f"{what} of {name} runs now" if node is None else f"{what} of {name} does not run", Exit.FAILED)
    sources = [source_of(pod, container) for pod in (pods if everywhere else pods[:1])]
    if not everywhere:
        flags = ["-i", *(["-t"] if is_terminal() and sys.stdin.isatty() else [])]
        whole = ["exec", *flags, sources[0].pod, "-c", container, "--", *words]
        return run(kubectl(target, client.namespace, *whole))
    longest, colours = max(len(source.pod) for source in sources), paint()

    def say(number: int, line: bytes, of_stderr: bool) -> None:
        source, stream = sources[number], sys.stderr if of_stderr else sys.stdout
        stream.buffer.write(prefixed(source.pod, source.node, line, most=longest, paint=colours) + b"\n")
        stream.buffer.flush()

    commands = [
        kubectl(target, client.namespace, "exec", source.pod, "-c", container, "--", *words) for source in sources
    ]
    return max(run_all(commands, say))


def running_pods(pods: list[dict[str, Any]], node: int | None, container: str) -> list[dict[str, Any]]:
    """Return the pods whose container runs, of one node or of all."""
    chosen = [pod for pod in pods if node is None or source_of(pod).node == node]
    return [pod for pod in chosen if container_state(pod, container) == "running"]
