"""What a person can do when the API server refuses an object of the job. Pure."""

import re
from typing import Final

_ADVICE: Final = (
    (
        r'failed calling webhook "([^"]+)"',
        "the webhook {0} does not answer: its owner must repair it, or delete its webhook configuration",
    ),
    (
        r"exceeded quota: ([^,]+),",
        "free some of it, raise it (kubectl -n {namespace} describe resourcequota {0}), or lower spec.replicas",
    ),
    (
        r"failed quota: ([^:]+): must specify (.*)",
        "the quota {0} demands them: set them in resources of each container",
    ),
    (
        r'violates PodSecurity "([^"]+)"',
        (
            "set the securityContext in the template as the message says, or ask for another level than {0} for "
            "this namespace"
        ),
    ),
    (
        r"(?:maximum|minimum) \S+ usage per|max limit to request ratio",
        "change resources in the template to fit: kubectl -n {namespace} describe limitrange",
    ),
    (
        r'serviceaccount "?([^"\s]+)"? not found',
        "create the ServiceAccount {0} in namespace {namespace}, or correct serviceAccountName of the template",
    ),
    (
        r"[Nn]o PriorityClass with name (\S+) was found",
        "create the PriorityClass {0}, or correct priorityClassName of the template",
    ),
    (
        r'RuntimeClass "?([^"\s]+)"? not found',
        "create the RuntimeClass {0}, or correct runtimeClassName of the template",
    ),
    (r"because it is being terminated", "the namespace is being deleted: create the job in another one"),
    (r'admission webhook "([^"]+)" denied', "change the template as the webhook {0} demands, or ask its owner"),
    (r"ValidatingAdmissionPolicy '([^']+)'", "change the template as the policy {0} demands, or ask its owner"),
)
"""The first pattern that occurs in the words of the API server decides."""


def with_advice(refusal: str, namespace: str) -> str:
    """Return the words of the API server, and what to do where that is known."""
    for pattern, advice in _ADVICE:
        found = re.search(pattern, refusal)
        if found is not None:
            return f"{refusal.rstrip('.')}; {advice.format(*found.groups(), namespace=namespace)}"
    return refusal
