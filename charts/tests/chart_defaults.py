"""The default objects of the chart, and functions that read rendered objects."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "torchrun-operator"
CRD = CHART / "files" / "torchrun.dev_torchrunjobs.yaml"
GUIDE = ROOT / "docs" / "install.md"
RELEASE = "rel"
NAME = "rel-torchrun-operator"
NAMESPACE = "ops"
POLICY = f"{NAME}.{NAMESPACE}"

Objects = dict[str, dict[str, Any]]
Values = Mapping[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[..., Objects]

SELECTOR = {"app.kubernetes.io/name": "torchrun-operator", "app.kubernetes.io/instance": RELEASE}
LABELS = SELECTOR | {
    "app.kubernetes.io/version": "0.1.0",
    "app.kubernetes.io/managed-by": "Helm",
    "helm.sh/chart": "torchrun-operator-0.1.0",
}
COMPONENT = {"torchrun.dev/component": "operator"}
RULES = [
    {"apiGroups": ["torchrun.dev"], "resources": ["torchrunjobs"], "verbs": ["get", "list", "watch", "delete"]},
    {"apiGroups": ["torchrun.dev"], "resources": ["torchrunjobs/status"], "verbs": ["patch"]},
    {"apiGroups": ["torchrun.dev"], "resources": ["torchrunjobs/finalizers"], "verbs": ["update"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["services", "configmaps"], "verbs": ["get", "create", "patch", "delete"]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "create"]},
    {
        "apiGroups": ["networking.k8s.io"],
        "resources": ["networkpolicies"],
        "verbs": ["get", "list", "create", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["limitranges"], "verbs": ["list"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "list"]},
]
LOST = [
    {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
    for taint in ("not-ready", "unreachable")
]
ENV = {
    "TORCHRUN_OPERATOR_WATCH_NAMESPACES": "",
    "TORCHRUN_OPERATOR_WORKERS": "16",
    "TORCHRUN_OPERATOR_RESYNC_SECONDS": "300",
    "TORCHRUN_OPERATOR_MIN_RECONCILE_INTERVAL": "0.2",
    "TORCHRUN_OPERATOR_PROGRESS_INTERVAL": "5",
    "TORCHRUN_OPERATOR_STUCK_SECONDS": "120",
    "TORCHRUN_OPERATOR_NAMESPACE": {"fieldRef": {"fieldPath": "metadata.namespace"}},
    "TORCHRUN_OPERATOR_HTTP_PORT": "8080",
    "TORCHRUN_OPERATOR_KEY_FILE": "/etc/torchrun-operator/rendezvous/key",
    "TORCHRUN_OPERATOR_LOG_LEVEL": "INFO",
    "TORCHRUN_OPERATOR_LOG_FORMAT": "json",
}
DEFAULT_POD = {
    "serviceAccountName": NAME,
    "automountServiceAccountToken": True,
    "enableServiceLinks": False,
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    "terminationGracePeriodSeconds": 30,
    "tolerations": LOST,
    "containers": [
        {
            "name": "operator",
            "image": "torchrun-operator:0.1.0",
            "imagePullPolicy": "IfNotPresent",
            "env": [
                {"name": name, "value" if isinstance(value, str) else "valueFrom": value} for name, value in ENV.items()
            ],
            "ports": [{"name": "http", "containerPort": 8080}],
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": "http"},
                "initialDelaySeconds": 10,
                "periodSeconds": 10,
                "timeoutSeconds": 5,
                "failureThreshold": 3,
            },
            "readinessProbe": {
                "httpGet": {"path": "/readyz", "port": "http"},
                "periodSeconds": 2,
                "timeoutSeconds": 5,
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": [
                {"name": "rendezvous-key", "mountPath": "/etc/torchrun-operator/rendezvous", "readOnly": True}
            ],
        }
    ],
    "volumes": [
        {
            "name": "rendezvous-key",
            "secret": {
                "secretName": f"{NAME}-rendezvous",
                "defaultMode": 0o440,
                "items": [{"key": "key", "path": "key"}],
            },
        }
    ],
}


def title(manifest: dict[str, Any]) -> str:
    namespace = manifest["metadata"].get("namespace", NAMESPACE)
    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
    return name if namespace == NAMESPACE else f"{name}@{namespace}"


def pod(objects: Objects, name: str = NAME) -> dict[str, Any]:
    spec: dict[str, Any] = objects[f"Deployment/{name}"]["spec"]["template"]["spec"]
    return spec


def env(objects: Objects) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in pod(objects)["containers"][0]["env"]}
