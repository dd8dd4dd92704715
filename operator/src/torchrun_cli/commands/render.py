"""`kubectl torchrun render`: the manifest that goes to the API server, or into Git."""

import click

from torchrun_cli.commands.manifests import Request, load_request, manifest_command
from torchrun_cli.options import output_option


@manifest_command(
    examples="""
    # What submit would send, for Git
    kubectl torchrun render job.yaml --set max_nodes=8 image=registry.example.com/train:2 > rendered.yaml

    # Without the clone: a sample of this program, with another name
    kubectl torchrun render sample:elastic-torchrun --name mine --set max_nodes=3 min_nodes=2

    # From another program, with values of a file
    generate | kubectl torchrun render - --values production.yaml --local-dir .
    """
)
@output_option("yaml", "json")
def render(request: Request, output: str | None) -> None:
    """Print the job that a manifest describes.

    FILE is a file, `sample:NAME`, or `-` for stdin. The values of the template and the texts of local files are put in
    their places. No cluster is needed; validate checks the result.
    """
    from torchrun_cli.template.writing import to_json, to_yaml  # noqa: PLC0415 needs yaml

    job = load_request(request).job
    click.echo(to_json(job) if output == "json" else to_yaml(job), nl=False)
