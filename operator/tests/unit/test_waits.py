"""Forms of waiting, and the message that a person reads: which pod, why, and what to do."""

import pytest

from builders import DIGEST, NOW, decide, make_job
from torchrun_operator.api.conditions import ConditionType, find_condition
from torchrun_operator.core.facts.pods import gather
from torchrun_operator.core.facts.waiting import completed, told
from torchrun_rendezvous.protocol import RendezvousState
from waiting_forms import HOST_NAME, NODE_NAME, Form, check_form, forms

NOBODY = RendezvousState("aa", round=0, silent=())
RUNS = Form({"phase": "Running", "podIP": "10.0.0.250", "conditions": [{"type": "Ready", "status": "True"}]})
FILES = ("volumes", "images", "containers", "scheduling", "rendezvous")
ALL = {f"{file}: {name}": (file, name, form) for file in FILES for name, form in forms(file).items()}


def condition(form: Form, kind: str, *names: str) -> dict[str, str]:
    """Return the condition of a job whose pods with these names all wait in the same way."""
    host = HOST_NAME in names
    pods = [form.pod(name) for name in names] + ([] if host else [RUNS.pod(HOST_NAME)])
    job = make_job(nnodes="1:8", replicas=len(names), **form.spec)
    found = gather(job, NOW, pods, None if host else NOBODY, token_digest=DIGEST)
    found = completed(found, {f"uid-{name}": told(form.events) for name in names})
    verdict = find_condition(decide(job, found, NOW).status.conditions, ConditionType(kind))
    assert verdict is not None
    return {"condition": kind, "reason": verdict.reason, "message": verdict.message}


@pytest.mark.parametrize(("file", "name", "form"), ALL.values(), ids=ALL)
def test_form(file: str, name: str, form: Form) -> None:
    pod = HOST_NAME if file == "rendezvous" else NODE_NAME
    check_form(file, name, condition(form, form.expected["condition"], pod))
