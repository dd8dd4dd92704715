"""What other people's objects in the namespace of a job demand of the objects that the operator creates there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class NamespaceRules:
    """The rules of one namespace, as the API server stores them."""

    limit_ranges: tuple[Mapping[str, Any], ...] = ()
    network_policies: tuple[Mapping[str, Any], ...] = ()
    """All of them, also those of the operator."""


NO_RULES: Final = NamespaceRules()
