"""The containers that transfer inputs and outputs, and the volumes that they reach."""

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from torchrun_operator.api.names import PROGRAMS_DIRECTORY, rendezvous_name, snapshots_name
from torchrun_operator.api.torchrun import python_of
from torchrun_operator.api.v1alpha1 import SecretReference, TorchrunJob, TorchrunJobSpec
from torchrun_operator.render.beside import chosen, container_security
from torchrun_operator.render.paths import is_inside
from torchrun_operator.render.programs import TRANSFER_PROGRAM

Manifest = dict[str, Any]

PROGRAM_VOLUME: Final = "torchrun-transfer"
SNAPSHOTS_VOLUME: Final = "torchrun-snapshots"
_PLACES: Final = "/torchrun-operator-places"
"""Where the containers mount the volumes of pvc and nfs URLs."""
_TASK: Final = "TORCHRUN_TRANSFER"
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "HOME")
_PREFIXES: Final = (
    "AWS_", "AZURE_", "GOOGLE_", "GCLOUD_", "FSSPEC_", "HF_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_", "CURL_CA_BUNDLE",
)  # fmt: skip
"""Variables of the trainer that say where stores are, how to reach them, and as which user."""


class Mounted(NamedTuple):
    """A mount of the trainer container, and its volume."""

    mount: Manifest
    volume: Manifest


class Place(NamedTuple):
    """A URL as the program sees it, and what must be mounted for it."""

    url: str
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()


def mounted(spec: TorchrunJobSpec, path: str, job: str = "") -> Mounted | None:
    """Return the innermost mount that this path of the trainer container lies on, with copies. None: no volume.

    ``job`` is the name of the job; without it, the name of a claim for snapshots is not known.
    """
    mounts = [*(spec.trainer.get("volumeMounts") or ())]
    volumes = [*((spec.template.get("spec") or {}).get("volumes") or ())]
    if spec.snapshots is not None:
        mounts.append({"name": SNAPSHOTS_VOLUME, "mountPath": spec.snapshots.mount_path})
        claim = spec.snapshots.claim_name or snapshots_name(job)
        volumes.append({"name": SNAPSHOTS_VOLUME, "persistentVolumeClaim": {"claimName": claim}})
    found = [mount for mount in mounts if _covers(mount.get("mountPath", ""), path)]
    if not found:
        return None
    mount = max(found, key=lambda mount: len(mount["mountPath"].rstrip("/")))
    volume: Manifest = next((volume for volume in volumes if volume.get("name") == mount.get("name")), {})
    return Mounted(copy.deepcopy(mount), copy.deepcopy(volume))


def _covers(mount_path: str, path: str) -> bool:
    at = mount_path.rstrip("/")
    return bool(at) and (path == at or is_inside(path, at))


def scheme_of(url: str) -> str:
    """Return the scheme of a URL. Empty: it has none."""
    scheme, separator, _ = url.partition("://")
    return scheme if separator else ""


def place(url: str, name: str, *, read_only: bool = False) -> Place:
    """Return how a container reaches a URL. ``name`` distinguishes the volumes of a pod."""
    scheme, (host, _, below) = scheme_of(url), url.partition("://")[2].partition("/")
    if scheme not in ("pvc", "nfs"):
        return Place(url)
    at = f"{_PLACES}/{name}"
    source: Manifest
    if scheme == "pvc":
        source, inside = {"persistentVolumeClaim": {"claimName": host}}, f"/{below}" if below else ""
    else:
        source, inside = {"nfs": {"server": host, "path": f"/{below}"}}, ""
    if read_only and scheme == "nfs":
        source["nfs"]["readOnly"] = True
    return Place(
        f"file://{at}{inside}",
        ({"name": name, **source},),
        ({"name": name, "mountPath": at, **({"readOnly": True} if read_only else {})},),
    )


def program_volume(job: TorchrunJob) -> Manifest:
    """Return the volume with the program."""
    items = [{"key": TRANSFER_PROGRAM, "path": TRANSFER_PROGRAM}]
    return {"name": PROGRAM_VOLUME, "configMap": {"name": rendezvous_name(job.metadata.name), "items": items}}


def container(
    job: TorchrunJob,
    name: str,
    action: str,
    task: Mapping[str, Any],
    *,
    secret: SecretReference | None,
    mounts: Iterable[Manifest],
    resources: Manifest,
) -> Manifest:
    """Return a container that carries out a task. The operator never reads the Secret: its kubelet does."""
    trainer = job.spec.trainer
    image = job.spec.transfer.image
    owner = {"namespace": job.metadata.namespace, "name": job.metadata.name, "uid": job.metadata.uid}
    # The kubelet replaces $(NAME) in values. A doubled $ stays as it is.
    written = json.dumps({**task, "job": owner}, ensure_ascii=False, sort_keys=True).replace("$", "$$")
    return {
        "name": name,
        "image": image or trainer["image"],
        **({} if image else chosen(trainer, ("imagePullPolicy",))),
        "command": [_python(job.spec), f"{PROGRAMS_DIRECTORY}/{TRANSFER_PROGRAM}", action],
        "env": [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"},
            *(copy.deepcopy(each) for each in trainer.get("env") or () if _concerns(each.get("name", ""), image)),
            {"name": _TASK, "value": written},
        ],
        **({"envFrom": [{"secretRef": {"name": secret.name}}]} if secret is not None else {}),
        "volumeMounts": [{"name": PROGRAM_VOLUME, "mountPath": PROGRAMS_DIRECTORY, "readOnly": True}, *mounts],
        "resources": resources,
        "securityContext": container_security(trainer),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _concerns(name: str, image: str | None) -> bool:
    """Whether a variable of the trainer container matters to transfers. Another image has its own Python."""
    return name.startswith(_PREFIXES) or (image is None and name in _ENVIRONMENT)


def _python(spec: TorchrunJobSpec) -> str:
    return python_of(spec.command_of(1) if spec.transfer.image is None else ())  # 1: that of the template
