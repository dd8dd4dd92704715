"""Whether what the pods name exists: Secrets, ConfigMaps, claims, service accounts, images."""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from torchrun_cli.doctor.case import JobCase, containers_of, nodes_of, wanted_nodes, wanted_pods
from torchrun_cli.doctor.findings import Finding, Level, Object, names, ok
from torchrun_operator.api.names import files_name, hosts_name, snapshots_name
from torchrun_operator.api.v1alpha1 import Input, Output

_ONE_NODE: Final = frozenset(
    {
        "ebs.csi.aws.com", "disk.csi.azure.com", "pd.csi.storage.gke.io", "cinder.csi.openstack.org",
        "dobs.csi.digitalocean.com", "csi.hetzner.cloud", "rancher.io/local-path", "topolvm.io", "local.csi.openebs.io",
        "kubernetes.io/no-provisioner", "rbd.csi.ceph.com", "rook-ceph.rbd.csi.ceph.com", "docker.io/hostpath",
        "k8s.io/minikube-hostpath", "microk8s.io/hostpath", "csi.vsphere.vmware.com", "linode.com/linode-blockstorage",
    }
)  # fmt: skip
"""Provisioners whose file systems one Kubernetes node at a time can mount, as a rule."""
_PULL: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip


class Reference(NamedTuple):
    """An object that a pod names."""

    kind: str
    name: str


def references(spec: Object) -> Iterator[Reference]:
    """Yield what the spec of a pod names and cannot do without."""
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume)
    for container in containers_of(spec):
        for each in container.get("envFrom") or ():
            yield from _named(each.get("secretRef"), "Secret")
            yield from _named(each.get("configMapRef"), "ConfigMap")
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            yield from _named(source.get("secretKeyRef"), "Secret")
            yield from _named(source.get("configMapKeyRef"), "ConfigMap")
    for each in spec.get("imagePullSecrets") or ():
        yield from _named(each, "Secret")
    if spec.get("serviceAccountName"):
        yield Reference("ServiceAccount", spec["serviceAccountName"])


def _of_volume(volume: Object) -> Iterator[Reference]:
    secret = volume.get("secret") or {}
    yield from _named({**secret, "name": secret.get("secretName")}, "Secret")
    yield from _named(volume.get("configMap"), "ConfigMap")
    for source in (volume.get("projected") or {}).get("sources") or ():
        yield from _named(source.get("secret"), "Secret")
        yield from _named(source.get("configMap"), "ConfigMap")
    claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
    if claim:
        yield Reference("PersistentVolumeClaim", claim)


def _named(reference: Object | None, kind: str) -> Iterator[Reference]:
    if reference and reference.get("name") and not reference.get("optional"):
        yield Reference(kind, reference["name"])


def _of_job(case: JobCase) -> list[Reference]:
    assert case.job is not None
    own = {
        Reference("ConfigMap", files_name(case.name)),
        Reference("ConfigMap", hosts_name(case.name)),
        Reference("PersistentVolumeClaim", snapshots_name(case.name)),
    }
    found = [each for pod in wanted_pods(case.job) for each in references(pod["spec"])]
    transfers: list[Input | Output] = [*case.job.spec.inputs, *case.job.spec.outputs]
    found += [Reference("Secret", each.secret_ref.name) for each in transfers if each.secret_ref is not None]
    snapshots = case.job.spec.snapshots
    if snapshots is not None and snapshots.claim_name:
        own.discard(Reference("PersistentVolumeClaim", snapshots.claim_name))
    return [each for each in dict.fromkeys(found) if each not in own and not each.name.startswith(f"{case.name}-rdzv")]


def existing(kind: str, plural: str, case: JobCase, check: str) -> Iterator[Finding]:
    """Say which objects of a kind the pods name although they do not exist."""
    if case.job is None:
        return
    named = [each.name for each in _of_job(case) if each.kind == kind]
    there = {each["metadata"]["name"] for each in case.seen.get(plural)}
    absent = [name for name in named if name not in there]
    if not absent:
        if named:
            yield ok(check, f"{names(named)} {'exists' if len(named) == 1 else 'exist'}")
        return
    level = Level.FAILED if case.starting else Level.WARNING
    words = f"{kind} {names(absent)} does not exist, and the pods name it"
    advice = f"create it in the namespace {case.namespace}, or correct the name in the job"
    yield Finding(check, level, words if len(absent) == 1 else words.replace("does", "do", 1), advice)


def secrets(case: JobCase, check: str) -> Iterator[Finding]:
    """Say which Secrets are missing."""
    yield from existing("Secret", "secrets", case, check)


def config_maps(case: JobCase, check: str) -> Iterator[Finding]:
    """Say which ConfigMaps are missing."""
    yield from existing("ConfigMap", "configmaps", case, check)


def service_accounts(case: JobCase, check: str) -> Iterator[Finding]:
    """Say which service accounts are missing."""
    yield from existing("ServiceAccount", "serviceaccounts", case, check)


def claims(case: JobCase, check: str) -> Iterator[Finding]:
    """Say which claims are missing, are not bound, or cannot be mounted by all nodes."""
    if case.job is None:
        return
    problems = list(existing("PersistentVolumeClaim", "persistentvolumeclaims", case, check))
    bad = [each for each in problems if each.level is not Level.OK]
    yield from bad
    used = [each for pod in wanted_pods(case.job) for each in references(pod["spec"])]
    claimed = {each.name for each in used if each.kind == "PersistentVolumeClaim"}
    found = [each for each in case.seen.get("persistentvolumeclaims") if each["metadata"]["name"] in claimed]
    more = [each for claim in found for each in _of_claim(case, check, claim)]
    yield from more
    if found and not bad and not more:
        yield ok(check, f"{names(each['metadata']['name'] for each in found)}: bound, and fit for all nodes")


def _of_claim(case: JobCase, check: str, claim: Object) -> Iterator[Finding]:
    assert case.job is not None
    name, spec, status = claim["metadata"]["name"], claim.get("spec") or {}, claim.get("status") or {}
    classes = {each["metadata"]["name"]: each for each in case.seen.get("storageclasses")}
    wanted = spec.get("storageClassName")
    look = f"see kubectl -n {case.namespace} describe pvc {name}"
    shared = wanted_nodes(case.job) > 1
    modes = set(status.get("accessModes") or spec.get("accessModes") or ())
    if status.get("phase") != "Bound":
        yield from _unbound(check, name, wanted, classes, look, many_nodes="ReadWriteMany" in modes)
    elif shared and "ReadWriteOncePod" in modes:
        words = f"{name} has the access mode ReadWriteOncePod, so only one pod of the job can mount it"
        yield Finding(check, Level.FAILED, words, "use a claim with ReadWriteMany")
    elif shared and not modes & {"ReadWriteMany", "ReadOnlyMany"}:
        words = f"{name} has the access mode ReadWriteOnce: pods on a second Kubernetes node cannot mount it"
        computers = {pod["spec"].get("nodeName") for pod in nodes_of(case.pods) if pod["spec"].get("nodeName")}
        level = Level.WARNING if not case.starting or len(computers) == 1 else Level.FAILED
        yield Finding(check, level, words, "use a claim with ReadWriteMany, or keep all nodes on one Kubernetes node")


def _unbound(
    check: str, name: str, wanted: str | None, classes: dict[str, Object], look: str, *, many_nodes: bool
) -> Iterator[Finding]:
    if wanted and classes and wanted not in classes:
        words = f"{name} asks for the storage class {wanted}, which does not exist"
        yield Finding(
            check, Level.FAILED, words, f"there are {names(classes, 5)}; create the claim again with one of them"
        )
        return
    if not wanted and classes and not any(map(is_default, classes.values())):
        words = f"{name} names no storage class, and the cluster has no default one"
        yield Finding(check, Level.FAILED, words, f"create the claim again with one of {names(classes, 5)}")
        return
    chosen = classes.get(wanted or "", {})
    if chosen.get("provisioner") in _ONE_NODE and many_nodes:
        words = f"{name} asks for ReadWriteMany, which {chosen['provisioner']} of the class {wanted} cannot do"
        yield Finding(check, Level.FAILED, words, "create the claim again with a class for shared file systems")
        return
    if chosen.get("volumeBindingMode") == "WaitForFirstConsumer":
        yield Finding(check, Level.OK, f"{name} is bound once the first pod has a Kubernetes node")
        return
    yield Finding(check, Level.FAILED, f"{name} is not bound to a volume", look)


def is_default(storage_class: Object) -> bool:
    """Whether claims without a class get this one."""
    annotations = storage_class["metadata"].get("annotations") or {}
    return bool(annotations.get("storageclass.kubernetes.io/is-default-class") == "true")


def images(case: JobCase, check: str) -> Iterator[Finding]:
    """Say which images cannot be pulled."""
    waiting: dict[str, list[str]] = {}
    for pod in case.pods:
        status = pod.get("status") or {}
        for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            state = (each.get("state") or {}).get("waiting") or {}
            if state.get("reason") in _PULL:
                waiting.setdefault(f"{each.get('image')} ({state['reason']})", []).append(pod["metadata"]["name"])
    for image, pods in waiting.items():
        words = f"{names(pods)} cannot pull {image}"
        advice = "correct the image, or the imagePullSecrets, of spec.template (suspend the job, change it, resume it)"
        yield Finding(check, Level.FAILED, words, advice)
    if not waiting and case.pods:
        yield ok(check, _pulled(case.pods))


def _pulled(pods: Iterable[Object]) -> str:
    every = [pod["metadata"]["name"] for pod in pods if not (pod.get("status") or {}).get("containerStatuses")]
    return f"no image has failed; {names(every)} has not pulled its own yet" if every else "all pods have theirs"
