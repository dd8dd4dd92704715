"""Faults that last, and their repairs in any order."""

from typing import Any, cast

from chaos.membership.lasting import Lasting
from chaos.membership.scene import SCRATCH, Scene


class Objects:
    """kubectl and the API server: objects by kind and name. A claim with a finalizer is only marked as deleted."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.found.get((kind, name))

    def run(self, verb: str, kind: str, name: str, *_: str) -> None:
        assert verb == "delete"
        self.found[kind, name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> None:
        if "deletionTimestamp" in self.found.get((kind, name), {}).get("metadata", {}) and "metadata" in change:
            del self.found[kind, name]

    def apply(self, thing: dict[str, Any]) -> None:
        self.found[thing["kind"].lower(), thing["metadata"]["name"]] = {"metadata": {**thing["metadata"]}}


class Stage:
    """What a fault needs of the scene."""

    def __init__(self) -> None:
        self.kubectl, self.volume, self.blocking = Objects(), "volume-1", set[str]()


def test_a_claim_that_is_deleted_twice_is_made_again_once() -> None:
    stage = Stage()
    claims = stage.kubectl.found
    claims["persistentvolumeclaim", SCRATCH] = {"metadata": {"name": SCRATCH}}
    lasting = Lasting(cast("Scene", stage))
    repairs = [lasting.claim(), lasting.claim()]
    for repair in repairs:
        repair()
        assert "deletionTimestamp" not in claims["persistentvolumeclaim", SCRATCH]["metadata"]
    assert stage.blocking == set()
