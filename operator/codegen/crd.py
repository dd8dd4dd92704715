"""Assembles the CustomResourceDefinition of TorchrunJob."""

import copy
from typing import Any

from bounds import BOUNDS
from model_schema import Schema, structural
from pod_schema import claim_template, container_field, pod_template, rendezvous_template
from rules import RULES

from torchrun_operator.api.names import CATEGORIES, GROUP, KIND, PLURAL, SHORT_NAME, SINGULAR, VERSION
from torchrun_operator.api.v1alpha1 import TorchrunJob, TorchrunJobSpec, TorchrunJobStatus

_COLUMNS = (
    # name, type, path, description, priority: 1 shows only with -o wide
    ("Nodes", "string", ".status.membership.summary", "Number of nodes that train, and MIN:MAX.", 0),
    ("World", "integer", ".status.membership.worldSize", "Number of workers that train.", 0),
    ("State", "string", ".status.state", "The job in one word.", 0),
    ("Step", "integer", ".status.progress.step", "Number of steps done.", 0),
    ("Restarts", "integer", ".status.restartCount", "Restarts for any cause but resize.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the creation of the job.", 0),
    ("Message", "string", ".status.message", "Why the job is in this state.", 0),
    ("Loss", "number", ".status.progress.loss", "Training loss.", 1),
    ("Samples/s", "number", ".status.progress.samplesPerSecond", "Samples per second, all workers together.", 1),
    ("Snapshot", "integer", ".status.progress.snapshotStep", "Step of the newest snapshot.", 1),
    ("Goodput", "number", ".status.goodput.ratio", "Share of the time that trained the model.", 1),
    ("Round", "integer", ".status.membership.round", "Number of the rendezvous round.", 1),
    ("Last-Change", "string", ".status.membership.lastChange.cause", "Why the membership last changed.", 1),
)


def schema() -> Schema:
    """Return the structural schema of a TorchrunJob, rules included."""
    spec = structural(TorchrunJobSpec, defaults=True)
    _fill(spec["properties"]["template"], pod_template())
    _fill(spec["properties"]["rendezvous"]["properties"]["template"], rendezvous_template())
    _fill(spec["properties"]["snapshots"]["properties"]["volumeClaimTemplate"], claim_template())
    lead = spec["properties"]["lead"]["properties"]
    _fill(lead["resources"], container_field("resources"))
    lead["env"] = container_field("env") | {"description": lead["env"]["description"]}
    status = structural(TorchrunJobStatus, defaults=False)
    status["properties"]["conditions"] |= _keyed("type")
    spec["properties"]["files"] |= _keyed("path")
    root: Schema = {
        "type": "object",
        "description": TorchrunJob.__doc__,
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"Always {KIND}."},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": spec,
            "status": status,
        },
    }
    for path, bounds in BOUNDS.items():
        at(root, path).update(bounds)
    for rule in RULES:
        at(root, rule.at).setdefault("x-kubernetes-validations", []).append(rule.wire())
    return root


def at(root: Schema, path: str) -> Schema:
    """Return the part of the schema at a path such as `spec.files[].path`."""
    node = root
    for part in path.split(".") if path else ():
        node = node["properties"][part.removesuffix("[]")]
        if part.endswith("[]"):
            node = node["items"]
    return node


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": description, "priority": wide}
            for name, kind, path, description, wide in _COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": copy.deepcopy(schema())},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": [SHORT_NAME],
                "categories": list(CATEGORIES),
            },
            "versions": [version],
        },
    }


def _fill(node: Schema, typed: Schema) -> None:
    """Replace a free-form mapping of the models with the full type, so that the API server checks it."""
    del node["x-kubernetes-preserve-unknown-fields"]
    node.update({key: value for key, value in typed.items() if key != "description"})


def _keyed(key: str) -> Schema:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
