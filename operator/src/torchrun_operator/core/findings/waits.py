"""What the job waits for: which nodes have come to the rendezvous, and why each other pod has not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from torchrun_operator.api.commands import COMMAND, Launch, launch_of
from torchrun_operator.api.names import rendezvous_name
from torchrun_operator.api.v1alpha1 import TorchrunJob
from torchrun_operator.core.facts.model import Facts, NodePod, Phase, RendezvousPod, Wait
from torchrun_operator.core.facts.waiting import INITIALIZING, PULLING, UNHEALTHY
from torchrun_operator.core.findings.causes import describe
from torchrun_operator.core.findings.remedies import CRASHES, Place, cause, remedy
from torchrun_operator.core.findings.wanted import Wanted
from torchrun_rendezvous.protocol import RendezvousState


class Kind(StrEnum):
    """How far a pod has come."""

    UNPLACED = "Unplaced"
    """The scheduler has no Kubernetes node for it."""
    STUCK = "Stuck"
    """It cannot start until a person does something."""
    STARTING = "Starting"
    """It will run soon."""
    UNHEARD = "Unheard"
    """It runs, and no agent has come from it."""
    GONE = "Gone"
    """It has failed, is lost or is being deleted."""


@dataclass(frozen=True)
class Obstacle:
    """Why some pods are not in the rendezvous."""

    kind: Kind
    what: str
    """What they do or lack, for people: a verb and the rest. "is" and "has" stand at its beginning."""
    pods: tuple[str, ...]
    remedy: str = ""
    since: datetime | None = None
    """Since when the first of them does."""


@dataclass(frozen=True)
class Waits:
    """What the job waits for."""

    came: tuple[str, ...]
    """Pods whose agents have come to the rendezvous."""
    host: Obstacle | None
    """Why the rendezvous pod does not run. None: it runs."""
    nodes: tuple[Obstacle, ...]
    """Why the other nodes have not come, in the order of the first pod of each."""
    launch: Launch
    """What the command says about torchrun."""
    elsewhere: bool
    """The script reports progress, but no agent has ever come: the nodes train outside the job's rendezvous."""


def waits(facts: Facts, wanted: Wanted) -> Waits:
    """Return what the job waits for."""
    nodes = [node for node in facts.nodes if node.index < wanted.pods and node.phase is not Phase.SUCCEEDED]
    heard = _heard(facts.rendezvous)
    came = {node.name for node in nodes if node.phase is Phase.RUNNING and node.address in heard}
    absent = _grouped(found for node in nodes if node.name not in came and (found := _of_node(facts, node)) is not None)
    elsewhere = _trains_elsewhere(facts.rendezvous) and any(node.phase is Phase.RUNNING for node in nodes)
    unheard = any(obstacle.kind is Kind.UNHEARD for obstacle in absent)
    running = [node.index for node in nodes if node.phase is Phase.RUNNING and node.name not in came]
    early = facts.rendezvous is None and bool(running)
    return Waits(
        came=tuple(node.name for node in nodes if node.name in came),
        host=_of_host(facts, facts.rendezvous_pod),
        nodes=absent,
        launch=_launch(facts.job, running) if elsewhere or unheard or early else Launch(),
        elsewhere=elsewhere,
    )


def _heard(rendezvous: RendezvousState | None) -> frozenset[str]:
    """Return the addresses of the agents that have come to the rendezvous and are not silent."""
    if rendezvous is None:
        return frozenset()
    members = {member.address for member in rendezvous.members}
    return frozenset((members | {*rendezvous.waiting}) - {*(rendezvous.silent or ())})


def _trains_elsewhere(rendezvous: RendezvousState | None) -> bool:
    """Whether the script reports progress although no agent has ever joined this host."""
    if rendezvous is None or rendezvous.progress is None:
        return False
    return rendezvous.completed_at is None and not rendezvous.members and not rendezvous.waiting


def _launch(job: TorchrunJob, indices: Sequence[int]) -> Launch:
    """Return what the commands of these nodes say: that of the lead, that of the others, or the one with options."""
    spec, host = job.spec, rendezvous_name(job.metadata.name)
    usual = spec.command_of(1)
    files = tuple((file.path, file.content) for file in spec.files)
    commands = dict.fromkeys(spec.command_of(index) for index in indices)
    found = [(words, _read(words, files, spec.rendezvous.backend, host)) for words in commands]
    words, launch = min(found, key=lambda each: (not each[1].options, each[1].torchrun))
    at_lead = words != usual and launch.where.endswith(COMMAND)
    return replace(launch, where=f"{launch.where} of the lead") if at_lead else launch


@lru_cache(maxsize=16)
def _read(command: tuple[str, ...], files: tuple[tuple[str, str], ...], backend: str, host: str) -> Launch:
    """Read a command once, not in each pass of a start: a long script takes 0.2 s."""
    return launch_of(command, dict(files), backend, host)


def _of_node(facts: Facts, node: NodePod) -> Obstacle | None:
    """Return why the node has not come. None: it runs, and only the rendezvous host could say more."""
    place = Place(facts.job.metadata.namespace, node.name, node.machine, str(facts.job.spec.trainer.get("image", "")))
    match node.phase:
        case Phase.PENDING | Phase.STARTING:
            return _of_wait(node, place, facts.job)
        case Phase.RUNNING:
            return _of_running(facts, node)
        case Phase.LOST:
            return Obstacle(Kind.GONE, f"is lost: {node.trouble}", (node.name,))
        case Phase.TERMINATING:
            return Obstacle(Kind.GONE, "is being deleted", (node.name,))
        case _:
            return _of_failed(node, place)


def _of_failed(node: NodePod, place: Place) -> Obstacle:
    """A failed pod stays until it is replaced. What the kubelet rejects needs a person."""
    rejected = node.exit is not None and node.exit.code < 0
    advice = remedy(Wait(node.exit.reason, node.exit.message), place) if rejected and node.exit is not None else ""
    return Obstacle(Kind.GONE, describe(node.exit), (node.name,), advice)


def _of_running(facts: Facts, node: NodePod) -> Obstacle | None:
    rendezvous = facts.rendezvous
    if rendezvous is None:
        return None
    if node.address in (rendezvous.silent or ()):
        return Obstacle(Kind.GONE, "is silent: the rendezvous host no longer hears its agent", (node.name,))
    return Obstacle(Kind.UNHEARD, "is running, but no agent has come from there", (node.name,), since=node.runs_since)


def _of_host(facts: Facts, pod: RendezvousPod | None) -> Obstacle | None:
    if pod is None or (pod.phase is Phase.RUNNING and not pod.wait.reason):
        return None
    if pod.phase in (Phase.LOST, Phase.TERMINATING, Phase.FAILED, Phase.SUCCEEDED):
        return Obstacle(Kind.GONE, f"is lost: {pod.trouble}" if pod.trouble else "is being replaced", (pod.name,))
    image = str(facts.job.spec.trainer.get("image", ""))
    return _of_wait(pod, Place(facts.job.metadata.namespace, pod.name, None, image, rendezvous=True), facts.job)


def _of_wait(pod: NodePod | RendezvousPod, place: Place, job: TorchrunJob) -> Obstacle:
    wait, names = pod.wait, (pod.name,)
    if pod.phase is Phase.PENDING:
        return _unplaced(wait, place, job)
    if not wait.reason:
        return Obstacle(Kind.STARTING, "is starting", names)
    if wait.reason == INITIALIZING:
        what = f"is in init container {wait.container}"
        return Obstacle(Kind.STARTING, what, names, remedy(wait, place), wait.since)
    if wait.reason == PULLING:
        image = wait.message.removeprefix("Pulling image ").strip('"')
        return Obstacle(Kind.STARTING, f"is pulling image {image}", names, since=wait.since)
    if wait.reason == UNHEALTHY:
        return Obstacle(Kind.STARTING, f"is starting: {cause(wait)}", names)
    reason = "" if wait.reason == CRASHES else f"{_steady(wait)}: "
    return Obstacle(Kind.STUCK, f"cannot start: {reason}{cause(wait)}", names, remedy(wait, place))


def _unplaced(wait: Wait, place: Place, job: TorchrunJob) -> Obstacle:
    if wait.reason:
        return Obstacle(Kind.UNPLACED, f"cannot be scheduled: {cause(wait)}", (place.pod,), remedy(wait, place))
    scheduler = job.spec.template["spec"].get("schedulerName")
    if scheduler and not place.rendezvous:
        advice = f"check that a scheduler with the name {scheduler} runs, as schedulerName of the template says"
        return Obstacle(Kind.UNPLACED, f"is not scheduled yet by {scheduler}", (place.pod,), advice)
    return Obstacle(Kind.STARTING, "is not scheduled yet", (place.pod,))


def _steady(wait: Wait) -> str:
    """Return one reason for what a kubelet reports in turns, and in events with another one."""
    pulls = wait.reason == "ImagePullBackOff" or wait.message.startswith("Failed to pull image")
    return "ErrImagePull" if pulls else wait.reason


def _grouped(found: Iterable[Obstacle]) -> tuple[Obstacle, ...]:
    """Make one obstacle of those with the same cause."""
    groups: dict[tuple[Kind, str], Obstacle] = {}
    for each in found:
        known = groups.get((each.kind, each.what), each)
        times = [time for time in (known.since, each.since) if time is not None]
        pods = known.pods if known is each else (*known.pods, *each.pods)
        groups[each.kind, each.what] = Obstacle(each.kind, each.what, pods, known.remedy, min(times) if times else None)
    return tuple(groups.values())
