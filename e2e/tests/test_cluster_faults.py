"""Jobs in trouble, on a real cluster: their status names the cause, soon, and nothing loops."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from support.clusters import Cluster
from support.faultcases import read
from support.faultplay import Play, Seen

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.timeout(600, func_only=True)]

_FAULTS = Path(__file__).parent / "faults"
_AT_A_TIME = 4
"""More at a time keep two processors busy for longer than a user waits for words."""
_NAMES = {path.stem: [case.name for case in read(path, {})] for path in sorted(_FAULTS.glob("*.yaml"))}


@pytest.fixture(scope="module")
def played(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[list[Seen]]]]:
    """Play the chosen cases, several at a time, and return their results by name."""
    chosen = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    machine = cluster.kubectl.run("get", "nodes", "--output=jsonpath={.items[-1:].metadata.name}")
    names = {"TRAINER": cluster.trainer_image, "OPERATOR": cluster.operator_image, "MACHINE": machine}
    cases = [case for path in sorted(_FAULTS.glob("*.yaml")) for case in read(path, names) if case.name in chosen]
    pool = ThreadPoolExecutor(_AT_A_TIME)
    try:
        yield {case.name: pool.submit(Play(cluster, case).run) for case in cases}
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", [name for names in _NAMES.values() for name in names])
def test_the_status_names_the_cause(
    played: dict[str, Future[list[Seen]]], name: str, record_property: Callable[[str, object], None]
) -> None:
    for seen in played[name].result():
        within = "" if seen.seconds is None else f" {seen.seconds:.1f} s"
        record_property("said", f"{seen.case.what}:{within} {seen.words}")
