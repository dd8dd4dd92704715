"""An S3 server for pods of the local cluster, in the namespace of a test, and an image with s3fs."""

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

from localcluster import cluster as machines
from localcluster.images import FURTHER, Builder
from localcluster.locks import exclusive
from localcluster.paths import Layout
from support import s3
from support.clusters import Cluster
from support.kubectl import Kubectl, Object
from support.waiting import wait_for

TRANSFER_IMAGE = f"docker.io/library/{FURTHER['transfer']}:dev"
"""Has s3fs, for spec.transfer.image. `start` loads it on the Kubernetes nodes."""
_NAME = "s3"
_PORT = 7070
_KEY = "test"


@dataclass(frozen=True)
class ClusterStore:
    """The server, in one namespace. It ends with the namespace."""

    kubectl: Kubectl

    def secret(self, name: str, **wrong: str) -> Object:
        """Return a Secret for `secretRef`, with these values instead of the right ones."""
        values = {
            "AWS_ENDPOINT_URL": f"http://{_NAME}:{_PORT}",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values | wrong}

    def content(self, bucket: str, below: str = "") -> dict[str, bytes]:
        """Return the objects of a bucket below a prefix, by the rest of their names, as they are on its disk."""
        argv = self.kubectl.argv("exec", _NAME, "--", "tar", "-c", "-C", f"/data/{bucket}", ".")
        whole = subprocess.run(argv, check=True, capture_output=True).stdout
        found, prefix = {}, f"./{below.strip('/')}/" if below else "./"
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() and member.name.startswith(prefix) else None
                if file is not None and ".sgwtmp/" not in member.name:
                    found[member.name.removeprefix(prefix)] = file.read()
        return found

    def unfinished(self, bucket: str) -> list[str]:
        """Return the files of uploads in parts that were neither completed nor aborted."""
        command = ["sh", "-c", f"find /data/{bucket}/.sgwtmp -type f 2>/dev/null || true"]
        return self.kubectl.run("exec", _NAME, "--", *command).split()


def start(cluster: Cluster, kubectl: Kubectl, buckets: Sequence[str]) -> ClusterStore:
    """Start the server with these buckets, and wait until it listens. Only for the local cluster."""
    assert cluster.local, "the server is a program of this computer, which only local Kubernetes nodes see"
    layout = Layout.of(os.environ)
    program = s3.build()
    with exclusive(layout.lock, "it changes the cluster"):
        machines.load_images(layout, [Builder(layout).product("transfer")])
    kubectl.apply(*_objects(cluster, str(program), buckets))
    wait_for("the S3 server is ready", lambda: _is_ready(kubectl), 120, seen=lambda: kubectl.get("pod", _NAME))
    return ClusterStore(kubectl)


def _objects(cluster: Cluster, program: str, buckets: Sequence[str]) -> list[Object]:
    directory = os.path.dirname(program)  # noqa: PTH120 a path of the Kubernetes node
    made = " ".join(f"/data/{bucket}" for bucket in buckets)
    serve = f"exec {program} --access {_KEY} --secret {_KEY} --port :{_PORT} posix --sidecar /metadata /data"
    container = {
        "name": _NAME,
        "image": cluster.trainer_image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", f"mkdir -p {made} && {serve}"],
        "readinessProbe": {"tcpSocket": {"port": _PORT}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "program", "mountPath": directory, "readOnly": True},
            {"name": "data", "mountPath": "/data"},
            {"name": "metadata", "mountPath": "/metadata"},
        ],
    }
    volumes: list[Object] = [
        {"name": "program", "hostPath": {"path": directory, "type": "Directory"}},
        {"name": "data", "emptyDir": {}},
        {"name": "metadata", "emptyDir": {}},
    ]
    spec = {
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsUser": 0, "runAsNonRoot": False},  # others cannot read the cache of a user
        "containers": [container],
        "volumes": volumes,
    }
    labels = {"app": _NAME}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": _NAME, "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _NAME},
            "spec": {"selector": labels, "ports": [{"port": _PORT}]},
        },
    ]


def _is_ready(kubectl: Kubectl) -> bool:
    pod = kubectl.get("pod", _NAME) or {}
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
