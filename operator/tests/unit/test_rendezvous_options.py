"""torchrun's own options for nodes and rendezvous, as people write them: they have no effect, or the job names them."""

import argparse
from dataclasses import replace
from typing import Any

import pytest

from builders import HOST, decide, make_job, make_node, make_rendezvous, seen
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.api.torchrun import OPTIONS, full_name
from torchrun_operator.core.facts.model import Phase

RUN = "/workspace/run.sh"
ONE_WORLD = ""
"""The options have no effect: agents take the rendezvous from their environment."""
VARIANTS: dict[str, tuple[str, str, str]] = {
    # what: (shell line, script in spec.files, what the job says before "which lead to another rendezvous")
    "static options": (
        "torchrun --nnodes 2 --nproc_per_node 8 --node_rank $RANK --master_addr $HOST --master_port 29400 t.py",
        "",
        ONE_WORLD,
    ),
    "static options with dashes": ("torchrun --node-rank=0 --master-addr=a --master-port=1 t.py", "", ONE_WORLD),
    "the backend of the job": ("torchrun --rdzv_backend c10d --max_restarts 3 t.py", "", ONE_WORLD),
    "the rendezvous of the job by its name": (
        "torchrun --rdzv_backend=c10d --rdzv_endpoint=digits-rdzv:29400 --rdzv_id=$PET_RDZV_ID t.py",
        "",
        ONE_WORLD,
    ),
    "the variables of the operator": (
        'torchrun --rdzv_endpoint "${PET_RDZV_ENDPOINT}" --rdzv_id "${PET_RDZV_ID}" t.py',
        "",
        ONE_WORLD,
    ),
    "options of the script": ("torchrun t.py --standalone --rdzv_id=3", "", ONE_WORLD),
    "only a comment": ("torchrun t.py  # --standalone", "", ONE_WORLD),
    "an endpoint of its own": (
        "torchrun --rdzv_endpoint=$HOST:1 t.py",
        "",
        "the command gives torchrun --rdzv_endpoint",
    ),
    "an id of its own": ("torchrun --rdzv-id 3 t.py", "", "the command gives torchrun --rdzv-id"),
    "alone": (
        "torchrun --standalone --nproc_per_node=gpu t.py",
        "",
        "the command gives torchrun --standalone, --nproc_per_node",
    ),
    "another backend": ("torchrun --rdzv_backend=etcd-v2 t.py", "", "the command gives torchrun --rdzv_backend"),
    "the static backend by name": (
        "torchrun --rdzv_backend=static --node_rank=0 --master_addr=a t.py",
        "",
        "the command gives torchrun --rdzv_backend, --node_rank, --master_addr",
    ),
    "an abbreviation": ("torchrun --rdzv_e=a:1 t.py", "", "the command gives torchrun --rdzv_e"),
    "an abbreviation without a value": ("torchrun --stand t.py", "", "the command gives torchrun --stand"),
    "the module": ("python -m torch.distributed.run --standalone t.py", "", "the command gives torchrun --standalone"),
    "the launcher before torchrun": (
        "python3 -m torch.distributed.launch --rdzv_id=a t.py",
        "",
        "the command gives torchrun --rdzv_id",
    ),
    "options in a variable": (
        'ARGS="--nnodes=2 --standalone"; torchrun $ARGS t.py',
        "",
        "the command gives torchrun --nnodes, --standalone",
    ),
    "options in a list": (
        'ARGS=(--rdzv_id 7 --nnodes 2)\ntorchrun "${ARGS[@]}" t.py',
        "",
        "line 1 of the command gives torchrun --rdzv_id, --nnodes",
    ),
    "the program in a variable": (
        "LAUNCH=/opt/venv/bin/torchrun; exec $LAUNCH --standalone t.py",
        "",
        "the command gives torchrun --standalone",
    ),
    "a variable instead of an option": (
        "export PET_STANDALONE=1\ntorchrun t.py",
        "",
        "line 1 of the command gives torchrun PET_STANDALONE",
    ),
    "a shell in the shell": ("bash -lc 'torchrun --standalone t.py'", "", "the command gives torchrun --standalone"),
    "eval": ('eval "torchrun --rdzv_id=5 t.py"', "", "the command gives torchrun --rdzv_id"),
    "a script of the job": (
        f"bash {RUN}",
        "#!/bin/bash\nset -e\n\ntorchrun \\\n  --nnodes=2 \\\n  --rdzv_endpoint=$HOST:1 t.py\n",
        f"line 5 of {RUN} gives torchrun --nnodes, --rdzv_endpoint",
    ),
    "a script of the job in the working directory": (
        "cd /workspace && ./run.sh",
        "torchrun --standalone t.py",
        f"line 1 of {RUN} gives torchrun --standalone",
    ),
    "a script from Windows": (
        f"bash {RUN}",
        "set -e\r\ntorchrun \\\r\n --rdzv_id=1 t.py\r\n",
        f"line 3 of {RUN} gives torchrun --rdzv_id",
    ),
}  # fmt: skip
REMOVE = (
    "the operator sets nodes, workers and rendezvous in the environment, so torchrun and the script suffice; "
    "0 of at least 2 nodes have joined round 0"
)
STATIC = "or set spec.rendezvous.backend to static for fixed ranks; 0 of at least 2 nodes have joined round 0"
OTHERS = {
    "accelerate": (
        "accelerate launch --num_machines 2 t.py",
        f"the command runs accelerate launch, not torchrun; write torchrun and the script in its place, {STATIC}",
    ),
    "Python": (
        "python train_dist.py --offset 8",
        f'the command runs "python train_dist.py", not torchrun; write torchrun train_dist.py, {STATIC}',
    ),
}


def elsewhere(names: str) -> str:
    """Return what the job says of the options that lead its agents to another rendezvous."""
    leads, them = ("lead", "them") if ", " in names else ("leads", "it")
    return f"{names}, which {leads} to another rendezvous; remove {them}: {REMOVE}"


def said(line: str, script: str = "") -> tuple[str, str]:
    """Return reason and message of the condition Running of a job whose nodes run and whose agents have not come."""
    container = {"name": "trainer", "image": "train:1", "command": ["bash", "-c", line]}
    spec: dict[str, Any] = {"template": {"spec": {"containers": [container]}}}
    if script:
        spec["files"] = [{"path": RUN, "content": script}]
    job = make_job(nnodes=2, replicas=2, **spec)
    nodes = (make_node(0), make_node(1))
    found = decide(job, seen(*nodes, rendezvous=make_rendezvous(complete=False)), seen().now)
    running = find_condition(found.status.conditions, ConditionType.RUNNING)
    assert running is not None
    return running.reason, running.message


@pytest.mark.parametrize(("line", "script", "names"), VARIANTS.values(), ids=VARIANTS)
def test_options_have_no_effect_or_are_named(line: str, script: str, names: str) -> None:
    reason, message = said(line, script)
    if names == ONE_WORLD:
        assert reason == "WaitingForNodes"
        assert "to another rendezvous" not in message
    else:
        assert reason == "OtherRendezvous"
        assert message.partition("; pods digits-0")[0] == elsewhere(names)


@pytest.mark.parametrize(("line", "message"), OTHERS.values(), ids=OTHERS)
def test_other_launchers_are_named(line: str, message: str) -> None:
    reason, found = said(line)
    assert (reason, found.partition("; pods digits-0")[0]) == ("OtherRendezvous", message)


def test_options_are_named_before_the_rendezvous_host_is_there() -> None:
    container = {"name": "trainer", "image": "train:1", "command": ["bash", "-c", "torchrun --standalone t.py"]}
    job = make_job(nnodes=2, replicas=2, template={"spec": {"containers": [container]}})
    starting = replace(HOST, phase=Phase.STARTING, ready=False)
    found = decide(job, seen(make_node(0), make_node(1), rendezvous_pod=starting), seen().now)
    running = find_condition(found.status.conditions, ConditionType.RUNNING)
    assert running is not None
    early = elsewhere("the command gives torchrun --standalone").partition("; 0 of")[0]
    message = f"{early}; the rendezvous pod digits-rdzv is starting"
    assert (running.reason, running.message) == ("OtherRendezvous", message)


def test_all_options_of_torchrun_are_known() -> None:
    """An option that torchrun adds may make a beginning of another one ambiguous, or take a value."""
    run = pytest.importorskip("torch.distributed.run")
    parser: argparse.ArgumentParser = run.get_args_parser()
    theirs = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    assert {name.replace("_", "-") for name in theirs} == set(OPTIONS)


@pytest.mark.parametrize(
    ("written", "full"),
    [
        ("--rdzv_b", "--rdzv-backend"),
        ("--rdzv", "--rdzv"),
        ("--nproc", "--nproc-per-node"),
        ("-m", "-m"),
        ("--x", "--x"),
    ],
)
def test_abbreviations(written: str, full: str) -> None:
    assert full_name(written) == full
