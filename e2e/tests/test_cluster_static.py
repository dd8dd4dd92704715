"""Static jobs in real pods: fixed ranks, a start of all nodes together, and another one when a node is lost."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from support.clusters import LOCAL_TRAINER_IMAGE, ROOT, Cluster
from support.counting import SECONDS, wait_status
from support.kubectl import Kubectl, Object
from support.podlogs import PodLogs
from support.waiting import NotInTimeError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

_RECOVERY_SECONDS = 12.0
"""From the kill of a node to training, without the time that torch takes to load, which depends on what else the
computer does.
"""
_EXAMPLE = ROOT / "e2e/examples/train_dist/torchrunjob.yaml"


@dataclass(frozen=True)
class Line:
    """A line of the script, and when it came."""

    pod: str
    uid: str
    time: float
    values: dict[str, str]


class Log:
    """The lines of `key=value` of all pods of a job."""

    def __init__(self, kubectl: Kubectl, job: str) -> None:
        self._changed = threading.Condition()
        self.lines: list[Line] = []
        selector = f"torchrun.dev/job-name={job},torchrun.dev/role=node"
        self._logs = PodLogs(kubectl, selector, "trainer", self._wrote)

    def stop(self) -> None:
        """Stop following."""
        self._logs.stop()

    def wait(self, what: str, wanted: Callable[[Line], bool], seconds: float = SECONDS) -> Line:
        """Return the first line that matches. Raises NotInTimeError."""
        found: list[Line] = []

        def look() -> bool:
            found.extend(line for line in self.lines if wanted(line))
            return bool(found)

        with self._changed:
            if not self._changed.wait_for(look, seconds):
                raise NotInTimeError(f"not within {seconds:.0f} s: {what}; last seen: {self.lines[-1:]}")
        return found[0]

    def _wrote(self, pod: str, uid: str, text: str) -> None:
        pairs = [part.partition("=") for part in text.split()]
        if pairs and all(sign for _, sign, _ in pairs):
            with self._changed:
                self.lines.append(Line(pod, uid, time.monotonic(), {key: value for key, _, value in pairs}))
                self._changed.notify_all()


@contextlib.contextmanager
def following(kubectl: Kubectl, job: str) -> Iterator[Log]:
    """Follow the logs of a job."""
    log = Log(kubectl, job)
    try:
        yield log
    finally:
        log.stop()


def example(cluster: Cluster, name: str, *, epochs: int = 100_000) -> Object:
    """Return the job of the example with that name, image and number of epochs."""
    text = _EXAMPLE.read_text()
    assert text.count(LOCAL_TRAINER_IMAGE) == text.count("--total-epochs=200") == 1
    text = text.replace(LOCAL_TRAINER_IMAGE, cluster.trainer_image)
    job: Object = yaml.safe_load(text.replace("--total-epochs=200", f"--total-epochs={epochs}"))
    job["metadata"]["name"] = name
    return job


_TRAIN = """
import argparse, os, time
began = time.monotonic()
import torch, torch.distributed as dist
loading = time.monotonic() - began
parser = argparse.ArgumentParser()
for name in ("--offset", "--size", "--world_size"):
    parser.add_argument(name, type=int)
args = parser.parse_args()
dist.init_process_group("gloo", rank=args.offset, world_size=args.world_size)
path = "/snapshots/epoch"
first = epoch = int(open(path).read()) if os.path.exists(path) else 0
while True:
    ones = torch.ones(1)
    dist.all_reduce(ones)
    epoch += 1
    if args.offset == 0:
        with open(path + ".part", "w") as file:
            file.write(str(epoch))
        os.replace(path + ".part", path)
    print(f"rank={args.offset} world={int(ones)} epoch={epoch} from={first} loading={loading:.1f}", flush=True)
    time.sleep(0.1)
"""


def plain(cluster: Cluster, name: str) -> Object:
    """Return a job without torchrun that loads nothing but torch: the time of the operator and of Kubernetes counts."""
    job = example(cluster, name)
    job["spec"]["files"] = [{"path": "/workspace/train.py", "content": _TRAIN}]
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["command"][1:] = ["/workspace/train.py"]
    container["args"] = container["args"][:3]
    return job


def of_rank(rank: int, since: float = 0.0) -> Callable[[Line], bool]:
    """Return what tells lines of that rank after that time."""
    return lambda line: line.time > since and line.values["rank"] == str(rank)


def saved(since: float) -> Callable[[Line], bool]:
    """Return what tells a line after that time whose process has saved a snapshot."""
    return lambda line: line.time > since and int(line.values["epoch"]) > int(line.values["from"]) + 20


def not_of(uids: set[str]) -> Callable[[Line], bool]:
    """Return what tells lines of other pods."""
    return lambda line: line.uid not in uids


def trains(found: dict[str, Any]) -> bool:
    """Whether all four nodes run."""
    return bool(found["state"] == "Running" and found["membership"]["nodes"] == 4)


def ranks(log: Log, since: float) -> dict[str, set[str]]:
    """Return the ranks that each pod has printed since then."""
    found: dict[str, set[str]] = {}
    for line in [line for line in log.lines if line.time > since]:
        found.setdefault(line.pod, set()).add(line.values["rank"])
    return found


def test_a_script_without_torchrun_trains_on_when_nodes_are_killed(
    cluster: Cluster, kubectl: Kubectl, record_property: Callable[[str, object], None]
) -> None:
    with following(kubectl, "plain") as log:
        began = time.monotonic()
        kubectl.apply(plain(cluster, "plain"))
        for rank in range(4):
            log.wait(f"rank {rank}", of_rank(rank))
        record_property("said", f"static, 4 nodes: {time.monotonic() - began:.1f} s from the apply to all ranks")
        since = began
        for victim in ("plain-2", "plain-0"):
            log.wait("a snapshot", saved(since))
            wait_status(kubectl, "plain", "running", trains)
            before = {line.uid for line in log.lines}
            killed = time.monotonic()
            kubectl.run("delete", "pod", victim, "--force", "--grace-period=0")
            after = log.wait(f"training after the loss of {victim}", not_of(before))
            since = after.time
            whole, loading = since - killed, float(after.values["loading"])
            told = (
                f"static, 4 nodes: {whole:.1f} s from the kill of {victim} to training, {loading:.1f} s to load torch"
            )
            record_property("said", told)
            assert whole - loading <= _RECOVERY_SECONDS, told
            assert (after.values["world"], int(after.values["from"]) > 0) == ("4", True)
        for rank in range(4):
            log.wait(f"rank {rank}", of_rank(rank, since))
        assert ranks(log, began) == {f"plain-{index}": {str(index)} for index in range(4)}
    found = wait_status(kubectl, "plain", "running", lambda s: s["state"] == "Running")
    assert found["restarts"] == {"code": 0, "infrastructure": 2, "preemption": 0, "resize": 0}
    assert [(node["index"], node["rank"]) for node in found["nodes"]] == [(index, index) for index in range(4)]
    assert (found["membership"]["worldSize"], found["membership"]["summary"]) == (4, "4/4:4")


def test_it_completes_when_all_nodes_have_succeeded(cluster: Cluster, kubectl: Kubectl) -> None:
    kubectl.apply(example(cluster, "short", epochs=20))
    found = wait_status(kubectl, "short", "complete", lambda s: s["state"] == "Complete")
    assert [node["phase"] for node in found["nodes"]] == ["Succeeded"] * 4
    assert found["restarts"] == {"code": 0, "infrastructure": 0, "preemption": 0, "resize": 0}
    assert {pod["metadata"]["name"] for pod in kubectl.list("pods")} == {f"short-{index}" for index in range(4)}


_ENVIRONMENT = """
import os, socket, torch, torch.distributed as dist
dist.init_process_group("gloo")
names = ("MASTER_ADDR", "NODE_RANK", "NNODES", "RANK_OFFSET", "LEAD_ADDR", "LEAD_IP", "NODE_HOSTS")
found = {name: os.environ[name] for name in names}
found["resolved"] = socket.gethostbyname(os.environ["LEAD_ADDR"])
found["hostfile"] = open(os.environ["NODE_HOSTFILE"]).read().replace("\\n", ";").replace(" ", ",")
found |= {"rank": dist.get_rank(), "world": dist.get_world_size()}
print(*(f"{name}={value}" for name, value in found.items()), flush=True)
dist.barrier()
dist.destroy_process_group()
"""


_STATIC_LINE = (
    "torchrun --nnodes $NNODES --nproc_per_node $NPROC_PER_NODE --node_rank $NODE_RANK --master_addr $MASTER_ADDR "
    "--master_port $MASTER_PORT /workspace/env.py"
)
_COMMANDS = {
    "torchrun": ["torchrun", "/workspace/env.py"],
    "a static command line": ["sh", "-c", _STATIC_LINE],
    "python": ["python", "/workspace/env.py"],
}


@pytest.mark.parametrize("command", _COMMANDS.values(), ids=_COMMANDS)
def test_every_launcher_gets_the_same_ranks(cluster: Cluster, kubectl: Kubectl, command: list[str]) -> None:
    job = example(cluster, "env")
    job["spec"] |= {"nnodes": 2, "files": [{"path": "/workspace/env.py", "content": _ENVIRONMENT}]}
    job["spec"].pop("snapshots")
    container = job["spec"]["template"]["spec"]["containers"][0]
    container.pop("args")
    container["command"] = command
    with following(kubectl, "env") as log:
        kubectl.apply(job)
        wait_status(kubectl, "env", "complete", lambda s: s["state"] == "Complete")
        lead = next(pod for pod in kubectl.list("pods") if pod["metadata"]["name"] == "env-0")["status"]["podIP"]
        for rank in range(2):
            line = log.wait(f"rank {rank}", of_rank(rank))
            assert line.pod == f"env-{rank}"
            own = {"NODE_RANK": str(rank), "RANK_OFFSET": str(rank), "rank": str(rank)}
            assert {key: line.values[key] for key in own} == own
            assert (line.values["LEAD_IP"], line.values["resolved"]) == (lead, lead)
            assert line.values["LEAD_ADDR"] == "env-0"
            assert line.values["NODE_HOSTS"] == "env-0.env,env-1.env"
            assert re.fullmatch(r"env-0\.env,slots=1;env-1\.env,slots=1;", line.values["hostfile"])
