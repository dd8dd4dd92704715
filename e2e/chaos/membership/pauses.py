"""Measures how long the job did not train although it could. Pure.

The clock runs from step to step. It stops

- while fewer than MIN nodes can run: pods on Kubernetes nodes without power or network are subtracted from the wanted
  ones until the API server reports the Kubernetes node as not ready; likewise while the rendezvous host is on one.
  While a fault keeps new pods from starting, or no operator runs that could create them, only those that run count,
  and the rendezvous host must run;
- after each fault that affects training, for an allowance in which workers restart: as long as this job took to its
  first step, at least LEAST_ALLOWANCE_SECONDS. Another fault during that time adds the same allowance.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chaos.membership.plan import HARMLESS
from chaos.membership.records import MIN, Fault, Pod, Sample, Step, Violation

LIMIT_SECONDS = 60.0
LEAST_ALLOWANCE_SECONDS = 15.0
_WORTH_MENTIONING_SECONDS = 2.0


@dataclass(frozen=True)
class Pause:
    """A time without a step."""

    began: float
    ended: float
    counted: float
    """Seconds in which the clock ran."""


def prevented(sample: Sample) -> bool:
    """Whether fewer than MIN nodes could run, for any action of the operator."""
    unknown = (sample.cut | sample.silent) - sample.unready
    bound = [pod for pod in sample.nodes if pod.index is not None and pod.index < sample.wanted]
    if sample.blocked or not sample.operator_runs:
        running = [pod for pod in bound if _runs(pod) and pod.machine not in unknown]
        return len(running) < MIN or sample.host is None or not _runs(sample.host)
    lost = sum(1 for pod in bound if pod.machine in unknown)
    return sample.wanted - lost < MIN or (sample.host is not None and sample.host.machine in unknown)


def _runs(pod: Pod) -> bool:
    return pod.phase == "Running" and not pod.terminating


def allowance_of(start_seconds: float) -> float:
    """Return the allowance after a fault in seconds, given the seconds from the start of the job to its first step."""
    return max(LEAST_ALLOWANCE_SECONDS, start_seconds)


def pauses_of(
    steps: Sequence[Step], samples: Sequence[Sample], faults: Iterable[Fault], until: float, allowance: float
) -> list[Pause]:
    """Return the times without a step, from the first step to `until`."""
    still = [(before.time, after.time) for before, after in pairwise(samples) if prevented(before)]
    for fault in faults:
        if fault.kind not in HARMLESS:
            still += [(at, at + allowance) for at in {fault.time, fault.until}]
    merged = _merged(still)
    times = [*sorted(step.time for step in steps), until]
    found = []
    for began, ended in pairwise(times):
        if ended - began >= _WORTH_MENTIONING_SECONDS:
            stood = sum(max(0.0, min(ended, b) - max(began, a)) for a, b in merged)
            found.append(Pause(began, ended, ended - began - stood))
    return found


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for began, ended in sorted(spans):
        if merged and began <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], ended))
        else:
            merged.append((began, ended))
    return merged


def never_stuck(pauses: Iterable[Pause]) -> list[Violation]:
    """No minute passes without a step while the job can train."""
    return [
        Violation(
            pause.began, "stuck", f"no step for {pause.ended - pause.began:.0f} s, {pause.counted:.0f} s unexcused"
        )
        for pause in pauses
        if pause.counted > LIMIT_SECONDS
    ]
