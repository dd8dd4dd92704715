"""What a pod requests, as the scheduler and quotas count it."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, Literal

from torchrun_cli.doctor.findings import Object
from torchrun_operator.render.limits import quantity

Amounts = dict[str, Decimal]
Kind = Literal["requests", "limits"]

_UNITS: Final = (("Ti", 1024**4), ("Gi", 1024**3), ("Mi", 1024**2), ("Ki", 1024))
_BYTES: Final = ("memory", "storage", "hugepages")


def amounts(spec: Object, kind: Kind) -> Amounts:
    """Return the requests or the limits of a pod: of what runs at the same time at most."""
    running: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        own = of_container(container, kind)
        peak = _larger(peak, add(running, own))
        if container.get("restartPolicy") == "Always":
            running = add(running, own)
    for container in spec.get("containers") or ():
        running = add(running, of_container(container, kind))
    return add(_larger(peak, running), read(spec.get("overhead")))


def of_container(container: Mapping[str, Any], kind: Kind) -> Amounts:
    """Return the requests or the limits of a container. A request without a value is the limit."""
    resources = container.get("resources") or {}
    limits = read(resources.get("limits"))
    return limits if kind == "limits" else {**limits, **read(resources.get("requests"))}


def read(given: Mapping[str, Any] | None) -> Amounts:
    """Read quantities. Those that cannot be read are left out."""
    found: Amounts = {}
    for name, text in (given or {}).items():
        try:
            found[name] = quantity(text)
        except ValueError:
            continue
    return found


def add(first: Mapping[str, Decimal], second: Mapping[str, Decimal]) -> Amounts:
    """Return the sums."""
    return {name: first.get(name, Decimal(0)) + second.get(name, Decimal(0)) for name in {**first, **second}}


def total(every: Iterable[Mapping[str, Decimal]]) -> Amounts:
    """Return the sums of many."""
    found: Amounts = {}
    for each in every:
        found = add(found, each)
    return found


def shown(name: str, amount: Decimal) -> str:
    """Return an amount of a resource for people: 500m, 4, 12Gi."""
    if any(word in name for word in _BYTES):
        for suffix, size in _UNITS:
            if amount >= size:
                return f"{float(amount / size):.4g}{suffix}"
        return str(int(amount))
    whole = amount == int(amount)
    return str(int(amount)) if whole else f"{int(amount * 1000)}m"


def _larger(first: Mapping[str, Decimal], second: Mapping[str, Decimal]) -> Amounts:
    return {name: max(first.get(name, Decimal(0)), second.get(name, Decimal(0))) for name in {**first, **second}}
