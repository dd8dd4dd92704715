"""Pods that wait, as the API server has them, and the message that a person should read about each.

The files have the texts of real schedulers, kubelets and container runtimes.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from builders import DIGEST

FORMS = Path(__file__).parents[1] / "unit" / "waits"
NODE_NAME, HOST_NAME = "digits-0", "digits-rdzv"


@dataclass(frozen=True)
class Form:
    """How a pod waits."""

    status: dict[str, Any] = field(default_factory=dict)
    """Of the pod."""
    events: tuple[dict[str, Any], ...] = ()
    scheduled: bool = True
    spec: dict[str, Any] = field(default_factory=dict)
    """Of the job."""
    expected: dict[str, str] = field(default_factory=dict)
    """Condition, reason and message."""

    def pod(self, name: str = NODE_NAME) -> dict[str, Any]:
        """Return the pod with that name as the API server writes it."""
        host = name == HOST_NAME
        labels = {"torchrun.dev/job-name": "digits", "torchrun.dev/role": "rendezvous" if host else "node"}
        return {
            "metadata": {
                "name": name,
                "uid": f"uid-{name}",
                "creationTimestamp": "2026-01-31T11:59:50Z",
                "labels": labels if host else {**labels, "torchrun.dev/node-index": name.rpartition("-")[2]},
                "annotations": {"torchrun.dev/token-digest": DIGEST},
                "ownerReferences": [{"kind": "TorchrunJob", "name": "digits", "uid": "job-uid", "controller": True}],
            },
            "spec": {"nodeName": "m1"} if self.scheduled else {},
            "status": {"phase": "Pending", **self.status},
        }


def forms(file: str) -> dict[str, Form]:
    """Return the forms in a file, by name."""
    found = yaml.safe_load((FORMS / f"{file}.yaml").read_text())
    return {name: Form(**{**form, "events": tuple(form.get("events", ()))}) for name, form in found.items()}


def check_form(file: str, name: str, found: dict[str, str]) -> None:
    """Compare with what the file expects. UPDATE_GOLDEN=1 writes it: review the changes."""
    path = FORMS / f"{file}.yaml"
    known = yaml.safe_load(path.read_text())
    if os.environ.get("UPDATE_GOLDEN"):
        known[name]["expected"] = found
        texts = [
            yaml.safe_dump({key: form}, sort_keys=False, width=118, allow_unicode=True) for key, form in known.items()
        ]
        path.write_text("\n".join(texts))
    assert found == known[name]["expected"]
