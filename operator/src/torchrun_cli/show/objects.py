"""Objects in the formats of the option -o."""

import json
from collections.abc import Sequence
from typing import Any


def formatted(objects: Sequence[dict[str, Any]], output: str, *, many: bool = False) -> str:
    """Return objects as `json`, `yaml` or `name`, each ending with a line break. ``many``: as a List.

    As in kubectl, json and yaml leave out metadata.managedFields.
    """
    if output == "name":
        return "".join(f"{_kind(each)}/{each['metadata']['name']}\n" for each in objects)
    plain = [_without_managers(each) for each in objects]
    whole: Any = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": plain} if many else plain[0]
    if output == "json":
        return json.dumps(whole, indent=4, ensure_ascii=False) + "\n"
    import yaml  # noqa: PLC0415 it is slow to import

    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120)
    return text


def _kind(found: dict[str, Any]) -> str:
    group = str(found.get("apiVersion", "")).rpartition("/")[0]
    kind = str(found.get("kind", "")).lower()
    return f"{kind}.{group}" if group else kind


def _without_managers(found: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in found.get("metadata", {}).items() if key != "managedFields"}
    return {key: metadata if key == "metadata" else value for key, value in found.items()}
