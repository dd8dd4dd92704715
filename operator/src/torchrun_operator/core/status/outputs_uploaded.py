"""The condition OutputsUploaded: whether the copies of all outputs that are due are complete."""

from torchrun_operator.api.conditions import ConditionType, Reason
from torchrun_operator.api.names import ANNOTATION_RETRY_OUTPUTS
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.findings.uploads import Step, Uploads
from torchrun_operator.core.phrases import counted, named
from torchrun_operator.core.status.verdict import Verdict


def outputs_uploaded(facts: Facts, findings: Findings) -> list[Verdict]:
    """Return the condition, unless nothing is due yet or nothing has changed."""
    found = findings.uploads
    if found.step is Step.NONE or found.told:
        return []
    message, reason = _said(facts, found)
    return [Verdict(ConditionType.OUTPUTS_UPLOADED, found.step is Step.DONE, reason, message)]


def _said(facts: Facts, found: Uploads) -> tuple[str, Reason]:
    outputs = facts.job.spec.outputs
    urls = named([outputs[position].url for position in found.due])
    match found.step:
        case Step.DONE:
            files = sum(each.files for each in found.results.values())
            return f"{counted(files, 'file')} and the manifests are at {urls}", Reason.UPLOADED
        case Step.FAILED:
            return f"{found.why}; {_remedy(facts)}", Reason.UPLOAD_FAILED
        case Step.INVALID:
            return f"{found.why}; correct spec.outputs", Reason.INVALID_OUTPUTS
        case Step.SKIPPED:
            return "the job has failed; outputs that are uploaded then have when: Always", Reason.NOT_UPLOADED
        case Step.REPEATS:
            return (
                found.why or f"the outputs are uploaded to {urls} while the job trains",
                Reason.UPLOADING_PERIODICALLY,
            )
        case _:
            return found.why or f"the outputs are being uploaded to {urls}", Reason.UPLOADING


def _remedy(facts: Facts) -> str:
    job = facts.job.metadata
    annotate = f"kubectl -n {job.namespace} annotate trj {job.name} --overwrite {ANNOTATION_RETRY_OUTPUTS}=$(date +%s)"
    return f"correct the cause, then upload again with {annotate}"
