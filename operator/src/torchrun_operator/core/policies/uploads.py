"""The upload of the outputs goes on beside whatever else the job does, also once it has ended."""

import dataclasses

from torchrun_operator.core.facts.model import Facts, Phase
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.plan import Deletion, Plan, Upload


def with_upload(plan: Plan, facts: Facts, findings: Findings) -> Plan:
    """Return the plan with what the upload needs. A new pod mounts the program, so the objects come with it."""
    found, pod = findings.uploads, facts.upload_pod
    if found.create and not findings.name_taken:
        upload = Upload(found.due, found.digest, found.periodic)
        plan = dataclasses.replace(plan, upload=upload, apply_objects=True)
    if found.remove and pod is not None:
        grace = 0 if pod.phase in (Phase.LOST, Phase.FAILED, Phase.SUCCEEDED) else None
        plan = dataclasses.replace(plan, deletions=(*plan.deletions, Deletion(pod.name, pod.uid, found.remove, grace)))
    return plan
