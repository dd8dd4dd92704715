"""`kubectl torchrun outputs`."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import click

from torchrun_cli.cluster.client import Client, connect
from torchrun_cli.cluster.jobs import done
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, command, output_option, target_options
from torchrun_cli.show.outputs import (
    by_hand,
    directory_names,
    output_table,
    outputs_document,
    outputs_of,
    size_words,
)
from torchrun_cli.show.pace import has_ended
from torchrun_cli.show.times import seconds_of
from torchrun_cli.terminal import now, paint, say, width
from torchrun_operator.api.names import ANNOTATION_RETRY_OUTPUTS

if TYPE_CHECKING:
    from torchrun_cli.cluster.sources import ReadingPod
    from torchrun_transfer.stores.base import Source

_NO_OUTPUTS = (
    "write spec.outputs with the path and the url of the results, or set output_url of a sample. You can add outputs "
    "at any time, also to a job that has ended"
)
_NOT_UPLOADED = {
    "Waiting": "it is uploaded once the job has ended",
    "Skipped": "the job has failed, see spec.outputs[].when",
}


@command(
    examples="""
    kubectl torchrun outputs digits
    kubectl torchrun outputs digits --wait --download results
    kubectl torchrun outputs digits --retry --wait
    kubectl torchrun outputs digits -o json
    """,
)
@click.argument("name")
@click.option("--retry", is_flag=True, help="Upload again what failed, without training again.")
@click.option("--wait", is_flag=True, help="Wait until all outputs are uploaded. Exit with 1 if an upload fails.")
@click.option("--timeout", metavar="DURATION", help="With --wait, give up after this time: 90s, 5m, 2h.")
@click.option("--download", metavar="DIR", help="Download the outputs, each to the directory of its name below DIR.")
@click.option(
    "--via",
    type=click.Choice(["auto", "local", "pod"]),
    default="auto",
    show_default=True,
    help="Read the outputs from this computer, or through a pod in the cluster. auto: from here if that works.",
)
@output_option()
@target_options
def outputs(target: Target, name: str, output: str | None, timeout: str | None, **options: Any) -> None:  # noqa: ANN401 as click has them
    """Show the outputs of a job and how far their upload is, download them, or upload them again.

    A download gets what the manifest of an output lists. Each file appears under its name once it is complete and its
    checksum is right. A download that was interrupted goes on where it stopped, and a repeated one gets only what
    differs.

    This computer reads the store itself if the package for it (such as s3fs) is installed here and the manifest of the
    job can be read with the credentials of this computer. Otherwise a pod with the image, the Secret and the volumes of
    the upload reads it, and kubectl exec brings the files here. stderr says which way it was.

    -o json and yaml print the outputs with their states; name prints their URLs.
    """
    if timeout is not None and not options["wait"]:
        raise click.UsageError("--timeout needs --wait")
    seconds = seconds_of(timeout) if timeout is not None else None
    client = connect(target)
    job = client.get(JOBS, name)
    if not outputs_of(job):
        raise CliError(f"{name} has no outputs: {_NO_OUTPUTS}", Exit.USAGE)
    before = ""
    if options["retry"]:
        before = _digest(job)
        job = _retry(client, job)
        click.echo(done(name, "uploads its outputs again"), err=bool(output))
    if options["wait"]:
        job = _wait(client, name, before, seconds)
        click.echo(done(name, "outputs uploaded"), err=bool(output))
    if options["download"]:
        Downloads(client, target, job, options["via"], quiet=bool(output)).run(Path(options["download"]))
    if output:
        click.echo(_formatted(job, output), nl=False)
    elif not (options["retry"] or options["wait"] or options["download"]):
        say(output_table(job, now(), paint=paint(), width=width()))


def _formatted(job: dict[str, Any], output: str) -> str:
    document = outputs_document(job)
    if output == "name":
        return "".join(f"{each['url']}\n" for each in document["outputs"])
    if output == "json":
        return json.dumps(document, indent=4, ensure_ascii=False) + "\n"
    import yaml  # noqa: PLC0415 it is slow to import

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text


def _digest(job: dict[str, Any]) -> str:
    return str(((job.get("status") or {}).get("upload") or {}).get("digest") or "")


def _retry(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """Ask the operator to upload again. Raises CliError if nothing would follow."""
    name, spec = job["metadata"]["name"], job.get("spec") or {}
    if spec.get("suspend"):
        raise CliError(f"{name} is suspended, and uploads nothing: run kubectl torchrun resume {name}", Exit.REFUSED)
    if all(each["state"] in _NOT_UPLOADED for each in outputs_of(job)):
        state = outputs_of(job)[0]["state"]
        raise CliError(
            f"no output of {name} was uploaded yet, so there is nothing to retry: {_NOT_UPLOADED[state]}", Exit.REFUSED
        )
    change = {"metadata": {"annotations": {ANNOTATION_RETRY_OUTPUTS: f"{now().timestamp():.3f}"}}}
    return client.patch(JOBS, name, change)


def _wait(client: Client, name: str, before: str, seconds: float | None) -> dict[str, Any]:
    """Wait for the upload. ``before``: the digest of an upload that does not count. Raises CliError."""
    from torchrun_cli.cluster.waiting import OUTPUTS_UPLOADED, Wish, wait_for, wish_of  # noqa: PLC0415

    wish = wish_of(f"condition={OUTPUTS_UPLOADED}")

    def counts(job: dict[str, Any]) -> bool:
        return not before or _digest(job) != before

    later = Wish(
        "the upload of the outputs",
        lambda job: counts(job) and wish.test(job),
        lambda job: counts(job) and wish.over(job),
        wish.reason,
    )
    return wait_for(client, name, later, seconds=seconds)


class Downloads:
    """Downloads the outputs of one job."""

    def __init__(self, client: Client, target: Target, job: dict[str, Any], via: str, *, quiet: bool) -> None:
        """``quiet``: stdout is left to others."""
        self._client, self._target, self._job, self._via, self._quiet = client, target, job, via, quiet
        self._failed = 0

    def run(self, directory: Path) -> None:
        """Download all outputs that were uploaded. Raises CliError if that is none, or if one is not complete."""
        from torchrun_cli.cluster.sources import ReadingPod  # noqa: PLC0415 the table does not need it
        from torchrun_cli.show.download import download_pod  # noqa: PLC0415 needs the models

        found, name = outputs_of(self._job), self._job["metadata"]["name"]
        names = directory_names(found)
        wanted = [position for position, each in enumerate(found) if each["state"] not in _NOT_UPLOADED]
        for each in found:
            if each["state"] in _NOT_UPLOADED:
                click.echo(f"{each['path']} is {each['state']}: {_NOT_UPLOADED[each['state']]}", err=True)
        if not wanted:
            words = "" if has_ended(self._job) else f"; wait for it with kubectl torchrun outputs {name} --wait"
            raise CliError(f"no output of {name} is uploaded{words}")
        pod = ReadingPod(self._client, self._target, lambda: download_pod(self._job, wanted))
        with ExitStack() as stack:
            stack.callback(pod.delete)
            for position in wanted:
                target, url = directory / names[position], found[position]["url"]
                try:
                    source = self._source(stack, pod, position, url)
                except CliError as error:
                    raise CliError(f"{error.message}; {_copy(url, target)}", error.exit_code) from None
                self._one(source, found[position], target)
        if self._failed:
            raise CliError(f"{self._failed} of {len(wanted)} outputs are not complete: run the command again to go on")

    def _source(self, stack: ExitStack, pod: "ReadingPod", position: int, url: str) -> "Source":
        from torchrun_cli.cluster.sources import PodSource, local_source  # noqa: PLC0415

        if self._via != "pod":
            store, why = local_source(self._job, url)
            if store is not None:
                click.echo(f"{url}: read from this computer", err=True)
                return store
            if self._via == "local":
                raise CliError(f"{url} cannot be read from this computer: {why}; use --via pod")
            click.echo(f"{url}: read through a pod, because {why}", err=True)
        else:
            click.echo(f"{url}: read through a pod", err=True)
        source = stack.enter_context(closing(PodSource(pod, position)))
        source.open()
        return source

    def _one(self, source: "Source", output: dict[str, Any], directory: Path) -> None:
        from torchrun_transfer.download import Downloaded  # noqa: PLC0415
        from torchrun_transfer.run import Runner  # noqa: PLC0415
        from torchrun_transfer.task import Task  # noqa: PLC0415

        task = Task(output["url"], str(directory), patience_seconds=60.0)
        with _progress() as told:
            count = Downloaded(told=told)
            result = Runner(clock=monotonic, pause=sleep).download(task, source, count)
        if result.error:
            self._failed += 1
            words = f"{output['path']} is not complete: {result.error}; {_copy(output['url'], directory)}"
            click.echo(f"error: {words}", err=True)
            return
        there = f", {count.there} of them were there" if count.there else ""
        words = f"{output['url']}: {result.files} files, {size_words(result.bytes)} in {directory}{there}"
        click.echo(words, err=self._quiet)


def _copy(url: str, directory: Path) -> str:
    return f"to copy it by hand: {by_hand(url, str(directory))}"


@contextmanager
def _progress() -> Iterator[Any]:
    """Let the transfer say on stderr what it does: each file, what it repeats, and on a terminal how far it is."""
    import logging  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from torchrun_cli.show.style import cleaned  # noqa: PLC0415
    from torchrun_cli.terminal import is_terminal  # noqa: PLC0415

    on_terminal, last = is_terminal(sys.stderr), [0.0]

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            clear = "\r\x1b[K" if on_terminal else ""
            if record.levelno < logging.ERROR:  # the last one is told anyway
                click.echo(f"{clear}{cleaned(record.getMessage())}", err=True)

    def told(path: str, at: int, size: int) -> None:
        if on_terminal and at < size and monotonic() - last[0] > 0.5:
            last[0] = monotonic()
            click.echo(f"\r\x1b[K{cleaned(path)}: {size_words(at)} of {size_words(size)}", err=True, nl=False)

    logger, handler = logging.getLogger("transfer"), Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield told
    finally:
        logger.removeHandler(handler)
