"""What a job and its rendezvous pod say of themselves: each case has the whole list of what a check finds."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from doctor_jobs import (
    FAILED,
    NOW,
    OK,
    PODS,
    UNKNOWN,
    WARNING,
    Row,
    case,
    check,
    condition,
    host,
    job,
    named,
    seen,
    with_trainer,
)
from torchrun_cli.doctor.checks import JOB_CHECKS, job_findings
from torchrun_cli.doctor.clocks import clocks
from torchrun_cli.doctor.control import ClusterCase
from torchrun_cli.doctor.findings import Check, Finding, Unread, run
from torchrun_cli.doctor.quota import quotas
from torchrun_cli.doctor.state import conditions, rendezvous, spec

TRAINING = condition("Running", "True", "Training", "3 of 3 nodes train in round 2")
CAPACITY = condition("Scheduled", "False", "WaitingForCapacity", "pod digits-2 cannot be scheduled: no GPU")
SEE = "docs/troubleshooting.md"


OF_ANOTHER = pytest.param(
    job(None, managedBy="kueue.x-k8s.io/multikueue"),
    [
        (
            WARNING,
            "kueue.x-k8s.io/multikueue manages the job, as spec.managedBy says, and has not written its status",
            "see whether the controller kueue.x-k8s.io/multikueue runs; this operator does not act",
        )
    ],
    id="of another controller",
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(
            job(conditions=(TRAINING,)), [(OK, "Running: 3 of 3 nodes train in round 2")], id="a job that trains"
        ),
        pytest.param(
            job("Starting", conditions=(condition("Running", "False", "PodsWaiting", "pod digits-0\n cannot start"),)),
            [(FAILED, "Running is False (PodsWaiting): pod digits-0 cannot start", f"see PodsWaiting in {SEE}")],
            id="pods that wait",
        ),
        pytest.param(
            job(conditions=(CAPACITY, TRAINING)),
            [
                (
                    *(WARNING, "Scheduled is False (WaitingForCapacity): pod digits-2 cannot be scheduled: no GPU"),
                    f"see WaitingForCapacity in {SEE}",
                )
            ],
            id="it trains with fewer nodes",
        ),
        pytest.param(
            job("Starting", conditions=(condition("Running", "False", "WaitingForNodes", "1 of 2", "11:59:50"),)),
            [(WARNING, "Running is False (WaitingForNodes): 1 of 2", f"see WaitingForNodes in {SEE}")],
            id="a start of ten seconds",
        ),
        pytest.param(
            job("Failed", conditions=(condition("Failed", "True", "NeverTrained", "no node joined"), CAPACITY)),
            [(FAILED, "Failed is True (NeverTrained): no node joined", f"see NeverTrained in {SEE}")],
            id="a job that failed says nothing else",
        ),
        pytest.param(
            job("Complete", conditions=(condition("OutputsUploaded", "False", "UploadFailed", "no access"),)),
            [(FAILED, "OutputsUploaded is False (UploadFailed): no access", f"see UploadFailed in {SEE}")],
            id="complete, and its upload failed",
        ),
        pytest.param(job("Complete"), [(OK, "the job is complete")], id="complete"),
        pytest.param(
            job("Suspended", suspend=True),
            [(OK, "the job is suspended; what follows is about its next start: kubectl torchrun resume")],
            id="suspended",
        ),
        pytest.param(
            job(None),
            [
                (
                    *(FAILED, "the operator has not seen the job, which is 1h old"),
                    "run kubectl torchrun doctor without a name: does the operator run, and watch this namespace?",
                )
            ],
            id="never seen",
        ),
        OF_ANOTHER,
    ],
)
def test_conditions(found: dict[str, Any], expected: list[Row]) -> None:
    check(conditions, case(found), *expected)


SUFFICES = (
    "remove it: the operator sets nodes, workers and rendezvous in the environment, so torchrun and the script suffice"
)
SHELL = {"command": ["bash", "-c", "torchrun --standalone train.py"]}
OF_THE_LEAD = pytest.param(
    job("Starting", lead=SHELL),
    [],
    [
        (
            *(FAILED, "the command of the lead gives torchrun --standalone, which leads to another rendezvous"),
            SUFFICES,
        )
    ],
    id="an option of the lead",
)


@pytest.mark.parametrize(
    ("found", "problems", "expected"),
    [
        pytest.param(
            job(),
            [],
            [(OK, "valid, and nothing in the command stands against the settings of the operator")],
            id="valid",
        ),
        pytest.param(
            job(),
            ["spec.nnodes: MIN is greater than MAX"],
            [
                (
                    *(FAILED, "spec.nnodes: MIN is greater than MAX"),
                    "change the field; most fields of a running job change only while it is suspended",
                )
            ],
            id="invalid",
        ),
        pytest.param(
            with_trainer(job("Starting"), **SHELL),
            [],
            [
                (
                    *(FAILED, "the command gives torchrun --standalone, which leads to another rendezvous"),
                    SUFFICES,
                )
            ],
            id="an option that leads elsewhere",
        ),
        pytest.param(
            with_trainer(job("Starting"), command=["python", "train.py"]),
            [],
            [
                (
                    *(WARNING, 'the command runs "python train.py", not torchrun'),
                    "write torchrun train.py, or set spec.rendezvous.backend to static for fixed ranks",
                )
            ],
            id="no torchrun",
        ),
        OF_THE_LEAD,
        pytest.param(
            with_trainer(job(conditions=(TRAINING,)), command=["/run.sh"]),
            [],
            [(OK, "valid, and nothing in the command stands against the settings of the operator")],
            id="a job that trains has the right command",
        ),
    ],
)
def test_spec(found: dict[str, Any], problems: list[str], expected: list[Row]) -> None:
    check(spec, case(found, *problems), *expected)


UNHEARD = condition("Running", "False", "StartingRendezvous", "no answer")
LOGS = "see kubectl -n ml logs digits-rdzv"


@pytest.mark.parametrize(
    ("found", "pods", "expected"),
    [
        pytest.param(job(), PODS, [(OK, "digits-rdzv is ready")], id="ready"),
        pytest.param(
            job(), (), [(FAILED, "the pod digits-rdzv does not exist", "see the conditions above")], id="missing"
        ),
        pytest.param(
            job(), (host(ready=False),), [(FAILED, "the pod digits-rdzv is not ready (Running)", LOGS)], id="not ready"
        ),
        pytest.param(
            job(),
            (host(restarts=1),),
            [(WARNING, "digits-rdzv is ready after 1 restart", f"{LOGS} --previous")],
            id="again",
        ),
        pytest.param(
            job("Starting", conditions=(UNHEARD,)),
            PODS,
            [
                (
                    *(FAILED, "the pod digits-rdzv is ready, but the operator does not hear it"),
                    "network policies must let the operator reach its TCP port 29401",
                )
            ],
            id="the operator does not hear it",
        ),
        pytest.param(job("Suspended", suspend=True), (), [], id="suspended"),
        pytest.param(job(rendezvous={"backend": "static"}, nnodes=3), (), [], id="a static job has none"),
    ],
)
def test_rendezvous(found: dict[str, Any], pods: tuple[Any, ...], expected: list[Row]) -> None:
    check(rendezvous, case(found, pods=pods), *expected)


def lease(name: str, ahead: int) -> dict[str, Any]:
    written = {"managedFields": [{"time": "2026-01-31T11:59:00Z"}]}
    said = (NOW - timedelta(seconds=60 - ahead)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    return named("Lease", name, metadata=written, spec={"renewTime": said})


@pytest.mark.parametrize(
    ("off", "leases", "expected"),
    [
        pytest.param(
            1,
            [lease("w1", 0), lease("w2", -9)],
            [(OK, "this computer and the API server agree within 3 s, those of 2 Kubernetes nodes too")],
            id="together",
        ),
        pytest.param(
            -90,
            [],
            [
                (
                    *(WARNING, "the clock of this computer is 1m30s behind that of the API server"),
                    "set it: the ages that this program shows are wrong",
                )
            ],
            id="this computer",
        ),
        pytest.param(
            0,
            [lease("w1", 0), lease("w2", 40)],
            [
                (
                    *(WARNING, "the clock of the Kubernetes node w2 is 40s ahead of that of the API server"),
                    "run NTP there: times of the operator and of pods would not agree",
                )
            ],
            id="a Kubernetes node",
        ),
        pytest.param(None, [], [(UNKNOWN, "the API server did not say its time")], id="unknown"),
    ],
)
def test_clocks(off: int | None, leases: list[Any], expected: list[Row]) -> None:
    server = None if off is None else NOW - timedelta(seconds=off)
    found = case(job(), leases=tuple(leases))
    check(clocks, replace(found, seen=replace(found.seen, server_time=server)), *expected)


def test_what_must_not_be_read_is_skipped() -> None:
    forbidden = Unread("not allowed to read resourcequotas in the namespace ml")
    found = case(job(), resourcequotas=forbidden)
    expected = Finding("quota", UNKNOWN, "not allowed to read resourcequotas in the namespace ml: skipped")
    assert run([Check("quota", quotas, ("resourcequotas",))], found, found.seen) == [expected]
    everything = dict.fromkeys(
        ("pods", "deployments", *(name for each in JOB_CHECKS for name in each.needs)), Unread("not allowed")
    )
    of = case(job(conditions=(TRAINING,)), **everything)
    got = job_findings(of, ClusterCase(seen(**everything), "1", frozenset(), "ml"))
    assert [(each.check, each.level) for each in got if each.level is not UNKNOWN][:2] == [
        ("conditions", OK),
        ("spec", OK),
    ]
    assert {each.level for each in got} == {OK, UNKNOWN}


def test_of_a_job_that_has_ended_only_its_own_words_count() -> None:
    found = job("Failed", conditions=(condition("Failed", "True", "NeverTrained", "no node joined"),))
    got = job_findings(case(found, pods=()), ClusterCase(seen(), "1", frozenset(), "ml"))
    assert [each.check for each in got] == ["conditions"]
