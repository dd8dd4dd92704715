"""Which nodes have come to the rendezvous, why the others have not, since when, and where to look."""

from dataclasses import replace
from typing import Any

import pytest

from builders import (
    CREATED,
    HOST,
    NOW,
    THREE,
    after,
    at,
    decide,
    facts,
    failed,
    make_job,
    make_node,
    make_rendezvous,
    seen,
    terminating,
    training_job,
    without,
)
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.model import Facts, Phase, Wait
from torchrun_rendezvous.protocol import Member, Progress, RendezvousState

EMPTY = RendezvousState("aa", silent=())
ONE = replace(EMPTY, members=(Member("10.0.1.0", 0),))
RUN = tuple(replace(node, runs_since=at(-30 - node.index)) for node in THREE)
TRAINS = Progress(step=7, time=NOW, world_size=2)
STUCK = Wait("FailedMount", 'MountVolume.SetUp failed for volume "creds" : secret "s3" not found')
MANY = tuple(make_node(index, Phase.STARTING, wait=STUCK) for index in range(8))
SHELL = (
    "pip install -r requirements.txt && torchrun --nnodes=2 --rdzv_id=a --rdzv_backend=c10d --rdzv_endpoint=x:1 t.py"
)
OPTIONS = (
    "the command gives torchrun --nnodes, --rdzv_id, --rdzv_backend, --rdzv_endpoint, which lead to another "
    "rendezvous; remove them: the operator sets nodes, workers and rendezvous in the environment, so torchrun and the "
    "script suffice"
)
OF_LEAD = OPTIONS.replace("the command", "the command of the lead", 1)
STATIC = "or set spec.rendezvous.backend to static for fixed ranks"
SINCE = "pods digits-0, digits-1 and digits-2 are running since 2026-01-31T11:59:28Z, but no agent has come from there"
LOGS = "see kubectl -n team logs digits-0 -c trainer"
ELSEWHERE = (
    "the script reports progress, but no agent has joined the rendezvous of the job: the nodes train by themselves, "
    "and the operator neither sees nor repairs their rounds"
)
UNSEEN = (
    "torchrun must take its rendezvous from the PET_ variables of the container: check that the command of the trainer "
    "container ends with torchrun and the script, without options that name a rendezvous"
)


def runs(*command: str, **spec: Any) -> dict[str, Any]:
    """Return the spec of a job with that command."""
    container = {"name": "trainer", "image": "train:1", **({"command": [*command]} if command else {})}
    return {"template": {"spec": {"containers": [container]}}, **spec}


SITUATIONS: dict[str, tuple[dict[str, Any], Facts, str, str]] = {
    # name: the spec, the facts, reason and message of the condition Running
    "one has come, one starts, one does not exist": (
        {},
        seen(RUN[0], make_node(1, Phase.STARTING), rendezvous=ONE),
        "WaitingForNodes",
        "1 of at least 2 nodes has joined round 0 (digits-0); pod digits-1 is starting",
    ),
    "no agent has come from a node that runs": (
        {},
        seen(*RUN[:2], rendezvous=ONE),
        "WaitingForNodes",
        (
            "1 of at least 2 nodes has joined round 0 (digits-0); pod digits-1 is running since "
            "2026-01-31T11:59:29Z, but "
            "no agent has come from there; see kubectl -n team logs digits-1 -c trainer"
        ),
    ),
    "a node that waits for the round has come": (
        {},
        seen(*RUN[:2], rendezvous=replace(ONE, waiting=("10.0.1.1",))),
        "WaitingForNodes",
        "1 of at least 2 nodes has joined round 0 (digits-0, digits-1)",
    ),
    "a silent node": (
        {},
        seen(*RUN[:2], rendezvous=replace(ONE, members=(*ONE.members, Member("10.0.1.1", 1)), silent=("10.0.1.1",))),
        "WaitingForNodes",
        (
            "2 of at least 2 nodes have joined round 0 (digits-0); pod digits-1 is silent: the rendezvous host "
            "no longer "
            "hears its agent"
        ),
    ),
    "failed, lost and going": (
        {},
        seen(
            failed(0, 3, message="no data"),
            make_node(1, Phase.LOST, trouble="Kubernetes node m1 was removed from the cluster"),
            terminating(THREE[2]),
            rendezvous=EMPTY,
        ),
        "WaitingForNodes",
        (
            "0 of at least 2 nodes have joined round 0; pod digits-0 exited with code 3 (Error): no data; pod "
            "digits-1 is lost: "
            "Kubernetes node m1 was removed from the cluster; pod digits-2 is being deleted"
        ),
    ),
    "many wait for the same": (
        {"nnodes": "2:8", "replicas": 8},
        seen(*MANY, rendezvous=EMPTY),
        "PodsWaiting",
        (
            '8 of 8 node pods, such as digits-0, cannot start: FailedMount: volume "creds": secret "s3" not '
            "found; create "
            "the Secret s3 in namespace team"
        ),
    ),
    "some wait for the same": (
        {},
        seen(*MANY[:2], RUN[2], rendezvous=EMPTY),
        "PodsWaiting",
        (
            'pods digits-0 and digits-1 cannot start: FailedMount: volume "creds": secret "s3" not found; create the '
            "Secret s3 in namespace team; pod digits-2 is running since 2026-01-31T11:59:28Z, but no agent has "
            "come from "
            "there; see kubectl -n team logs digits-2 -c trainer"
        ),
    ),
    "the rendezvous pod and the nodes cannot start": (
        {},
        seen(*MANY[:1], rendezvous_pod=replace(HOST, phase=Phase.STARTING, wait=STUCK)),
        "PodsWaiting",
        (
            'the rendezvous pod digits-rdzv cannot start: FailedMount: volume "creds": secret "s3" not found; '
            "create the "
            'Secret s3 in namespace team; pod digits-0 cannot start: FailedMount: volume "creds": secret "s3" '
            "not found; "
            "create the Secret s3 in namespace team"
        ),
    ),
    "the rendezvous pod starts": (
        {},
        seen(*RUN, rendezvous_pod=replace(HOST, phase=Phase.STARTING, ready=False)),
        "StartingRendezvous",
        "the rendezvous pod digits-rdzv is starting",
    ),
    "the rendezvous pod is not ready": (
        {},
        seen(*RUN, rendezvous_pod=replace(HOST, ready=False)),
        "StartingRendezvous",
        "the rendezvous pod digits-rdzv does not answer yet; see kubectl -n team logs digits-rdzv",
    ),
    "own options in a shell line": (
        runs("bash", "-c", SHELL),
        seen(*RUN, rendezvous=EMPTY),
        "OtherRendezvous",
        f"{OPTIONS}; 0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}",
    ),
    "own options, but the agents have come": (
        runs("bash", "-c", "torchrun --nnodes=2 --rdzv_backend=c10d t.py"),
        seen(*RUN[:1], rendezvous=ONE),
        "WaitingForNodes",
        "1 of at least 2 nodes has joined round 0 (digits-0)",
    ),
    "another launcher": (
        runs("accelerate", "launch", "--num_machines=2", "train.py"),
        seen(*RUN, rendezvous=EMPTY),
        "OtherRendezvous",
        (
            f"the command runs accelerate launch, not torchrun; write torchrun and the script in its place, {STATIC}; "
            f"0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}"
        ),
    ),
    "no launcher": (
        runs("python3", "-u", "/workspace/train.py"),
        seen(*RUN, rendezvous=EMPTY),
        "OtherRendezvous",
        (
            'the command runs "python3 /workspace/train.py", not torchrun; write torchrun /workspace/train.py, '
            f"{STATIC}; 0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}"
        ),
    ),
    "own options of the lead": (
        runs("torchrun", "t.py", lead={"command": ["sh", "-c", "prepare\n" + SHELL]}),
        seen(*RUN[:2], rendezvous=replace(EMPTY, members=(Member("10.0.1.1", 1),))),
        "OtherRendezvous",
        (
            f"line 2 of {OF_LEAD}; 1 of at least 2 nodes has joined "
            f"round 0 (digits-1); pod digits-0 is running since 2026-01-31T11:59:30Z, but no agent has come from "
            f"there; {LOGS}"
        ),
    ),
    "own options in the arguments of the lead": (
        runs("sh", "-c", lead={"args": [SHELL]}),
        seen(*RUN, rendezvous=EMPTY),
        "OtherRendezvous",
        f"{OF_LEAD}; 0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}",
    ),
    "own options, which the lead does not have": (
        runs("bash", "-c", SHELL, lead={"command": ["torchrun", "t.py"]}),
        seen(*RUN, rendezvous=EMPTY),
        "OtherRendezvous",
        f"{OPTIONS}; 0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}",
    ),
    "own options, which only the lead does not have, and only the lead has not come": (
        runs("bash", "-c", SHELL, lead={"command": ["torchrun", "t.py"]}),
        seen(*RUN[:2], rendezvous=replace(EMPTY, members=(Member("10.0.1.1", 1),))),
        "WaitingForNodes",
        (
            "1 of at least 2 nodes has joined round 0 (digits-1); pod digits-0 is running since 2026-01-31T11:59:30Z, "
            f"but no agent has come from there; {LOGS}"
        ),
    ),
    "another launcher in the lead": (
        runs("torchrun", "t.py", lead={"command": ["deepspeed", "t.py"]}),
        seen(*RUN, rendezvous=EMPTY),
        "OtherRendezvous",
        (
            "the command of the lead runs deepspeed, not torchrun; write torchrun and the script in its place, "
            f"{STATIC}; 0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}"
        ),
    ),
    "a script in the image": (
        runs("bash", "/opt/run.sh"),
        seen(*RUN, rendezvous=EMPTY),
        "WaitingForNodes",
        f"0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}; {UNSEEN}",
    ),
    "the command of the image": (
        runs(),
        seen(*RUN, rendezvous=EMPTY),
        "WaitingForNodes",
        f"0 of at least 2 nodes have joined round 0; {SINCE}; {LOGS}; {UNSEEN}",
    ),
    "it trains elsewhere, with own options": (
        runs("bash", "-c", SHELL),
        seen(*RUN, rendezvous=replace(EMPTY, progress=TRAINS)),
        "TrainsElsewhere",
        f"{ELSEWHERE}; {OPTIONS}",
    ),
    "it trains elsewhere, for a reason that is not seen": (
        {},
        seen(*RUN, rendezvous=replace(EMPTY, progress=TRAINS)),
        "TrainsElsewhere",
        ELSEWHERE,
    ),
    "it has trained here and restarts": (
        {},
        seen(*RUN, rendezvous=replace(EMPTY, round=2, progress=TRAINS, completed_at=CREATED)),
        "WaitingForNodes",
        f"0 of at least 2 nodes have joined round 2; {SINCE}; {LOGS}",
    ),
}


@pytest.mark.parametrize(("spec", "observed", "reason", "message"), SITUATIONS.values(), ids=SITUATIONS)
def test_what_the_job_waits_for(spec: dict[str, Any], observed: Facts, reason: str, message: str) -> None:
    job = after(make_job(**spec), facts())
    condition = find_condition(decide(job, observed, NOW).status.conditions, ConditionType.RUNNING)
    assert condition is not None
    assert (condition.reason, condition.message) == (reason, message)


def test_a_job_that_trains_elsewhere_is_running() -> None:
    observed = seen(*RUN, rendezvous=replace(EMPTY, progress=TRAINS))
    decision = decide(after(make_job(), facts()), observed, NOW)
    assert (decision.status.state, decision.status.message) == ("Running", ELSEWHERE)


NO_SECRET = 'pod digits-1 cannot start: FailedMount: volume "creds": secret "s3" not found; create the Secret s3 in '
NO_SECRET += "namespace team"
NEW = make_node(1, Phase.STARTING, life=2, wait=STUCK)
FORMING = make_rendezvous(THREE[0], THREE[2], complete=False)
CHANGES: dict[str, tuple[TorchrunJob, Facts, str, str]] = {
    "a node was lost, and its replacement cannot start": (
        training_job(),
        seen(THREE[0], NEW, THREE[2], rendezvous=FORMING),
        "NodeLost",
        f"0 of 3 nodes train; lost: digits-1; {NO_SECRET}",
    ),
    "the others restart": (
        after(training_job(), seen(*without(THREE, 1), rendezvous=FORMING), at(-1)),
        seen(THREE[0], NEW, THREE[2], rendezvous=FORMING),
        "RestartingWorkers",
        f"workers restart; 2 of 3 nodes have joined the next round; {NO_SECRET}",
    ),
}


@pytest.mark.parametrize(("job", "observed", "reason", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_says_which_pods_cannot_start(job: TorchrunJob, observed: Facts, reason: str, message: str) -> None:
    condition = find_condition(decide(job, observed, NOW).status.conditions, ConditionType.RESIZING)
    assert condition is not None
    assert (condition.reason, condition.message) == (reason, message)
