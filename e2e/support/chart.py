"""Installs the operator from its chart, as a user does."""

import hashlib
import subprocess
from collections.abc import Mapping

from support.clusters import ROOT, Cluster, UnusableError

NAMESPACE = "torchrun-system"
RELEASE = "torchrun-operator"
_SOURCES = ("operator/src", "operator/Dockerfile", "uv.lock")


def image_values(image: str) -> tuple[str, str]:
    """Split an image into repository and tag. Raises UnusableError if it has no tag."""
    directory, slash, name = image.rpartition("/")
    repository, colon, tag = name.partition(":")
    if not (repository and colon and tag) or "@" in repository:
        raise UnusableError(f"{image}: write an image with a tag, such as registry/torchrun-operator:0.1.0")
    return f"{directory}{slash}{repository}", tag


def install(cluster: Cluster, further: Mapping[str, str] | None = None) -> None:
    """Install or update the operator with additional values of the chart, and wait until it is ready."""
    repository, tag = image_values(cluster.operator_image)
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "log.format": "text",
        # The tag of a local build stays the same, so only this annotation makes Kubernetes start the new image.
        "podAnnotations.sources": _digest(),
        **(further or {}),
    }
    settings = [argument for key, value in values.items() for argument in ("--set-string", f"{key}={value}")]
    argv = [
        *(cluster.helm, "upgrade", "--install", RELEASE, str(ROOT / "charts" / "torchrun-operator")),
        *("--kubeconfig", str(cluster.kubectl.kubeconfig), "--namespace", NAMESPACE, "--create-namespace"),
        *settings,
        # On another cluster, an operator or a CRD of another release stays unchanged.
        *(["--take-ownership"] if cluster.local else []),
        *("--wait", "--timeout", "3m"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnusableError(f"helm could not install the operator: {done.stderr.strip() or done.stdout.strip()}")


def _digest() -> str:
    """Return a short hash of the current sources of the operator."""
    digest = hashlib.sha256()
    for source in _SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]
