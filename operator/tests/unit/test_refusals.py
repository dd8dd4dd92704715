"""What the API server says when it refuses an object, and what the condition Accepted adds to it."""

import pytest

from builders import NOW, decide, facts, make_job
from torchrun_operator.api.conditions import ConditionType, find_condition

FORBIDDEN = 'pods "digits-0" is forbidden: '
REFUSALS: dict[str, tuple[str, str]] = {
    "a quota that is used up": (
        f"{FORBIDDEN}exceeded quota: gpus, requested: pods=1, used: pods=2, limited: pods=2",
        "free some of it, raise it (kubectl -n team describe resourcequota gpus), or lower spec.replicas",
    ),
    "a quota that demands limits": (
        f"{FORBIDDEN}failed quota: compute: must specify limits.cpu for: trainer; limits.memory for: trainer",
        "the quota compute demands them: set them in resources of each container",
    ),
    "a limit range": (
        f"{FORBIDDEN}maximum memory usage per Container is 1Gi, but limit is 2Gi",
        "change resources in the template to fit: kubectl -n team describe limitrange",
    ),
    "the security of pods": (
        (
            f'{FORBIDDEN}violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container '
            f'"trainer" must set '
            "securityContext.runAsNonRoot=true)"
        ),
        (
            "set the securityContext in the template as the message says, or ask for another level than "
            "restricted:latest for "
            "this namespace"
        ),
    ),
    "a service account": (
        f'{FORBIDDEN}error looking up service account team/train: serviceaccount "train" not found',
        "create the ServiceAccount train in namespace team, or correct serviceAccountName of the template",
    ),
    "a priority class": (
        f"{FORBIDDEN}no PriorityClass with name urgent was found",
        "create the PriorityClass urgent, or correct priorityClassName of the template",
    ),
    "a runtime class": (
        f'{FORBIDDEN}pod rejected: RuntimeClass "gvisor" not found',
        "create the RuntimeClass gvisor, or correct runtimeClassName of the template",
    ),
    "a namespace that goes": (
        f"{FORBIDDEN}unable to create new content in namespace team because it is being terminated",
        "the namespace is being deleted: create the job in another one",
    ),
    "a webhook that says no": (
        'Pod team/digits-0: admission webhook "images.example.com" denied the request: image train:1 is not signed.',
        "change the template as the webhook images.example.com demands, or ask its owner",
    ),
    "a webhook that does not answer": (
        (
            'Pod team/digits-0: Internal error occurred: failed calling webhook "images.example.com": failed to '
            "call webhook: "
            'Post "https://images.team.svc:443/": dial tcp 10.0.0.7:443: connect: connection refused'
        ),
        "the webhook images.example.com does not answer: its owner must repair it, or delete its webhook configuration",
    ),
    "a policy": (
        f"{FORBIDDEN}ValidatingAdmissionPolicy 'no-latest' with binding 'all' denied request: write a tag",
        "change the template as the policy no-latest demands, or ask its owner",
    ),
    "anything else": ('Pod "digits-0" is invalid: spec.containers[0].image: Invalid value', ""),
}


@pytest.mark.parametrize(("refusal", "advice"), REFUSALS.values(), ids=REFUSALS)
def test_the_condition_accepted_says_what_to_do(refusal: str, advice: str) -> None:
    status = decide(make_job(), facts(refusal=refusal), NOW).status
    accepted = find_condition(status.conditions, ConditionType.ACCEPTED)
    assert accepted is not None
    assert accepted.message == (f"{refusal.rstrip('.')}; {advice}" if advice else refusal)
    assert (accepted.reason, status.state, status.refusal.message if status.refusal else "") == (
        "RefusedByCluster",
        "Invalid",
        refusal,
    )
