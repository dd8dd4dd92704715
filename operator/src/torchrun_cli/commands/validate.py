"""`kubectl torchrun validate`: the rules of the API server and the operator, without a cluster."""

from typing import TYPE_CHECKING

import click

from torchrun_cli.commands.manifests import Request, load_request, manifest_command
from torchrun_cli.errors import CliError, Exit

if TYPE_CHECKING:
    from torchrun_cli.template.manifest import Manifest


@manifest_command(
    examples="""
    kubectl torchrun validate job.yaml
    kubectl torchrun validate job.yaml --set max_nodes=8
    """
)
def validate(request: Request) -> None:
    """Check a manifest by all rules, without a cluster.

    FILE is a file, `sample:NAME`, or `-` for stdin. All problems are printed, each with its line and its field. The
    exit code is then 2. What depends on the cluster is not checked, such as quotas and whether an image exists.
    """
    manifest = load_request(request)
    require_valid(manifest)
    metadata = manifest.job["metadata"]
    click.echo(f"torchrunjob.torchrun.dev/{metadata.get('name') or metadata['generateName'] + '*'} is valid")


def require_valid(manifest: "Manifest") -> None:
    """Raise CliError that names all problems of a job, in the order of their lines, if there are any."""
    from torchrun_cli.checking.checks import check  # noqa: PLC0415 needs pydantic

    found = sorted((manifest.line(problem.field), str(problem)) for problem in check(manifest.job))
    if not found:
        return
    name = manifest.document.origin.name
    lines = [f"{name}:{line}: {problem}" for line, problem in found]
    head = [] if len(lines) == 1 else [f"{name} has {len(lines)} problems:"]
    raise CliError("\n".join([*head, *lines]), Exit.USAGE)
