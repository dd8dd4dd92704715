"""`kubectl torchrun delete`."""

import click

from torchrun_cli.cluster.client import connect
from torchrun_cli.cluster.jobs import done
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError
from torchrun_cli.options import Target, command, target_options


@command(
    examples="""
    kubectl torchrun delete digits
    kubectl torchrun delete digits faces --wait
    """,
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--wait", is_flag=True, help="Wait until the jobs are gone.")
@click.option("--ignore-not-found", is_flag=True, help="Do not fail for jobs that do not exist.")
@target_options
def delete(target: Target, names: tuple[str, ...], wait: bool, ignore_not_found: bool) -> None:
    """Delete jobs, with all that the operator created for them.

    A claim that spec.snapshots.volumeClaimTemplate created is deleted as well; one that claimName names stays.
    """
    client = connect(target)
    problems: list[CliError] = []
    deleted = []
    for name in names:
        try:
            if ignore_not_found and client.find(JOBS, name) is None:
                continue
            client.delete(JOBS, name)
        except CliError as error:
            problems.append(error)
            continue
        click.echo(done(name, "deleted"))
        deleted.append(name)
    if wait:
        from torchrun_cli.cluster.waiting import DELETED, wait_for, wish_of  # noqa: PLC0415 only --wait needs it

        for name in deleted:
            wait_for(client, name, wish_of(DELETED), absence=True)
    if problems:
        raise CliError("\nerror: ".join(problem.message for problem in problems), problems[0].exit_code)
