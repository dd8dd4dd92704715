"""All checks, in the order in which they are shown."""

from typing import Final

from torchrun_cli.doctor import clocks, control, limits, network, quota, references, room, security, state
from torchrun_cli.doctor.case import JobCase
from torchrun_cli.doctor.control import ClusterCase
from torchrun_cli.doctor.findings import Check, Finding, Level, run
from torchrun_cli.show.pace import has_ended

JOB_CHECKS: Final[tuple[Check[JobCase], ...]] = (
    Check("conditions", state.conditions),
    Check("spec", state.spec),
    Check("quota", quota.quotas, ("resourcequotas",)),
    Check("limit ranges", limits.limit_ranges, ("limitranges",)),
    Check("pod security", security.pod_security, ("namespaces",)),
    Check("images", references.images, ("pods",)),
    Check("secrets", references.secrets, ("secrets",)),
    Check("config maps", references.config_maps, ("configmaps",)),
    Check("claims", references.claims, ("persistentvolumeclaims",)),
    Check("service account", references.service_accounts, ("serviceaccounts",)),
    Check("room", room.room, ("nodes", "allpods")),
    Check("network policies", network.network, ("networkpolicies",)),
    Check("rendezvous", state.rendezvous, ("pods",)),
    Check("clocks", clocks.clocks),
)
CLUSTER_CHECKS: Final[tuple[Check[ClusterCase], ...]] = (
    Check("operator", control.operator, ("deployments",)),
    Check("watches", control.watches, ("readyz",)),
    Check("versions", control.versions, ("deployments",)),
    Check("resource", control.resource, ("customresourcedefinitions",)),
    Check("storage", control.storage, ("storageclasses",)),
    Check("gpus", control.gpus, ("nodes",)),
    Check("network policies", control.policies, ("daemonsets",)),
    Check("clocks", clocks.clocks),
)
_OPERATOR: Final = CLUSTER_CHECKS[:2]


def job_findings(case: JobCase, cluster: ClusterCase) -> list[Finding]:
    """Return the results for a job, and those about its operator as far as they may be read.

    Of a job that has ended, only what it says itself counts.
    """
    if has_ended(case.raw):
        return run(JOB_CHECKS[:1], case, case.seen)
    about_operator = run(_OPERATOR, cluster, case.seen)
    own = run(JOB_CHECKS, case, case.seen)
    return [*own, *(each for each in about_operator if each.level is not Level.UNKNOWN)]


def cluster_findings(case: ClusterCase) -> list[Finding]:
    """Return the results for the cluster."""
    return run(CLUSTER_CHECKS, case, case.seen)


def failed(found: list[Finding]) -> int:
    """Return how many checks have failed."""
    return sum(each.level is Level.FAILED for each in found)
