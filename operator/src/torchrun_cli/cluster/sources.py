"""Where a download reads an output: the store itself, or a pod of the job's image that can reach it."""

import contextlib
import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

import click

from torchrun_cli.cluster.answers import ApiError
from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.follow import Feed
from torchrun_cli.cluster.programs import kubectl
from torchrun_cli.cluster.resources import PODS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target
from torchrun_cli.show.tensorboard import pod_state
from torchrun_operator.api.names import OUTPUT_CONTAINER_PREFIX
from torchrun_transfer.serve import ServedError, asked
from torchrun_transfer.stores.base import Source
from torchrun_transfer.troubles import TransferError

PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""The package of fsspec for each scheme that this computer may reach by itself."""
_START_SECONDS: Final = 300.0


def local_source(job: dict[str, Any], url: str) -> tuple[Source | None, str]:
    """Return the store, if this computer can read the manifest of this job there; else None, and why not."""
    package = PACKAGES.get(url.partition("://")[0])
    if package is None:
        return None, "it is a volume of the cluster"
    if importlib.util.find_spec(package) is None:
        return None, f"the package {package} is not installed here"
    from torchrun_transfer import manifest  # noqa: PLC0415
    from torchrun_transfer.stores.locate import store_of  # noqa: PLC0415 imports the package
    from torchrun_transfer.troubles import words  # noqa: PLC0415

    try:
        store = store_of(url)
        found = manifest.read(store.get(manifest.MANIFEST))
    except Exception as error:  # whatever the package raises: a pod may still reach it
        return None, words(error, url).partition("; check secretRef")[0]
    metadata = job["metadata"]
    if found is None:
        return None, "there is no manifest at that url as seen from here"
    # A bucket of that name may exist at another store.
    if (found.job.get("namespace"), found.job.get("name")) != (metadata.get("namespace"), metadata["name"]):
        return None, "the manifest at that url as seen from here is of another job"
    return store, ""


class ReadingPod:
    """The pod that reads outputs, from the first request on. Another one replaces it if it ends."""

    def __init__(
        self,
        client: Client,
        target: Target,
        render: Callable[[], tuple[dict[str, Any], list[str]]],
        *,
        seconds: float = _START_SECONDS,
    ) -> None:
        self._client, self._target, self._render, self._seconds = client, target, render, seconds
        self._pod: dict[str, Any] | None = None
        self._serving: Sequence[str] = ()

    def command(self, position: int) -> list[str]:
        """Return the command line that serves an output. Raises CliError."""
        pod = self._running()
        words = ["exec", "-i", pod["name"], "-c", f"{OUTPUT_CONTAINER_PREFIX}{position}", "--", *self._serving]
        return kubectl(self._target, self._client.namespace, *words)

    def delete(self) -> None:
        """Delete the pod, if there is one."""
        if self._pod is not None:
            with contextlib.suppress(ApiError):
                self._client.delete(PODS, self._pod["name"], uid=self._pod["uid"], grace=0)
                click.echo(f"pod/{self._pod['name']} deleted", err=True)
            self._pod = None

    def _running(self) -> dict[str, Any]:
        if self._pod is not None:
            found = self._client.find(PODS, self._pod["name"])
            if found is not None and not pod_state(found)[1]:
                return self._pod
            self.delete()
        manifest, self._serving = self._render()
        self._pod = self._client.create(PODS, manifest)["metadata"]
        click.echo(f"pod/{self._pod['name']} created", err=True)
        self._until_ready(self._pod["name"])
        return self._pod

    def _until_ready(self, pod: str) -> None:
        until = time.monotonic() + self._seconds
        feed = Feed(self._client, PODS, self._client.namespace, fields=f"metadata.name={pod}", until=until)
        words = "it does not exist"
        for change in feed.changes():
            ready, ended, words = pod_state(change.object)
            if ready:
                return
            if ended or change.deleted:
                raise CliError(f"pod {pod} did not start: {words}")
        raise CliError(f"pod {pod} is not ready after {self._seconds:g} s: {words}", Exit.TIMEOUT)


class PodSource:
    """Reads an output by a command in the pod. A broken connection is an OSError; the next request opens another."""

    def __init__(self, pod: ReadingPod, position: int) -> None:
        self._pod, self._position = pod, position
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 closed by close

    def get(self, path: str) -> bytes | None:
        """See Source.get."""
        return self._ask(do="get", path=path)

    def read(self, path: str, start: int, end: int) -> bytes:
        """See Source.read."""
        return self._ask(do="read", path=path, start=start, end=end) or b""

    def close(self) -> None:
        """End the command."""
        self._end()
        self._errors.close()

    def open(self) -> None:
        """Start the pod and the command, if they do not run. Raises CliError."""
        if self._process is None:
            command = self._pod.command(self._position)
            self._errors.seek(0)
            self._errors.truncate()
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )

    def _ask(self, **request: object) -> bytes | None:
        try:
            self.open()
        except CliError as error:
            raise TransferError(error.message) from error
        assert self._process is not None
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            return asked(stdin, stdout, **request)
        except ServedError:
            raise
        except OSError as error:
            self._end()
            raise self._explained(error) from error
        except BaseException:
            self._end()  # an answer may be on its way
            raise

    def _explained(self, error: OSError) -> Exception:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        if "usage: transfer.pyz" in said:
            return TransferError("the operator is older than this program and cannot serve downloads: upgrade it")
        return OSError(f"{error}: {said.splitlines()[-1][:300]}" if said else str(error))

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(OSError):  # what the program did not take any more
                self._process.communicate()
            self._process = None
