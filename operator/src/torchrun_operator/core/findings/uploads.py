"""The upload of the outputs: what is due, what the pod that uploads has reached, and what must happen next.

Training decides whether a job is complete. Uploads have their own condition, and go on after the end of the job.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from torchrun_operator.api.conditions import ConditionType, is_true
from torchrun_operator.api.names import ANNOTATION_RETRY_OUTPUTS
from torchrun_operator.api.v1alpha1 import OutputState, TorchrunJob, Upload, When
from torchrun_operator.core.facts.exits import OUT_OF_MEMORY
from torchrun_operator.core.facts.model import Facts, Phase, Stage, UploadExit, UploadPod
from torchrun_operator.core.facts.uploads import Uploaded, uploaded
from torchrun_operator.render.parts.outputs import problems

_QUIET = timedelta(seconds=120)
"""An upload waits this long for the pods of an ended job to stop. A file that changes meanwhile is noticed."""
_MOST_INTERRUPTIONS = 10
_MESSAGE_CHARACTERS = 300
_GAVE_UP = frozenset({1, 2, 126, 127, 128})
"""Exit codes of a program that gives up after many attempts, is used wrongly, or cannot be started."""


class Step(StrEnum):
    """What the upload does now."""

    NONE = "None"
    """The job has no outputs, or none that is due before its end."""
    INVALID = "Invalid"
    WAITS = "Waits"
    """For the pods of the job to end, or for a pod that is not there yet."""
    RUNS = "Runs"
    REPEATS = "Repeats"
    """It uploads periodically."""
    DONE = "Done"
    FAILED = "Failed"
    SKIPPED = "Skipped"
    """The job has failed, and no output is due then."""


@dataclass(frozen=True)
class Uploads:
    """The upload of the outputs."""

    step: Step = Step.NONE
    why: str = ""
    """What went wrong, or what it waits for, for people."""
    due: tuple[int, ...] = ()
    """Positions of the outputs in the spec that are due now."""
    periodic: bool = False
    digest: str = ""
    create: bool = False
    """The pod is to be created."""
    remove: str = ""
    """Why the present pod is to be deleted. Empty: it stays."""
    told: bool = False
    """The status has this end already."""
    results: Mapping[int, Uploaded] = field(default_factory=dict)
    """What the containers report, by position."""
    record: Upload | None = None
    later: datetime | None = None
    """When to look again."""


def uploads(facts: Facts) -> Uploads:
    """Return the upload."""
    job, stage = facts.job, facts.stage
    if not job.spec.outputs or stage is Stage.SUSPENDED:
        why = "spec.suspend is true" if job.spec.outputs else "spec.outputs is empty"
        return Uploads(remove=why if _deletable(facts.upload_pod) else "", record=job.status.upload)
    found = list(problems(job.spec)) if stage is Stage.ENDED else []
    if found:
        return Uploads(Step.INVALID, "; ".join(map(str, found)), record=job.status.upload)
    failed = is_true(job.status.conditions, ConditionType.FAILED)
    due = _due(job, stage, failed=failed)
    if not due:
        step = Step.SKIPPED if failed else Step.NONE
        return Uploads(step, remove=_not_due(facts.upload_pod), record=job.status.upload)
    return _Upload(facts, due).found()


def _due(job: TorchrunJob, stage: Stage, *, failed: bool) -> tuple[int, ...]:
    """Return the positions of the outputs that are due."""
    whens = {When.PERIODIC} if stage is not Stage.ENDED else {When.PERIODIC, When.ALWAYS}
    if stage is Stage.ENDED and not failed:
        whens.add(When.SUCCESS)
    return tuple(position for position, output in enumerate(job.spec.outputs) if output.when in whens)


def _deletable(pod: UploadPod | None) -> bool:
    return pod is not None and pod.phase is not Phase.TERMINATING


def _not_due(pod: UploadPod | None) -> str:
    return "no output is due" if _deletable(pod) else ""


class _Upload:
    """One upload that is due: it has a digest, and at most one pod at a time."""

    def __init__(self, facts: Facts, due: tuple[int, ...]) -> None:
        self._facts = facts
        self._due = due
        self._periodic = facts.stage is not Stage.ENDED
        self._digest = _digest(facts.job, due, periodic=self._periodic)
        before = facts.job.status.upload
        self._record = before if before is not None and before.digest == self._digest else Upload(digest=self._digest)

    def found(self) -> Uploads:
        pod = self._facts.upload_pod
        if pod is None or pod.phase is Phase.TERMINATING:
            return self._without(pod)
        if pod.digest != self._digest:
            return self._uploads(Step.WAITS, "the pod of an earlier upload ends", remove="another upload is due")
        if pod.phase is Phase.SUCCEEDED:
            return self._over(Step.DONE, "", _results(pod))
        if pod.phase in (Phase.FAILED, Phase.LOST):
            return self._ended_badly(pod)
        return self._uploads(Step.REPEATS if self._periodic else Step.RUNS, _waits(pod))

    def _without(self, pod: UploadPod | None) -> Uploads:
        """Return the upload while it has no pod, or one that is being deleted."""
        if self._record.state is not None:  # then its pod may be gone
            step = Step.DONE if self._record.state is OutputState.UPLOADED else Step.FAILED
            return self._uploads(step, told=True)
        if pod is not None:
            return self._uploads(Step.WAITS, f"pod {pod.name} is being deleted")
        now, again = self._facts.now, self._record.retry_time
        if again is not None and again > now:
            return self._uploads(Step.WAITS, "the pod that uploads was interrupted", later=again)
        quiet = self._quiet_at()
        if quiet is not None and quiet > now:
            return self._uploads(Step.WAITS, "pods of the job still run", later=quiet)
        return self._uploads(Step.WAITS, self._facts.refusal, create=True)

    def _quiet_at(self) -> datetime | None:
        """Return until when to wait for nodes that still run. None: none does, or the job trains."""
        facts = self._facts
        runs = any(node.live or node.phase is Phase.TERMINATING or node.lingers for node in facts.nodes)
        if self._periodic or not runs or facts.job.status.completion_time is None:
            return None
        return facts.job.status.completion_time + _QUIET

    def _ended_badly(self, pod: UploadPod) -> Uploads:
        results = _results(pod)
        why = "; ".join(_failures(pod, self._facts.job, results)) or pod.trouble or pod.message or pod.reason
        if any(_gave_up(each) for each in pod.exits):
            return self._over(Step.FAILED, why, results)
        if self._record.pod != pod.uid:
            count = self._record.interrupted + 1
            wait = timedelta(seconds=min(2.0**count, 60.0))
            update = {"interrupted": count, "pod": pod.uid, "retry_time": self._facts.now + wait}
            self._record = self._record.model_copy(update=update)
        if self._record.interrupted > _MOST_INTERRUPTIONS:
            return self._over(Step.FAILED, f"the pod was interrupted {_MOST_INTERRUPTIONS} times; {why}", results)
        reason = pod.trouble or "it was interrupted"
        return self._uploads(Step.WAITS, f"the pod that uploads was interrupted: {why}", remove=reason)

    def _over(self, step: Step, why: str, results: Mapping[int, Uploaded]) -> Uploads:
        state = OutputState.UPLOADED if step is Step.DONE else OutputState.FAILED
        self._record = self._record.model_copy(update={"state": state})
        return self._uploads(step, why, results=results)

    def _uploads(
        self,
        step: Step,
        why: str = "",
        *,
        create: bool = False,
        remove: str = "",
        told: bool = False,
        results: Mapping[int, Uploaded] | None = None,
        later: datetime | None = None,
    ) -> Uploads:
        return Uploads(
            step=step,
            why=why,
            due=self._due,
            periodic=self._periodic,
            digest=self._digest,
            create=create,
            remove=remove,
            told=told,
            results=results or {},
            record=self._record,
            later=later,
        )


def _digest(job: TorchrunJob, due: Iterable[int], *, periodic: bool) -> str:
    """Return a digest of all that the pod is made from, and of the wish for another attempt."""
    wanted = {
        "outputs": [(position, job.spec.outputs[position].model_dump(mode="json")) for position in due],
        "image": job.spec.transfer.image,
        "periodic": periodic,
        "retry": job.metadata.annotations.get(ANNOTATION_RETRY_OUTPUTS, ""),
    }
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def _results(pod: UploadPod) -> dict[int, Uploaded]:
    return {each.position: found for each in pod.exits if (found := uploaded(each.message)) is not None}


def _gave_up(ended: UploadExit) -> bool:
    """Whether the container would fail again: it gave up, could not start, or needs more memory."""
    return ended.code in _GAVE_UP or ended.reason == OUT_OF_MEMORY


def _failures(pod: UploadPod, job: TorchrunJob, results: Mapping[int, Uploaded]) -> Iterable[str]:
    for ended in pod.exits:
        if ended.code:
            result = results.get(ended.position)
            known = ended.position < len(job.spec.outputs)
            path = job.spec.outputs[ended.position].path if known else str(ended.position)
            yield f"output {path}: {result.error if result is not None and result.error else _end_of(ended)}"


def _end_of(ended: UploadExit) -> str:
    if ended.message:
        return ended.message[-_MESSAGE_CHARACTERS:]
    return f"exit code {ended.code}" + (f" ({ended.reason})" if ended.reason not in ("", "Error") else "")


def _waits(pod: UploadPod) -> str:
    if not pod.wait.reason:
        return ""
    return f"pod {pod.name} waits: {pod.wait.reason}" + (f": {pod.wait.message}" if pod.wait.message else "")
