"""status.membership.worldSize: right, or unset where it is unknown, and never 0 while nodes train."""

from dataclasses import replace
from typing import Any

import pytest

from builders import THREE, at, decide, make_job, make_rendezvous, seen, training_job
from torchrun_rendezvous.driver import world_of
from torchrun_rendezvous.protocol import Progress

FORMED = at(-60)
OLD, NEW = Progress(step=5, time=at(-90), world_size=7), Progress(step=6, time=at(-30), world_size=5)


@pytest.mark.parametrize(
    ("workers", "state", "expected"),
    [
        pytest.param(8, {}, 24, id="a number"),
        pytest.param(8, {"progress": NEW}, 24, id="a number, whatever the script says"),
        pytest.param(8, {"world_size": 20}, 20, id="another number in a shell line, which the agents agreed on"),
        pytest.param("gpu", {}, None, id="unknown"),
        pytest.param("auto", {"world_size": 12}, 12, id="agreed"),
        pytest.param("cpu", {"progress": NEW}, 5, id="reported by the script"),
        pytest.param("cpu", {"progress": OLD}, None, id="reported of an earlier round"),
        pytest.param("cpu", {"progress": replace(NEW, world_size=None)}, None, id="a script that does not say"),
        pytest.param("cpu", {"progress": NEW, "world_size": 6}, 6, id="agreed, before reported"),
    ],
)
def test_world_size(workers: Any, state: dict[str, Any], expected: int | None) -> None:
    job = training_job(nprocPerNode=workers)
    found = seen(*THREE, rendezvous=make_rendezvous(*THREE, completed_at=FORMED, **state))
    membership = decide(job, found, found.now).status.membership
    assert (membership.nodes, membership.world_size) == (3, expected)


def test_no_worker_trains_before_the_first_round() -> None:
    assert decide(make_job(), seen(), at(0)).status.membership.world_size == 0


@pytest.mark.parametrize("workers", [8, "gpu"])
def test_a_restarted_operator_knows_the_size_before_the_host_answers(workers: Any) -> None:
    state = make_rendezvous(*THREE, world_size=20, completed_at=FORMED)
    job = training_job(nprocPerNode=workers)
    first = decide(job, seen(*THREE, rendezvous=state), at(0))
    again = decide(job.model_copy(update={"status": first.status}), seen(*THREE), at(1))
    assert (again.status.membership.nodes, again.status.membership.world_size) == (3, 20)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"[0, 12, 0, 12]", 12),
        (b"[0, 1]", 1),
        (b"", None),
        (b"[]", None),
        (b"7", None),
        (b"null", None),
        (b"{}", None),
        (b'{"1": 2}', None),
        (b"[0, true]", None),
        (b"[0, 0]", None),
        (b"[0, -3]", None),
        (b"[0, 2.5]", None),
        (b"[0, 99999999999]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_what_agents_say_of_their_ranks(said: bytes, expected: int | None) -> None:
    assert world_of(said) == expected
