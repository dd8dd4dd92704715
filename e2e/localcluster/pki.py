"""The certificates and keys of the cluster, and kubeconfig files with them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from localcluster.files import remove, write
from localcluster.netns import CONTROL_PLANE_ADDRESS, KUBERNETES_SERVICE, node_address
from localcluster.paths import node_name
from localcluster.shell import run

_DAYS = "3650"
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
API_SERVER_NAMES = (
    "IP:127.0.0.1",
    f"IP:{CONTROL_PLANE_ADDRESS}",
    f"IP:{KUBERNETES_SERVICE}",
    "DNS:localhost",
    "DNS:kubernetes",
    "DNS:kubernetes.default",
    "DNS:kubernetes.default.svc",
    "DNS:kubernetes.default.svc.cluster.local",
)
# Name of the files -> subject.
CLIENTS = {
    "admin": "/O=system:masters/CN=local-admin",
    "apiserver-kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "controller-manager": "/CN=system:kube-controller-manager",
    "coredns": "/CN=system:coredns",
    "policies": "/CN=system:network-policies",
    "proxy": "/CN=system:kube-proxy",
    "scheduler": "/CN=system:kube-scheduler",
}


def openssl_configuration(names: tuple[str, ...], *, authority: bool) -> str:
    """Extensions of a certificate, in openssl's format."""
    lines = ["[req]", "distinguished_name = subject", "x509_extensions = extensions", "[subject]", "[extensions]"]
    if authority:
        lines += ["basicConstraints = critical, CA:TRUE", "keyUsage = critical, keyCertSign, cRLSign, digitalSignature"]
    else:
        lines += ["basicConstraints = critical, CA:FALSE", "keyUsage = critical, digitalSignature"]
        lines += ["extendedKeyUsage = serverAuth, clientAuth"]
    if names:
        lines.append(f"subjectAltName = {', '.join(names)}")
    return "\n".join(lines) + "\n"


def _certificate(directory: Path, name: str, subject: str, names: tuple[str, ...] = ()) -> None:
    authority = name == "ca"
    configuration = directory / f".{name}.cnf"
    write(configuration, openssl_configuration(names, authority=authority))
    signer: list[str | Path] = [] if authority else ["-CA", directory / "ca.crt", "-CAkey", directory / "ca.key"]
    output: list[str | Path] = ["-keyout", directory / f"{name}.key", "-out", directory / f"{name}.crt"]
    run(
        ["openssl", "req", "-x509", "-config", configuration, "-subj", subject, "-days", _DAYS, *_KEY, *signer, *output]
    )
    configuration.unlink()


def ensure(directory: Path) -> None:
    """Create the authority and all certificates of the control plane, if missing."""
    if directory.exists():
        _ensure_clients(directory)
        return
    partial = directory.with_name(".pki")
    remove(partial)
    partial.mkdir(parents=True, mode=0o700)
    _certificate(partial, "ca", "/CN=local-cluster")
    _certificate(partial, "apiserver", "/CN=kube-apiserver", API_SERVER_NAMES)
    _ensure_clients(partial)
    key = partial / "service-accounts.key"
    run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key])
    run(["openssl", "pkey", "-in", key, "-pubout", "-out", partial / "service-accounts.pub"])
    partial.rename(directory)


def _ensure_clients(directory: Path) -> None:
    # An older version of this program may have started the cluster with fewer clients.
    for name, subject in CLIENTS.items():
        if not (directory / f"{name}.crt").exists():
            _certificate(directory, name, subject)


def ensure_node(directory: Path, index: int) -> None:
    """Create the certificate of a node, for its kubelet as client and server, if missing."""
    name = node_name(index)
    if (directory / f"{name}.crt").exists() and (directory / f"{name}.key").exists():
        return
    names = (f"DNS:{name}", f"IP:{node_address(index)}")
    _certificate(directory, name, f"/O=system:nodes/CN=system:node:{name}", names)


def kubeconfig(directory: Path, user: str, server: str, context: str = "local") -> dict[str, Any]:
    """Self-contained kubeconfig of a user."""

    def data(name: str) -> str:
        return base64.b64encode((directory / name).read_bytes()).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")},
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
        "current-context": context,
    }
