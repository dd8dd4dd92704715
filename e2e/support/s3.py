"""A real S3 server for tests: versitygw on a directory, built from its Go module once per version."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster import builds
from localcluster.paths import Layout
from support.ports import free_port
from support.waiting import wait_for

_MODULES = Path(__file__).parent / "modules"
_KEY = "test"


def build() -> Path:
    """Return the program, built once per version."""
    return builds.provide(Layout.of(os.environ), builds.program("s3", _MODULES))


@contextmanager
def server(directory: Path, buckets: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Serve these buckets while the block runs. Yields the environment variables for clients."""
    program = build()
    for bucket in buckets:
        (directory / "data" / bucket).mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    # Metadata goes to separate files: some file systems for temporary files have no extended attributes.
    sidecar = directory / "metadata"
    sidecar.mkdir()
    options = ["--access", _KEY, "--secret", _KEY, "--port", address]
    command = [str(program), *options, "posix", "--sidecar", str(sidecar), str(directory / "data")]
    log = directory / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            wait_for(f"the S3 server answers; see {log}", lambda: _listens(address), 60)
            yield {
                "AWS_ENDPOINT_URL": f"http://{address}",
                "AWS_ACCESS_KEY_ID": _KEY,
                "AWS_SECRET_ACCESS_KEY": _KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        finally:
            process.terminate()


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
