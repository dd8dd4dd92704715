"""The rules that nothing healthy is killed, and that nothing grows without limit. Pure.

A pod was heard training if its workers take part in a round that took a step within the last seconds. The operator may
delete such a pod only by wish: a scale-down, or a fault that deletes, evicts or kills exactly this pod. The loss of the
rendezvous host ends all agents, and a Kubernetes node without power or network reaches no other one: for a while after
these faults, the rule excludes the pods that they affect.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from chaos.membership.plan import OF_HOST, OF_MACHINES
from chaos.membership.records import Fault, Pod, Sample, Start, Step, Violation

MOST_MIB = 400
_HEARD_SECONDS = 3.0
_AFTERMATH_SECONDS = 30.0
"""For this long, a fault of the rendezvous host or of a Kubernetes node may still end pods."""


def healthy_pods_stay(
    samples: Sequence[Sample], starts: Sequence[Start], steps: Sequence[Step], faults: Sequence[Fault]
) -> list[Violation]:
    """No pod that was heard training is deleted, except by wish."""
    hit = {uid for fault in faults for uid in fault.hits}
    wrong = []
    for before, after in pairwise(samples):
        for pod in _deleted(before, after):
            wished = pod.uid in hit or pod.index is None or pod.index >= min(before.wanted, after.wanted)
            if wished or _explained(pod, before, faults):
                continue
            last = _last_step(pod, before.time, starts, steps)
            if last is not None and before.time - last <= _HEARD_SECONDS:
                what = f"{pod.name} on {pod.machine} was deleted {after.time - last:.1f} s after its round took a step"
                wrong.append(Violation(after.time, "healthy", what))
    return wrong


def memory_is_bounded(samples: Iterable[Sample]) -> list[Violation]:
    """The operator never needs more memory than that, whatever other jobs do."""
    worst = max(samples, key=lambda sample: sample.operator_mib, default=None)
    if worst is None or worst.operator_mib <= MOST_MIB:
        return []
    return [Violation(worst.time, "memory", f"the operator has {worst.operator_mib} MiB, more than {MOST_MIB}")]


def _deleted(before: Sample, after: Sample) -> Iterator[Pod]:
    """Yield the running node pods that were deleted between two samples."""
    left = {pod.uid: pod for pod in after.nodes}
    for pod in before.nodes:
        now = left.get(pod.uid)
        if pod.phase == "Running" and not pod.terminating and (now is None or now.terminating):
            yield pod


def _explained(pod: Pod, sample: Sample, faults: Iterable[Fault]) -> bool:
    """Whether a fault of the rendezvous host or of the Kubernetes node of the pod may have ended it."""
    recent = [f for f in faults if f.time <= sample.time + 1.0 and sample.time <= f.until + _AFTERMATH_SECONDS]
    if pod.machine in sample.cut or any(fault.kind in OF_HOST for fault in recent):
        return True
    places = {pod.machine, sample.host.machine if sample.host is not None else ""}
    return any(fault.kind in OF_MACHINES and fault.target.split(" ")[0] in places for fault in recent)


def _last_step(pod: Pod, time: float, starts: Sequence[Start], steps: Sequence[Step]) -> float | None:
    """Return when the round of the pod took its last step before that time; None if it took none."""
    own = [start for start in starts if start.pod == pod.name and start.time <= time]
    if not own:
        return None
    joined = max(own, key=lambda start: start.time)
    return max((s.time for s in steps if s.master == joined.master and joined.time <= s.time <= time), default=None)
