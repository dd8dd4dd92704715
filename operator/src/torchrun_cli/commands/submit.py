"""`kubectl torchrun submit`: from a manifest to a job that runs."""

from typing import TYPE_CHECKING, Any

import click

from torchrun_cli.commands.manifests import Request, load_request, manifest_command
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, output_option, target_options

if TYPE_CHECKING:
    from torchrun_cli.cluster.client import Client


@manifest_command(
    examples="""
    # A sample of this program, three numbers changed; then its logs, until it has ended
    kubectl torchrun submit sample:elastic-torchrun --set max_nodes=8 min_nodes=4 n_gpus_per_node=8 device=gpu --follow

    # Again and again, each time with a new name
    kubectl torchrun submit job.yaml --generate-name try-

    # Would the API server accept it, with its quotas and policies?
    kubectl torchrun submit job.yaml --dry-run
    """
)
@click.option("--dry-run", is_flag=True, help="Let the API server check the job, and create nothing.")
@click.option("--wait", is_flag=True, help="Wait until the job has ended. Exit with 1 if it failed.")
@click.option(
    "-f", "--follow", is_flag=True, help="Print the logs of all nodes until the job has ended, as --wait does."
)
@click.option("--timeout", metavar="DURATION", help="With --wait, give up after this time: 90s, 5m, 2h.")
@output_option()
@target_options
def submit(
    target: Target, request: Request, output: str | None, timeout: str | None, dry_run: bool, wait: bool, follow: bool
) -> None:
    """Create the job that a manifest describes.

    FILE is a file, `sample:NAME`, or `-` for stdin. Before anything is sent, the job is checked as validate does. One
    request creates it: it is there as a whole or not at all.
    """
    from torchrun_cli.cluster.client import connect  # noqa: PLC0415 after the checks, which need no cluster
    from torchrun_cli.cluster.jobs import done  # noqa: PLC0415
    from torchrun_cli.commands.validate import require_valid  # noqa: PLC0415
    from torchrun_cli.show.times import seconds_of  # noqa: PLC0415

    if dry_run and (wait or follow):
        raise click.UsageError("with --dry-run there is no job to wait for; remove --wait and --follow")
    if output and follow:
        raise click.UsageError("with -o, stdout has the job alone; remove --follow, and run kubectl torchrun logs -f")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    seconds = seconds_of(timeout) if timeout is not None else None
    manifest = load_request(request)
    require_valid(manifest)
    client = connect(_in_namespace(target, manifest.job))
    job = _create(client, manifest.job, dry_run=dry_run)
    _say(job, output, dry_run=dry_run)
    name = str(job["metadata"]["name"])
    if follow:
        _follow(client, name)
    if wait or follow:
        _wait(client, name, seconds)
        click.echo(done(name, "complete"), err=bool(output))


def _in_namespace(target: Target, job: dict[str, Any]) -> Target:
    """Return the target with the namespace that the manifest names. Raises CliError if the user names another one."""
    namespace = job["metadata"].get("namespace")
    if namespace and target.namespace and namespace != target.namespace:
        words = f"the manifest is for the namespace {namespace}, not {target.namespace}; change one of them"
        raise CliError(words, Exit.USAGE)
    return Target(namespace=namespace).over(target)


def _create(client: "Client", job: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    from torchrun_cli.cluster.answers import ApiError  # noqa: PLC0415
    from torchrun_cli.cluster.resources import JOBS  # noqa: PLC0415

    try:
        return client.create(JOBS, job, dry_run=dry_run)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        name = job["metadata"].get("name")
        words = (
            f"{name} already exists in the namespace {client.namespace}; choose another name with --name or "
            f"--generate-name, or delete it first: kubectl torchrun delete {name} -n {client.namespace}"
        )
        raise CliError(words, Exit.REFUSED) from None


def _say(job: dict[str, Any], output: str | None, *, dry_run: bool) -> None:
    from torchrun_cli.cluster.jobs import done  # noqa: PLC0415
    from torchrun_cli.show.objects import formatted  # noqa: PLC0415

    if output:
        click.echo(formatted([job], output), nl=False)
    else:
        click.echo(done(job["metadata"]["name"], "created (server dry run)" if dry_run else "created"))


def _wait(client: "Client", name: str, seconds: float | None) -> None:
    from torchrun_cli.cluster.waiting import wait_for, wish_of  # noqa: PLC0415

    wait_for(client, name, wish_of("complete"), seconds=seconds)


def _follow(client: "Client", name: str) -> None:
    from torchrun_cli.commands.logs import print_to_end  # noqa: PLC0415

    print_to_end(client, name)
