"""Fixtures for several tests of the library."""

from collections.abc import Iterator

import pytest

from localcluster.shell import ClusterError
from support import s3


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a bucket on a real S3 server, whose address is in the environment."""
    try:
        s3.build()
    except ClusterError as error:
        pytest.skip(f"the S3 server cannot be built: {error}")
    with s3.server(tmp_path_factory.mktemp("s3"), ("snapshots",)) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield "s3://snapshots"
