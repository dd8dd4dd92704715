"""Each output of the job, and how far its upload is."""

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.uploads import Step, Uploads

_STATES = {
    Step.WAITS: api.OutputState.UPLOADING,
    Step.RUNS: api.OutputState.UPLOADING,
    Step.REPEATS: api.OutputState.UPLOADING,
    Step.DONE: api.OutputState.UPLOADED,
    Step.FAILED: api.OutputState.FAILED,
    Step.INVALID: api.OutputState.FAILED,
    Step.SKIPPED: api.OutputState.SKIPPED,
}


def outputs(facts: Facts, findings: Findings) -> tuple[api.OutputStatus, ...] | None:
    """Return each output. What a former upload reached stays until a newer one has ended."""
    before = {(each.path, each.url): each for each in facts.job.status.outputs or ()}
    count = len(facts.job.spec.outputs)
    return tuple(_output(facts, findings.uploads, position, before) for position in range(count)) or None


def _output(
    facts: Facts, found: Uploads, position: int, before: dict[tuple[str, str], api.OutputStatus]
) -> api.OutputStatus:
    output = facts.job.spec.outputs[position]
    old = before.get((output.path, output.url)) or api.OutputStatus(path=output.path, url=output.url)
    if found.told and position in found.due:
        return old
    if position not in found.due:
        skipped = found.step is Step.SKIPPED or (bool(found.due) and not found.periodic)
        state = api.OutputState.SKIPPED if skipped else api.OutputState.WAITING
        return old.model_copy(update={"state": state, "message": ""})
    result = found.results.get(position)
    state = _STATES.get(found.step, api.OutputState.WAITING)
    if result is None:
        message = found.why if found.step in (Step.FAILED, Step.INVALID) else ""
        return api.OutputStatus(**{**dict(old), "state": state, "message": message})
    if result.error:
        return api.OutputStatus(**{**dict(old), "state": api.OutputState.FAILED, "message": result.error})
    uploaded = {"state": api.OutputState.UPLOADED, "files": result.files, "bytes": result.bytes, "message": ""}
    return old.model_copy(update=uploaded)
