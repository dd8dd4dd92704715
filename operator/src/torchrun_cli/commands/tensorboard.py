"""`kubectl torchrun tensorboard`."""

import contextlib

import click

from torchrun_cli.cluster.answers import ApiError
from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.follow import Feed
from torchrun_cli.cluster.programs import kubectl, run
from torchrun_cli.cluster.resources import JOBS, PODS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, command, target_options
from torchrun_cli.show.tensorboard import pod_state, tensorboard_pod
from torchrun_cli.show.times import seconds_of


@command(
    examples="""
    kubectl torchrun tensorboard digits
    kubectl torchrun tensorboard digits --logdir runs --port 7007
    kubectl torchrun tensorboard digits --image registry.example.com/tools/tensorboard:2
    """,
)
@click.argument("name")
@click.option("--logdir", default=".", help="A directory below the snapshots. Default: the whole volume.")
@click.option("--image", help="An image with TensorBoard. Default: the image of the trainer container.")
@click.option("--port", type=click.IntRange(1, 65535), default=6006, show_default=True, help="The local port.")
@click.option("--timeout", metavar="DURATION", default="5m", show_default=True, help="How long the start may take.")
@target_options
def tensorboard(target: Target, name: str, logdir: str, image: str | None, port: int, timeout: str) -> int:
    """Show TensorBoard for the snapshots of a job, also of one that has ended.

    A pod of its own mounts the volume read-only and runs TensorBoard. It ends with this command.
    """
    seconds = seconds_of(timeout)
    client = connect(target)
    command_line = kubectl(target, client.namespace, "port-forward")
    manifest = tensorboard_pod(client.get(JOBS, name), logdir=logdir, image=image)
    pod = client.create(PODS, manifest)["metadata"]
    try:
        click.echo(f"pod/{pod['name']} created", err=True)
        _until_ready(client, pod["name"], seconds)
        click.echo(f"TensorBoard: http://localhost:{port} (Ctrl-C ends it)", err=True)
        return run([*command_line, f"pod/{pod['name']}", f"{port}:6006"])
    finally:
        with contextlib.suppress(ApiError):
            client.delete(PODS, pod["name"], uid=pod["uid"], grace=0)
            click.echo(f"pod/{pod['name']} deleted", err=True)


def _until_ready(client: Client, pod: str, seconds: float) -> None:
    import time  # noqa: PLC0415 the monotonic clock of this wait

    feed = Feed(client, PODS, client.namespace, fields=f"metadata.name={pod}", until=time.monotonic() + seconds)
    words = "it does not exist"
    for change in feed.changes():
        ready, failed, words = pod_state(change.object)
        if ready:
            return
        if failed or change.deleted:
            raise CliError(f"TensorBoard did not start: {words}; use --image to name an image that has it")
    raise CliError(f"pod {pod} is not ready after {seconds:g} s: {words}", Exit.TIMEOUT)
