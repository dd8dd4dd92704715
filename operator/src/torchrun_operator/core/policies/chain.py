"""The table of all policies, in the order of priority. The first one with a plan for the job decides."""

from collections.abc import Callable
from dataclasses import replace as replace_fields

from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.findings.find import Findings
from torchrun_operator.core.policies.broken import broken
from torchrun_operator.core.policies.ended import ended
from torchrun_operator.core.policies.failing import failing
from torchrun_operator.core.policies.finishing import finishing
from torchrun_operator.core.policies.host_lost import host_lost
from torchrun_operator.core.policies.name_taken import name_taken
from torchrun_operator.core.policies.plan import Plan
from torchrun_operator.core.policies.replace import replace
from torchrun_operator.core.policies.succeeded import succeeded
from torchrun_operator.core.policies.suspended import suspended
from torchrun_operator.core.policies.together import together
from torchrun_operator.core.policies.upkeep import seconds_until
from torchrun_operator.core.policies.uploads import with_upload

Policy = Callable[[Facts, Findings], Plan | None]

CHAIN: tuple[Policy, ...] = (
    ended,  # completed or failed: keep finished pods for their logs, stop the rest
    suspended,  # spec.suspend: delete all pods
    succeeded,  # every member has succeeded: start no more nodes
    failing,  # the code failed too often, the deadline has passed, or no round formed: close the rendezvous
    name_taken,  # another owner has a name that the job needs: run nothing until it is free
    together,  # a static job: start all nodes together, and all again when one is lost
    broken,  # a member was lost after others had finished: start all nodes again
    finishing,  # some members have succeeded: replace no node, delete the spares
    host_lost,  # the rendezvous host is cut off: delete the nodes that wait for it
)


def plan(facts: Facts, findings: Findings) -> Plan:
    """Return the plan of the first policy that has one, and look again when a further pod may be lost."""
    found = with_upload(_first(facts, findings), facts, findings)
    expired = findings.expiry is not None and facts.now >= findings.expiry
    moments = [facts.judged_at, findings.uploads.later, None if expired else findings.expiry]
    later = [found.look_again_seconds, seconds_until(moments, facts.now)]
    again = min((seconds for seconds in later if seconds is not None), default=None)
    return replace_fields(found, delete_job=expired, look_again_seconds=again)


def _first(facts: Facts, findings: Findings) -> Plan:
    """`replace` has a plan for every job that runs."""
    for policy in CHAIN:
        found = policy(facts, findings)
        if found is not None:
            return found
    return replace(facts, findings)
