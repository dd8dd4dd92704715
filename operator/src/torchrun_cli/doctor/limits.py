"""Whether the LimitRanges of the namespace let the missing pods in, and what they set in them."""

from collections.abc import Iterator
from decimal import Decimal

from torchrun_cli.doctor.amounts import Amounts, amounts, of_container, read, shown
from torchrun_cli.doctor.case import JobCase
from torchrun_cli.doctor.findings import Finding, Level, Object, ok


def with_defaults(pod: Object, limit_ranges: tuple[Object, ...]) -> Object:
    """Return a pod with the requests and limits that LimitRanges set where it says none."""
    items = [item for each in limit_ranges for item in _items(each, "Container")]
    spec = pod["spec"]
    if not items:
        return pod
    changed = {
        key: [_container_with(each, items) for each in spec[key]]
        for key in ("initContainers", "containers")
        if key in spec
    }
    return {**pod, "spec": {**spec, **changed}}


def _container_with(container: Object, items: list[Object]) -> Object:
    resources = container.get("resources") or {}
    limits: Object = dict(resources.get("limits") or {})
    requests: Object = {**limits, **(resources.get("requests") or {})}
    for item in items:
        requests = {**(item.get("default") or {}), **(item.get("defaultRequest") or {}), **requests}
        limits = {**(item.get("default") or {}), **limits}
    return {**container, "resources": {"limits": limits, "requests": requests}}


def _items(limit_range: Object, kind: str) -> list[Object]:
    return [each for each in (limit_range.get("spec") or {}).get("limits") or () if each.get("type") == kind]


def limit_ranges(case: JobCase, check: str) -> Iterator[Finding]:
    """Say whether the LimitRanges accept the pods that the job lacks."""
    every = case.seen.get("limitranges")
    refused: dict[str, str] = {}
    for pod in case.missing:
        for limit_range in every:
            for words in _broken(with_defaults(pod, every), limit_range):
                refused.setdefault(words, limit_range["metadata"]["name"])
    for words, name in refused.items():
        advice = f"change resources in spec.template; see kubectl -n {case.namespace} describe limitrange {name}"
        yield Finding(check, Level.FAILED, f"the LimitRange {name} rejects pods: {words}", advice)
    if every and not refused:
        yield ok(check, "they accept the pods of the job")


def _broken(pod: Object, limit_range: Object) -> Iterator[str]:
    for item in _items(limit_range, "Container"):
        for each in pod["spec"].get("containers") or ():
            requests, limits = of_container(each, "requests"), of_container(each, "limits")
            yield from _beyond(f"container {each['name']}", requests, limits, item)
    for item in _items(limit_range, "Pod"):
        yield from _beyond("the pod", amounts(pod["spec"], "requests"), amounts(pod["spec"], "limits"), item)


def _beyond(who: str, requests: Amounts, limits: Amounts, item: Object) -> Iterator[str]:
    for name, least in read(item.get("min")).items():
        if requests.get(name, Decimal(0)) < least:
            yield f"{who} requests {shown(name, requests.get(name, Decimal(0)))} {name}, less than {shown(name, least)}"
    for name, most in read(item.get("max")).items():
        if name not in limits:
            yield f"{who} has no limit of {name}; at most {shown(name, most)}"
        elif limits[name] > most:
            yield f"{who} has a limit of {shown(name, limits[name])} {name}, more than {shown(name, most)}"
    for name, ratio in read(item.get("maxLimitRequestRatio")).items():
        if requests.get(name) and limits.get(name, Decimal(0)) > requests[name] * ratio:
            yield f"the limit of {name} of {who} is more than {ratio} times its request"
