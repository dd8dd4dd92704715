"""The table of all policies, in the order of their priority: the first one that has a plan for the job decides."""

from collections.abc import Callable

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.broken import broken
from torchrun_operator.core.policies.ended import ended
from torchrun_operator.core.policies.exhausted import exhausted
from torchrun_operator.core.policies.finishing import finishing
from torchrun_operator.core.policies.host_lost import host_lost
from torchrun_operator.core.policies.name_taken import name_taken
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.policies.replace import replace
from torchrun_operator.core.policies.succeeded import succeeded
from torchrun_operator.core.policies.suspended import suspended

Policy = Callable[[Facts, Findings], Plan | None]

CHAIN: tuple[Policy, ...] = (
    ended,  # completed or failed: keep finished pods for their logs, stop the rest
    suspended,  # spec.suspend: give back all pods
    succeeded,  # every member has succeeded: start nothing any more
    exhausted,  # the code failed too often: close the rendezvous
    name_taken,  # another owner has a name that the job needs: run nothing until it is free
    broken,  # a member was lost after others had finished: start all nodes again
    finishing,  # some members have succeeded: replace nobody, delete the spares
    host_lost,  # the rendezvous host is cut off: delete the nodes that wait for it
)


def plan(facts: Facts, findings: Findings) -> Plan:
    """Return the plan of the first policy that has one; `replace` has one for every job that runs."""
    for policy in CHAIN:
        found = policy(facts, findings)
        if found is not None:
            return found
    return replace(facts, findings)
