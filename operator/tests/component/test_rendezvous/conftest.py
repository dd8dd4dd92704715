"""A real rendezvous host for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rendezvous_host import Host, running_host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with running_host(tmp_path) as found:
        yield found
