"""The newest failure: its rank, exit code and message."""

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    NOW,
    THREE,
    after,
    at,
    failed,
    failing,
    instead,
    left,
    make_node,
    make_rendezvous,
    rejected,
    seen,
    suspended,
    terminating,
    training_job,
)
from torchrun_operator.api.v1alpha1 import Failure
from torchrun_operator.core.facts.logs import Log, logs_to_read
from torchrun_operator.core.facts.model import Cause, Exit, Facts, Phase
from torchrun_operator.core.facts.words import Words
from torchrun_operator.core.findings.failures import describe_failure, newest
from torchrun_operator.core.findings.losses import Loss
from torchrun_operator.core.findings.workers import WorkerFailures

NONE = WorkerFailures(0, 0)
WORKERS = WorkerFailures(1, 1, by=("10.0.1.2",))
RENDEZVOUS = left(make_rendezvous(*THREE), 1, at(-5), "10.0.1.2")
BANANA = Words("ValueError: a banana", "Traceback…", rank=5, local_rank=1, exit_code=1, time=at(-6))
DELETED = Loss(0, "digits-0", Cause.INFRASTRUCTURE, "was deleted", rank=0, machine="machine-0")
OUT_OF_MEMORY = Loss(
    1, "digits-1", Cause.CODE, "exited with code 137 (OOMKilled)", Exit(137, "OOMKilled", "", at(-2)), 1, "machine-1"
)
INIT_FAILED = replace(OUT_OF_MEMORY, what="", exit=Exit(7, "Error", "", at(-2), container="fetch-data"), rank=None)
LAST_LINE = Words(
    "fetch: no bucket s3://data",
    "fetch: start\nfetch: no bucket s3://data",
    local_rank=0,
    exit_code=2,
    time=at(-6),
    guessed=True,
)
FILE = '{"message": {"message": "ValueError: a plum", "extraInfo": {"py_callstack": "Traceback (plum)"}}}'


def workers(**found: Any) -> Failure:
    return Failure(**{"time": at(-5), "cause": "code", "reason": "WorkersFailed", **found})


NEWEST: dict[str, tuple[dict[str, Words], tuple[Loss, ...], WorkerFailures, Failure | None]] = {
    "nothing": ({}, (), NONE, None),
    "workers without a log": (
        {},
        (),
        WORKERS,
        workers(pod="digits-2", machine="machine-2", message="a worker failed"),
    ),
    "workers of an unknown pod": (
        {},
        (),
        replace(WORKERS, by=("10.9.9.9",)),
        workers(message="a worker failed"),
    ),
    "workers with a log": (
        {"digits-1": BANANA},
        (),
        WORKERS,
        workers(
            pod="digits-1",
            machine="machine-1",
            rank=5,
            exit_code=1,
            message="ValueError: a banana",
            traceback="Traceback…",
        ),
    ),
    "workers, while a spare failed for a reason of its own": (
        {"digits-3": BANANA},
        (),
        WORKERS,
        workers(pod="digits-2", machine="machine-2", message="a worker failed"),
    ),
    "a worker that was killed": (
        {"digits-1": Words(exit_code=-11, local_rank=1, time=at(-6))},
        (),
        WORKERS,
        workers(
            pod="digits-1",
            machine="machine-1",
            rank=3,  # the second of two on the second node
            exit_code=-11,
            signal="SIGSEGV",
            message="a worker was ended by SIGSEGV",
        ),
    ),
    "a node that is gone": (
        {},
        (DELETED,),
        NONE,
        Failure(time=NOW, cause="infrastructure", pod="digits-0", machine="machine-0", message="was deleted"),
    ),
    "the code's comes first": (
        {},
        (DELETED, OUT_OF_MEMORY),
        NONE,
        Failure(
            time=at(-2),
            cause="code",
            pod="digits-1",
            machine="machine-1",
            exit_code=137,
            signal="SIGKILL",
            reason="OOMKilled",
            message="exited with code 137 (OOMKilled)",
        ),
    ),
    "with the error file of its agent": (
        {},
        (replace(OUT_OF_MEMORY, exit=Exit(1, "Error", FILE, at(-2))),),
        NONE,
        Failure(
            time=at(-2),
            cause="code",
            pod="digits-1",
            machine="machine-1",
            exit_code=1,
            reason="Error",
            message="ValueError: a plum",
            traceback="Traceback (plum)",
        ),
    ),
    "an init container, with the last line of its log": (
        {"digits-1": replace(LAST_LINE, exit_code=None)},
        (INIT_FAILED,),
        NONE,
        Failure(
            time=at(-2),
            cause="code",
            pod="digits-1",
            container="fetch-data",
            machine="machine-1",
            exit_code=7,
            reason="Error",
            message="fetch: no bucket s3://data",
            traceback="fetch: start\nfetch: no bucket s3://data",
        ),
    ),
    "an init container, without its log": (
        {},
        (INIT_FAILED,),
        NONE,
        Failure(
            time=at(-2),
            cause="code",
            pod="digits-1",
            container="fetch-data",
            machine="machine-1",
            exit_code=7,
            reason="Error",
            message="exited with code 7 (Error)",
        ),
    ),
    "two pods: the one that failed first by their logs": (
        {"digits-1": replace(BANANA, time=at(-1)), "digits-2": replace(BANANA, message="OSError: a plum", rank=3)},
        (OUT_OF_MEMORY, replace(OUT_OF_MEMORY, index=2, pod="digits-2", machine="machine-2")),
        NONE,
        Failure(
            time=at(-2),
            cause="code",
            pod="digits-2",
            machine="machine-2",
            rank=3,
            exit_code=137,
            signal="SIGKILL",
            reason="OOMKilled",
            message="OSError: a plum",
            traceback="Traceback…",
        ),
    ),
    "workers whose last line is all that is known": (
        {"digits-1": LAST_LINE},
        (),
        WORKERS,
        workers(
            pod="digits-1",
            machine="machine-1",
            rank=2,
            exit_code=2,
            message="fetch: no bucket s3://data",
            traceback="fetch: start\nfetch: no bucket s3://data",
        ),
    ),
    "with the end of its log": (
        {"digits-1": BANANA},
        (OUT_OF_MEMORY,),
        NONE,
        Failure(
            time=at(-2),
            cause="code",
            pod="digits-1",
            machine="machine-1",
            rank=5,
            exit_code=137,
            signal="SIGKILL",
            reason="OOMKilled",
            message="ValueError: a banana",
            traceback="Traceback…",
        ),
    ),
}


@pytest.mark.parametrize(("said", "losses", "failures", "expected"), NEWEST.values(), ids=NEWEST)
def test_newest(
    said: dict[str, Words], losses: tuple[Loss, ...], failures: WorkerFailures, expected: Failure | None
) -> None:
    found = seen(*THREE, rendezvous=RENDEZVOUS, said=said, job=training_job(nprocPerNode=2))
    assert newest(found, losses, failures, None) == expected


MANY = tuple(make_node(index) for index in range(12))
LOGS: dict[str, tuple[Facts, tuple[Log, ...]]] = {
    "nothing has failed": (seen(*THREE, rendezvous=make_rendezvous(*THREE)), ()),
    "a pod has failed": (seen(*instead(THREE, failed(1, 3))), (Log("digits-1", ended=True),)),
    "an init container has failed": (
        seen(*instead(THREE, failed(1, 3, container="fetch-data"))),
        (Log("digits-1", "fetch-data", ended=True),),
    ),
    "a pod has failed before a container ran": (seen(*instead(THREE, failed(1, -1, "Failed"))), ()),
    "a pod was killed": (seen(*instead(THREE, failed(1, 137))), ()),
    "a pod is out of memory, which is the code's fault": (
        seen(*instead(THREE, failed(1, 137, "OOMKilled"))),
        (Log("digits-1", ended=True),),
    ),
    "a Kubernetes node shut down, and may not answer": (seen(*instead(THREE, rejected(1, "NodeShutdown"))), ()),
    "a pod was evicted": (seen(*instead(THREE, failed(1, 1, disruption="EvictionByEvictionAPI"))), ()),
    "a pod is being deleted": (seen(*instead(THREE, terminating(THREE[1]))), ()),
    "workers have failed": (
        seen(*THREE, rendezvous=left(make_rendezvous(*THREE), 1, at(-3), "10.0.1.2")),
        (Log("digits-2"), Log("digits-0"), Log("digits-1")),
    ),
    "workers have just failed": (
        seen(*THREE, rendezvous=left(make_rendezvous(*THREE), 1, at(-3), "10.0.1.2"), job=training_job()),
        (),
    ),
    "a pod and workers have failed": (
        seen(*instead(THREE, failed(0, 3)), rendezvous=left(make_rendezvous(*THREE), 1, at(-3), "10.0.1.2")),
        (Log("digits-2"), Log("digits-0", ended=True), Log("digits-1")),
    ),
}


@pytest.mark.parametrize(("found", "expected"), LOGS.values(), ids=LOGS)
def test_logs_to_read(found: Facts, expected: tuple[Log, ...]) -> None:
    job = found.job if found.job.status.nodes else failing(training_job())
    assert logs_to_read(replace(found, job=job)) == expected


def test_no_more_than_eight_logs_are_read() -> None:
    state = left(make_rendezvous(*MANY), 1, at(-3), "10.0.1.11")
    job = failing(training_job(*MANY, nnodes="2:12", replicas=12))
    found = logs_to_read(seen(*MANY, rendezvous=state, job=job))
    assert (len(found), found[0].pod) == (8, "digits-11")


def test_logs_of_members_leave_room_for_those_of_failed_pods() -> None:
    state = left(make_rendezvous(*MANY), 1, at(-3), "10.0.1.11")
    job = failing(training_job(*MANY, nnodes="2:12", replicas=12))
    found = logs_to_read(seen(*instead(MANY, failed(9, 3)), rendezvous=state, job=job))
    assert (len(found), found[-1].pod) == (9, "digits-9")


def test_eight_logs_of_members_are_read_whichever_left_first() -> None:
    state = left(make_rendezvous(*MANY), 1, at(-3), "10.0.1.2")
    job = failing(training_job(*MANY, nnodes="2:12", replicas=12))
    found = logs_to_read(seen(*MANY, rendezvous=state, job=job))
    assert (len(found), found[0].pod) == (8, "digits-2")


def test_logs_of_failed_members_come_before_those_of_nodes_that_never_trained() -> None:
    job = training_job(*MANY[8:], nnodes="2:12", replicas=12)
    found = logs_to_read(seen(*(failed(index, 3) for index in range(12)), job=job))
    assert (len(found), tuple(log.pod for log in found[:5])) == (
        8,
        ("digits-8", "digits-9", "digits-10", "digits-11", "digits-0"),
    )


def test_no_logs_are_read_where_nothing_is_counted() -> None:
    nodes = instead(THREE, failed(1, 3))
    job = training_job()
    complete = after(job, seen(*(make_node(index, Phase.SUCCEEDED) for index in range(3))))
    assert logs_to_read(seen(*nodes, job=suspended(job))) == ()
    assert logs_to_read(seen(failed(1, 3, life=2), job=complete)) == ()


def test_logs_of_counted_failures_are_not_read_again() -> None:
    nodes = instead(THREE, failed(1, 3))
    job = after(training_job(), seen(*nodes))
    assert logs_to_read(seen(*nodes, job=job)) == ()


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure(time=NOW, cause="code", message="a worker failed"), "an unknown node failed first: a worker failed"),
        (
            workers(pod="digits-1", rank=5, exit_code=1, message="ValueError: a banana"),
            "rank 5 (pod digits-1) failed first: ValueError: a banana (exit code 1)",
        ),
        (
            workers(pod="digits-1", rank=3, exit_code=-11, signal="SIGSEGV", message="a worker was ended by SIGSEGV"),
            "rank 3 (pod digits-1) failed first: a worker was ended by SIGSEGV (exit code -11, SIGSEGV)",
        ),
        (
            Failure(time=NOW, cause="code", pod="digits-1", container="fetch-data", exit_code=7, message="no bucket"),
            "container fetch-data of pod digits-1 failed first: no bucket (exit code 7)",
        ),
        (
            Failure(
                time=NOW,
                cause="code",
                pod="digits-1",
                exit_code=137,
                signal="SIGKILL",
                reason="OOMKilled",
                message="exited with code 137 (OOMKilled)",
            ),
            "pod digits-1 failed first: exited with code 137 (OOMKilled)",
        ),
    ],
    ids=["an unknown node", "a worker", "a killed worker", "an init container", "a pod"],
)
def test_describe_failure(failure: Failure, words: str) -> None:
    assert describe_failure(failure) == words
