"""The rendezvous host with real agents while the operator is down, and while processes stall or are cut off."""

import logging
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from rendezvous_agents import ALL_REDUCE, Job, address
from rendezvous_host import Host, Operator, running_host, wait_for

_log = logging.getLogger(__name__)
pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]
LAST_CALL = 15.0
"""The default of jobs."""


@pytest.fixture
def job(host: Host, tmp_path: Path) -> Iterator[Job]:
    made = Job(host, tmp_path, ALL_REDUCE)
    yield made
    made.close()


def _train(job: Job, *indexes: int, minimum: int = 2) -> None:
    job.host.want(len(indexes), minimum, last_call=LAST_CALL)
    job.start(*indexes)
    job.step_after(time.time(), len(indexes))


def _alone(host: Host) -> None:
    wait_for(lambda: host.metrics()["operator_silence_seconds"] > 5, "the operator is away")


def _formed_at(host: Host, number: int) -> float:
    """Return when a round was completed, in seconds since 1970.

    The time comes from the log: a request to the host would count as one of the operator.
    """
    found = wait_for(
        lambda: [e for e in host.events("round-completed") if e["round"] == number], f"round {number} is complete"
    )
    return datetime.fromisoformat(found[0]["time"]).timestamp()


def test_a_killed_node_is_evicted_and_a_returning_one_joins(job: Job, host: Host) -> None:
    with Operator(host):
        _train(job, 0, 1, 2)
    _alone(host)
    for victim in (2, 0):
        rounds = len(host.events("round-completed"))
        moment = job.kill(victim)
        seconds = _formed_at(host, rounds) - moment
        _log.info(
            "kill of %d: next round after %.1f s, next step after %.1f s", victim, seconds, job.step_after(moment, 2)
        )
        assert seconds < 8
        began = time.time()
        job.start(victim)
        _log.info("it comes back: next step after %.1f s", job.step_after(began, 3))
    assert host.metrics()['evictions_total{reason="disconnected"}'] == 2
    assert host.metrics()["rounds_alone_total"] == 4
    assert host.state()["roundsEnded"] == {"requested": 4, "unrequested": 0}

    # The operator returns with the same target: nothing changes.
    completed = host.events("round-completed")
    with Operator(host):
        host.want(3, 2, last_call=LAST_CALL)
        wait_for(lambda: host.metrics()["operator_silence_seconds"] < 1, "the operator is there")
        job.step_after(time.time() + 3, 3)
    assert host.events("round-completed") == completed
    assert job.end() == {0: 0, 1: 0, 2: 0}


def test_the_operator_ends_just_before_a_node(job: Job, host: Host) -> None:
    with Operator(host):
        _train(job, 0, 1, 2)
    moment = job.kill(1)
    seconds = _formed_at(host, 1) - moment
    _log.info("next round after %.1f s, next step after %.1f s", seconds, job.step_after(moment, 2))
    assert seconds < 10


def test_too_few_survivors_wait_until_another_comes(job: Job, host: Host) -> None:
    _train(job, 0, 1)
    job.kill(1)
    wait_for(lambda: host.events("round-ended"), "the survivor has left the round")
    _alone(host)
    wait_for(lambda: host.state()["waiting"] == [address(0)], "the survivor waits")
    assert len(host.events("round-completed")) == 1
    began = time.time()
    job.start(1)
    job.step_after(began, 2)


def test_a_lost_node_is_evicted_and_joins_when_it_is_back(job: Job, host: Host) -> None:
    _train(job, 0, 1, 2)
    _alone(host)
    moment = job.freeze(1)
    seconds = _formed_at(host, 1) - moment
    _log.info("loss: next round after %.1f s, next step after %.1f s", seconds, job.step_after(moment, 2))
    assert seconds < 20
    assert host.metrics()['evictions_total{reason="silent"}'] == 1
    back = time.time()
    job.thaw(1)
    _log.info("it is back: next step after %.1f s", job.step_after(back, 3))
    assert host.state()["roundsEnded"] == {"requested": 2, "unrequested": 0}


def test_a_stall_of_the_host_expires_no_node(job: Job, host: Host) -> None:
    _train(job, 0, 1)
    wait_for(lambda: host.events("round-settled"), "the round has settled")
    host.process.send_signal(signal.SIGSTOP)
    frozen = time.time()
    job.step_after(frozen + 12, 2)
    host.process.send_signal(signal.SIGCONT)
    job.step_after(time.time() + 10, 2)
    assert [e["addresses"] for e in host.events("evicted")] == []
    assert len(host.events("round-completed")) == 1
    assert job.end() == {0: 0, 1: 0}


def test_a_host_that_is_cut_off_from_all_nodes_expires_none(job: Job, host: Host) -> None:
    _train(job, 0, 1)
    wait_for(lambda: host.events("round-settled"), "the round has settled")
    for relay in job.relays.values():
        relay.cut()
    job.step_after(time.time() + 10, 2)
    for relay in job.relays.values():
        relay.heal()
    job.step_after(time.time() + 10, 2)
    assert [e["addresses"] for e in host.events("evicted")] == []
    assert len(host.events("round-completed")) == 1


def test_the_host_ends_and_the_job_forms_a_new_round(tmp_path: Path) -> None:
    with running_host(tmp_path) as first:
        job = Job(first, tmp_path, ALL_REDUCE)
        try:
            _train(job, 0, 1)
            moment = time.time()
            first.stop(signal.SIGKILL)
            assert {index: agent.wait(30) for index, agent in job.agents.items()} == {0: 1, 1: 1}
            ended = time.time()
            _log.info("the agents ended %.1f s after the host", ended - moment)
            with running_host(tmp_path, port=first.port, http_port=first.http_port) as second:
                job.host = second
                second.want(2, 2, last_call=LAST_CALL)
                job.start(0, 1)
                _log.info("next step %.1f s after the agents' end", job.step_after(ended, 2))
                assert second.state()["roundsEnded"] == {"requested": 0, "unrequested": 0}
                assert job.end() == {0: 0, 1: 0}
        finally:
            job.close()
