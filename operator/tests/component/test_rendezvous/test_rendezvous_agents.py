"""Real torchrun agents with a real rendezvous host."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rendezvous_agents import ALL_REDUCE, ALONE, Job, address
from rendezvous_host import Host, wait_for
from torchrun_operator.programs import zipapp

_log = logging.getLogger(__name__)
pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]


@pytest.fixture
def job(host: Host, tmp_path: Path) -> Iterator[Job]:
    made = Job(host, tmp_path, ALONE)
    yield made
    made.close()


def _ended(host: Host) -> object:
    return host.state()["roundsEnded"]


def test_a_killed_node_is_left_behind_and_a_new_one_joins(job: Job, host: Host) -> None:
    job.script = ALL_REDUCE
    host.want(3, 3)  # on a busy computer, two would start without the third after the last call
    began = time.time()
    job.start(0, 1, 2)
    _log.info("%s: %.1f s", "start to first step", job.step_after(began, 3))
    host.want(3, 2)

    for victim, survivors in ((1, (0, 2)), (0, (1, 2))):
        job.formed(0, 1, 2)
        moment = job.kill(victim)
        host.want(2, 2, (address(victim),))
        _log.info("%s: %.1f s", f"kill of rank {victim} to next step", job.step_after(moment, 2))
        job.formed(*survivors)

        began = time.time()
        job.start(victim)
        host.want(3, 2)
        _log.info("%s: %.1f s", f"new agent {victim} to next step", job.step_after(began, 3))

    job.formed(0, 1, 2)
    assert _ended(host) == {"requested": 4, "unrequested": 0}
    assert job.end() == {0: 0, 1: 0, 2: 0}
    wait_for(lambda: host.state()["closed"], "the agents' success closes the rendezvous")


def test_nodes_with_different_numbers_of_workers(job: Job, host: Host) -> None:
    """Ranks are unique, and the host knows the number of all workers although the script does not report it."""
    job.script, job.workers = ALL_REDUCE, {0: 2, 1: 1}
    host.want(2, 2)
    began = time.time()
    job.start(0, 1)
    job.step_after(began, 3)
    job.formed(0, 1)
    wait_for(lambda: host.state().get("worldSize") == 3, "the size of the world")
    moment = job.kill(1)
    host.want(1, 1, (address(1),))
    job.step_after(moment, 2)
    wait_for(lambda: host.state().get("worldSize") == 2, "the size of the smaller world")
    assert job.end() == {0: 0}


def test_a_worker_that_fails_after_another_node_has_finished(job: Job, host: Host) -> None:
    host.want(2, 2)
    job.start(0, 1)
    job.formed(0, 1)
    (job.directory / f"until.{address(1)}").touch()
    wait_for(lambda: host.state()["finished"] == 1, "a node has finished")
    assert (host.state()["complete"], host.state()["unfinished"]) == (True, [])

    moment = time.time()
    (job.directory / f"until.fail.{address(0)}").touch()
    wait_for(lambda: host.state()["unfinished"] == [address(0)], "the other one is back")
    _log.info("from the failure to its report: %.1f s", time.time() - moment)
    assert (host.state()["complete"], _ended(host)) == (False, {"requested": 0, "unrequested": 1})
    last = host.state()["lastUnrequested"]
    assert isinstance(last, dict)
    assert (last["round"], last["addresses"]) == (0, [address(0)])

    host.close()
    assert {index: agent.wait(60) for index, agent in job.agents.items()} == {0: 1, 1: 0}


def test_failing_workers_surplus_nodes_and_the_end(job: Job, host: Host) -> None:
    host.want(3, 3)  # on a busy computer, two would start without the third after the last call
    job.start(0, 1, 2)
    job.formed(0, 1, 2)

    (job.directory / f"until.fail.{address(1)}").touch()
    wait_for(lambda: host.events("round-ended"), "the failed worker ends the round")
    job.formed(0, 1, 2)
    assert _ended(host) == {"requested": 0, "unrequested": 1}
    last = host.state()["lastUnrequested"]
    assert isinstance(last, dict)
    assert (last["round"], last["addresses"]) == (0, [address(1)])

    # The operator scales down in this way: the target names the node, and its pod gets SIGTERM.
    host.want(2, 2, (address(2),))
    job.agents[2].send_signal(signal.SIGTERM)
    job.formed(0, 1)
    assert job.agents.pop(2).wait(180) != 0

    # An unwanted agent waits. It does not disturb the members, neither now nor once the round has settled.
    completed = host.events("round-completed")
    host.want(2, 2)
    job.start(2)
    wait_for(lambda: host.state()["waiting"] == [address(2)], "the surplus node waits")
    settled = {"event": "round-settled", "round": completed[-1]["round"]}
    wait_for(
        lambda: any(settled.items() <= event.items() for event in host.events("round-settled")), "the round has settled"
    )
    assert host.events("round-completed") == completed
    host.want(3, 2)
    job.formed(0, 1, 2)
    assert _ended(host) == {"requested": 2, "unrequested": 1}

    assert job.end() == {0: 0, 1: 0, 2: 0}
    wait_for(lambda: host.state()["closed"], "the agents' success closes the rendezvous")


def test_rank_0_ends_before_it_publishes_its_address(job: Job, host: Host) -> None:
    host.want(4, 4)
    job.start(0, 1, 2)
    everybody = [address(i) for i in range(3)]
    wait_for(lambda: host.state()["waiting"] == everybody, "three nodes wait for the fourth")
    job.agents[0].send_signal(signal.SIGSTOP)
    host.want(3, 3)
    job.formed(0, 1, 2)

    moment = job.kill(0)
    host.want(2, 2, (address(0),))
    job.formed(1, 2)
    _log.info("kill of rank 0 to next step: %.1f s", job.step_after(moment, 2))
    assert [e["key"] for e in host.events("repaired")] == ["MASTER_ADDR", "MASTER_PORT"]
    assert job.end() == {1: 0, 2: 0}


def test_closing_sends_the_agents_home(job: Job, host: Host) -> None:
    host.want(2, 2)
    job.start(0, 1)
    job.formed(0, 1)
    host.close()
    assert {index: agent.wait(180) for index, agent in job.agents.items()} == {0: 1, 1: 1}
    assert host.state()["closed"] is True


# Training with the library. Rank 1 hangs once, in the middle of a step.
HANGS = """
import os, sys, time
import torch, torch.distributed as dist
from torchrun_trainer import Run, defer_compiler

out, until = sys.argv[1:]
os.environ["TORCHRUN_PROGRESS_URL"] = "@URL@"


def hangs_here():
    os.remove(f"{until}.hang")
    while True:
        time.sleep(60)


defer_compiler()
dist.init_process_group("gloo")
run = Run("", report_seconds=0.5)
for step in run.steps(1_000_000):
    done = torch.tensor(float(os.path.exists(until)))
    dist.all_reduce(done)
    if run.rank == 0:
        with open(out, "a") as lines:
            lines.write(f"{time.time()} {step} {run.world_size} {os.environ['GROUP_RANK']}\\n")
    if done:
        break
    if run.rank == 1 and os.path.exists(f"{until}.hang"):
        hangs_here()
    time.sleep(0.05)
dist.destroy_process_group()
"""
DEADLINE = 10.0


def _allow(host: Host, size: int, *leavers: str, end_round: tuple[str, int] | None = None) -> None:
    """Send a target as the operator does: the deadline, and the round that must end."""
    wanted = {"generation": 1, "size": size, "min": size, "lastCallSeconds": 1.0, "leavers": leavers}
    ended = {"instance": end_round[0], "round": end_round[1]} if end_round is not None else None
    host.authorized("PUT", "/v1/target", {**wanted, "progressDeadlineSeconds": DEADLINE, "endRound": ended})


def test_a_worker_that_hangs_is_noticed_reported_and_restarted(job: Job, host: Host) -> None:
    job.script = HANGS.replace("@URL@", f"http://127.0.0.1:{host.http_port}/v1/progress")
    _allow(host, 2)
    job.start(0, 1)
    wait_for(lambda: host.state()["pace"]["longestStartSeconds"], "two steps are reported")
    (job.directory / "until.hang").touch()
    wait_for(lambda: not (job.directory / "until.hang").exists(), "rank 1 hangs")
    hung = time.time()
    overdue = wait_for(lambda: host.state()["pace"]["overdue"], "the round is overdue", 60)

    # The stacks are logged before any action. The stack of the hanging worker shows where it hangs.
    logs = [(job.directory / f"agent-{index}.log").read_text() for index in (0, 1)]
    assert ["[rank 0] no step for " in logs[0], "[rank 1] no step for " in logs[1]] == [True, True]
    assert ["in hangs_here" in log for log in logs] == [False, True]
    assert time.time() - hung > DEADLINE - 3
    assert (overdue["round"], overdue["starting"], overdue["seconds"]) == (0, False, DEADLINE)

    _allow(host, 2, end_round=("another host", 0))
    assert host.events("round-kicked") == []
    asked = time.time()
    _allow(host, 2, end_round=(host.state()["instance"], 0))
    _log.info("%s: %.1f s", "request to end a round that hangs to next step", job.step_after(asked, 2))
    job.formed(0, 1)
    assert [event["reason"] for event in host.events("round-kicked")] == ["no progress"]
    assert _ended(host) == {"requested": 1, "unrequested": 0}
    assert host.state()["pace"]["overdue"] is None
    assert job.end() == {0: 0, 1: 0}
    assert [event["reason"] for event in host.events("round-kicked")] == ["no progress"]


def test_a_member_that_does_not_come_to_the_next_round_is_reported(job: Job, host: Host) -> None:
    _allow(host, 2)
    job.start(0, 1)
    job.formed(0, 1)
    wait_for(lambda: host.events("round-settled"), "the round has settled")
    job.agents[1].send_signal(signal.SIGSTOP)
    _allow(host, 2, end_round=(host.state()["instance"], 0))
    assert wait_for(lambda: host.state()["missing"], "the stopped agent is missed") == [address(1)]
    assert host.state()["waiting"] == [address(0)]
    job.kill(1)
    _allow(host, 2, address(1))
    job.start(2)
    job.formed(0, 2)
    assert host.state()["missing"] == []
    assert job.end() == {0: 0, 2: 0}


def test_a_spare_waits_unseen_and_takes_the_place_of_a_lost_node(job: Job, host: Host) -> None:
    job.script = ALL_REDUCE
    host.want(2, 2)
    job.start(1, 2)
    job.formed(1, 2)
    job.start(0)  # it arrives while the members read the new round, and it has the lowest address
    wait_for(lambda: host.state()["waiting"] == [address(0)], "the spare waits")
    settled = len(host.events("round-completed"))
    wait_for(lambda: len(host.events("round-settled")) == settled, "the round has settled")
    assert job.addresses() == [address(1), address(2)]
    assert _ended(host) == {"requested": settled - 1, "unrequested": 0}

    job.kill(1)
    killed = time.time()
    host.want(2, 2, (address(1),))
    job.formed(0, 2)
    job.step_after(killed, 2)
    assert {line.world for line in job.lines()} == {2}

    job.start(1)  # the replacement is the next spare
    host.want(2, 2)
    wait_for(lambda: host.state()["waiting"] == [address(1)], "the replacement waits")
    job.kill(1)
    host.want(2, 2, (address(1),))
    wait_for(lambda: host.state()["waiting"] == [], "the spare is gone")
    wait_for(lambda: len(host.events("round-settled")) == settled + 1, "the round has settled")
    assert len(host.events("round-completed")) == settled + 1
    assert job.end() == {0: 0, 2: 0}


# Each start of the worker records whether torch was loaded from the beginning.
NOTES = """
import os, sys, time

out, until = sys.argv[1:]
with open(out, "a") as lines:
    lines.write(f"{time.time()} {int('torch' in sys.modules)} {os.environ['WORLD_SIZE']} {os.getpid()}\\n")
import torch
assert torch.ones(2).sum() == 2
while not os.path.exists(until):
    time.sleep(0.05)
"""


def test_workers_of_torchrun_start_warm(job: Job, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_bytes(zipapp("torchrun_launcher"))
    program.chmod(0o755)
    monkeypatch.setenv("PYTHON_EXEC", str(program))
    monkeypatch.setenv("POD_NAME", tmp_path.name)
    job.script = NOTES
    host.want(1, 1)
    job.start(0)
    for life in (1, 2, 3):
        wait_for(lambda life=life: len(job.lines()) == life, f"life {life} of the worker")  # type: ignore[misc]
        if life < 3:
            os.kill(job.lines()[-1].rank, signal.SIGKILL)  # the worker itself, not what torchrun watches
    assert [line.step for line in job.lines()] == [1, 1, 1]
    assert job.end() == {0: 0}
