"""Whether the quotas of the namespace let the missing pods in."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from torchrun_cli.doctor.amounts import Amounts, Kind, add, amounts, of_container, read, shown
from torchrun_cli.doctor.case import JobCase, is_host, nodes_of
from torchrun_cli.doctor.findings import Finding, Level, Object, many, ok
from torchrun_cli.doctor.limits import with_defaults
from torchrun_operator.api.names import snapshots_name

_COMPUTE: Final = ("cpu", "memory", "ephemeral-storage")
_COUNTS: Final = ("pods", "count/pods")
_CLAIMS: Final = ("persistentvolumeclaims", "count/persistentvolumeclaims")


def quotas(case: JobCase, check: str) -> Iterator[Finding]:
    """Say whether the quotas have room for the pods that the job lacks."""
    found = [each for quota in case.seen.get("resourcequotas") for each in _of_quota(case, check, quota)]
    if found:
        yield from found
    elif case.job is not None:
        words = "has room for the missing pods" if case.missing else "does not matter: no pod is missing"
        yield ok(check, f"the quota of the namespace {words}" if case.seen.get("resourcequotas") else "there is none")


def _of_quota(case: JobCase, check: str, quota: Object) -> Iterator[Finding]:
    name, status = quota["metadata"]["name"], quota.get("status") or {}
    hard = read(status.get("hard") or (quota.get("spec") or {}).get("hard"))
    used = read(status.get("used"))
    limits = case.seen.get("limitranges")
    pods = [with_defaults(pod, limits) for pod in case.missing if _covers(quota, with_defaults(pod, limits))]
    look = f"kubectl -n {case.namespace} describe resourcequota {name}"
    silent = dict.fromkeys(field for pod in pods for field in _unsaid(pod, hard))
    if silent:
        words = f"the quota {name} rejects pods that do not set {', '.join(silent)} in each container"
        yield Finding(check, Level.FAILED, words, f"set resources in spec.template, or let a LimitRange do; see {look}")
        return
    refused: list[Object] = []
    short: dict[str, Decimal] = {}
    for pod in pods:
        needs = _needs(pod)
        lacking = {
            key: needs[key] for key in needs if key in hard and used.get(key, Decimal(0)) + needs[key] > hard[key]
        }
        if lacking:
            refused.append(pod)
            short |= lacking
        else:
            used = add(used, needs)
    if refused:
        words = f"the quota {name} has room for {len(pods) - len(refused)} of {many(len(pods), 'missing pod')}: "
        words += ", ".join(_said(key, need, read(status.get("used")), hard) for key, need in short.items())
        level = level_without(case, refused)
        yield Finding(check, level, words, f"raise it, request less, or delete other pods; see {look}")
    yield from _of_claim(case, check, name, hard, used, look)


def level_without(case: JobCase, pods: list[Object]) -> Level:
    """Return how bad it is that these pods cannot be: the job may train with fewer nodes."""
    lost = len(nodes_of(pods))
    fatal = any(is_host(pod) for pod in pods) or not case.enough(lost)
    return Level.FAILED if fatal else Level.WARNING


def _said(key: str, need: Decimal, used: Amounts, hard: Amounts) -> str:
    name = key.removeprefix("requests.").removeprefix("limits.")
    taken, most = shown(name, used.get(key, Decimal(0))), shown(name, hard[key])
    return f"{taken} of {most} {key} used, and a pod needs {shown(name, need)}"


def _of_claim(
    case: JobCase, check: str, name: str, hard: Amounts, used: Mapping[str, Decimal], look: str
) -> Iterator[Finding]:
    """Say whether there is room for the claim that the operator creates."""
    snapshots = case.job.spec.snapshots if case.job is not None else None
    template = snapshots.volume_claim_template if snapshots is not None else None
    claim = snapshots_name(case.name)
    known = {each["metadata"]["name"] for each in case.seen.get("persistentvolumeclaims")}
    if template is None or not case.missing or claim in known:
        return
    spec = template.get("spec") or {}
    size = read((spec.get("resources") or {}).get("requests")).get("storage", Decimal(0))
    needs: Amounts = {**dict.fromkeys(_CLAIMS, Decimal(1)), "requests.storage": size}
    if spec.get("storageClassName"):
        prefix = f"{spec['storageClassName']}.storageclass.storage.k8s.io/"
        needs |= {f"{prefix}requests.storage": size, f"{prefix}persistentvolumeclaims": Decimal(1)}
    for key, need in needs.items():
        if key in hard and used.get(key, Decimal(0)) + need > hard[key]:
            words = f"the quota {name} has no room for the claim {claim}: "
            taken, most = shown(key, used.get(key, Decimal(0))), shown(key, hard[key])
            words += f"{taken} of {most} {key} used, and it needs {shown(key, need)}"
            yield Finding(check, Level.FAILED, words, f"raise it, or ask for less in spec.snapshots; see {look}")
            return


def _needs(pod: Object) -> Amounts:
    """Return what a pod uses of a quota, by the keys of quotas."""
    requests, limits = amounts(pod["spec"], "requests"), amounts(pod["spec"], "limits")
    return {
        **dict.fromkeys(_COUNTS, Decimal(1)),
        **{name: amount for name, amount in requests.items() if name in _COMPUTE},
        **{f"requests.{name}": amount for name, amount in requests.items()},
        **{f"limits.{name}": amount for name, amount in limits.items()},
    }


def _unsaid(pod: Object, hard: Amounts) -> Iterator[str]:
    """Yield what a quota demands of each container, and one does not say."""
    for name in _COMPUTE:
        wanted: list[tuple[Kind, bool]] = [
            ("requests", name in hard or f"requests.{name}" in hard),
            ("limits", f"limits.{name}" in hard),
        ]
        for kind, demanded in wanted:
            if demanded and any(name not in of_container(each, kind) for each in pod["spec"]["containers"]):
                yield f"{kind}.{name}"


def _covers(quota: Object, pod: Object) -> bool:
    """Whether a quota counts this pod. Scopes that are not known here count."""
    spec = quota.get("spec") or {}
    scopes = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    return all(_in_scope(scope, pod["spec"]) for scope in scopes)


def _in_scope(scope: Object, spec: Object) -> bool:
    best_effort = not amounts(spec, "requests") and not amounts(spec, "limits")
    match scope.get("scopeName"):
        case "BestEffort":
            return best_effort
        case "NotBestEffort":
            return not best_effort
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "PriorityClass":
            given, values = spec.get("priorityClassName") or "", scope.get("values") or ()
            match scope.get("operator"):
                case "In":
                    return given in values
                case "NotIn":
                    return given not in values
                case "DoesNotExist":
                    return not given
            return bool(given)
    return True
