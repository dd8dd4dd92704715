"""The resources of the rendezvous pod: defaults that fit the LimitRanges of a namespace."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

_SUFFIXES: Final = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}  # fmt: skip


@dataclass(frozen=True)
class Need:
    """What a container needs of one resource, in its base unit: cores, bytes."""

    request: Decimal
    limit: Decimal
    floor: Decimal
    """A LimitRange that bounds the ratio of limit to request lowers the limit to this first."""
    step: Decimal
    """Quantities are written as a multiple of this."""


def quantity(text: object) -> Decimal:
    """Return the value of a quantity such as 100m, 2Gi or 1e3. Raises ValueError for other texts."""
    written = str(text)
    number = written.rstrip("numkKMGTPEi")
    try:
        return Decimal(number) * _SUFFIXES[written[len(number) :]]
    except (ArithmeticError, KeyError) as error:
        raise ValueError(f"{written} is no quantity") from error


def fitting(need: Need, resource: str, limit_ranges: Iterable[Mapping[str, Any]]) -> tuple[Decimal, Decimal]:
    """Return request and limit as near to the need as the LimitRanges allow. A pod has one container here."""
    items = [
        item
        for found in limit_ranges
        for item in (found.get("spec") or {}).get("limits") or ()
        if item.get("type") in ("Container", "Pod")
    ]
    low = max(_bounds(items, "min", resource), default=Decimal(0))
    high = min(_bounds(items, "max", resource), default=Decimal("Infinity"))
    ratio = min(_bounds(items, "maxLimitRequestRatio", resource), default=Decimal("Infinity"))
    limit = max(low, min(need.limit, high))
    request = max(low, min(need.request, limit))
    if limit > request * ratio:
        limit = max(request * ratio, min(need.floor, limit))
        request = max(request, _rounded_up(limit / ratio, need.step))
    return request, max(limit, request)


def written(amount: Decimal, step: Decimal) -> str:
    """Return the shortest usual form of a multiple of step: 50m and 2 for cores, 512Mi and 2Gi for bytes."""
    if step < 1:
        return str(int(amount)) if amount == int(amount) else f"{int(amount * 1000)}m"
    for suffix in ("Gi", "Mi", "Ki"):
        if amount % _SUFFIXES[suffix] == 0:
            return f"{int(amount / _SUFFIXES[suffix])}{suffix}"
    return str(int(amount))


def _bounds(items: Iterable[Mapping[str, Any]], kind: str, resource: str) -> list[Decimal]:
    return [quantity(item[kind][resource]) for item in items if resource in (item.get(kind) or {})]


def _rounded_up(amount: Decimal, step: Decimal) -> Decimal:
    return math.ceil(amount / step) * step
