"""Selects the cluster (the local one, or that of KUBECONFIG) and finds its programs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.kubectl import Kubectl

ROOT = Path(__file__).resolve().parents[2]
LOCAL_OPERATOR_IMAGE = "docker.io/library/torchrun-operator:dev"
LOCAL_TRAINER_IMAGE = "docker.io/library/torchrun-trainer:dev"


class UnusableError(Exception):
    """The cluster cannot or must not be used. The message says what to do."""


@dataclass(frozen=True)
class Cluster:
    """A cluster, and how to use it."""

    kubectl: Kubectl
    helm: str
    operator_image: str
    trainer_image: str
    local: bool


def local_command(*arguments: str) -> list[str]:
    """Return the command line of a command of the local cluster."""
    return [sys.executable, "-m", "localcluster", *arguments]


def local_environment() -> dict[str, str]:
    """Return the environment that local_command needs."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "e2e")}


def _ask_local(*arguments: str) -> str | None:
    """Return the first line that a command of the local cluster prints; None if it fails."""
    done = subprocess.run(
        local_command(*arguments), env=local_environment(), capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def local_programs() -> Path | None:
    """Return the directory of kubectl, helm and kube; None if they are not built."""
    found = _ask_local("bin")
    return Path(found) if found else None


def local_cluster(nodes: int | None = None) -> Cluster:
    """Start or update the local cluster, optionally with that many Kubernetes nodes, and return it."""
    size = [f"--nodes={nodes}"] if nodes else []
    if subprocess.run(local_command("up", *size), env=local_environment(), check=False).returncode:
        raise UnusableError("the local cluster did not start; set KUBECONFIG to use a cluster of your own")
    programs, kubeconfig = local_programs(), _ask_local("kubeconfig")
    if programs is None or kubeconfig is None:
        raise UnusableError("the local cluster runs, but its programs and its kubeconfig were not found")
    return Cluster(
        kubectl=Kubectl(str(programs / "kubectl"), Path(kubeconfig)),
        helm=str(programs / "helm"),
        operator_image=LOCAL_OPERATOR_IMAGE,
        trainer_image=LOCAL_TRAINER_IMAGE,
        local=True,
    )


def own_cluster(environment: Mapping[str, str], prefix: str) -> Cluster | None:
    """Return the cluster of KUBECONFIG; None if it is unset or names the local one.

    The cluster needs images that it can pull: PREFIX_OPERATOR_IMAGE and PREFIX_TRAINER_IMAGE.
    """
    kubeconfig = environment.get("KUBECONFIG", "")
    if not kubeconfig or kubeconfig == _ask_local("kubeconfig"):
        return None
    if not Path(kubeconfig).is_file():
        raise UnusableError(f"KUBECONFIG is {kubeconfig}, which is not a file; unset it to use the local cluster")
    names = [f"{prefix}_OPERATOR_IMAGE", f"{prefix}_TRAINER_IMAGE"]
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UnusableError(
            f"KUBECONFIG is set, so {' and '.join(missing)} must be too: images that this cluster can pull. "
            "Build and push them with `make image REGISTRY=…`, or unset KUBECONFIG to use the local cluster."
        )
    return Cluster(
        kubectl=Kubectl(_program("kubectl"), Path(kubeconfig)),
        helm=_program("helm"),
        operator_image=environment[names[0]],
        trainer_image=environment[names[1]],
        local=False,
    )


def require_allowed_context(cluster: Cluster, environment: Mapping[str, str]) -> None:
    """Reject a cluster whose context is not allowed for tests."""
    if cluster.local:
        return
    context = cluster.kubectl.run("config", "current-context").strip()
    allowed = environment.get("E2E_ALLOW_CONTEXT", "")
    if context not in {name.strip() for name in allowed.split(",")}:
        raise UnusableError(
            f"KUBECONFIG points to the context {context!r}: tests install the operator, kill pods and delete "
            f"namespaces there. To allow that, set E2E_ALLOW_CONTEXT={context}; "
            "to use the local cluster, unset KUBECONFIG."
        )


def _program(name: str) -> str:
    found = shutil.which(name)
    if found:
        return found
    programs = local_programs()
    if programs is None:
        raise UnusableError(f"{name} is not on PATH: install it, or run `make cluster-up` once to build it")
    return str(programs / name)
