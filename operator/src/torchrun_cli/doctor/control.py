"""The checks of the cluster: the operator, the resource, storage, GPUs, network policies."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from torchrun_cli.doctor.amounts import read
from torchrun_cli.doctor.findings import Finding, Level, Object, Seen, many, names, ok
from torchrun_cli.doctor.references import is_default
from torchrun_operator.api.names import COMPONENT_OPERATOR, LABEL_COMPONENT, PLURAL, VERSION

_VERSION: Final = "app.kubernetes.io/version"
_NAMESPACES: Final = "TORCHRUN_OPERATOR_WATCH_NAMESPACES"
_SHARED: Final = {
    "efs.csi.aws.com": "EFS",
    "fsx.csi.aws.com": "FSx for Lustre",
    "filestore.csi.storage.gke.io": "Filestore",
    "lustre.csi.storage.gke.io": "Lustre",
    "file.csi.azure.com": "Azure Files",
    "nfs.csi.k8s.io": "NFS",
    "smb.csi.k8s.io": "SMB",
    "cluster.local/nfs-subdir-external-provisioner": "NFS",
    "cephfs.csi.ceph.com": "CephFS",
    "rook-ceph.cephfs.csi.ceph.com": "CephFS",
    "openshift-storage.cephfs.csi.ceph.com": "CephFS",
    "driver.longhorn.io": "Longhorn",
    "csi.juicefs.com": "JuiceFS",
    "beegfs.csi.netapp.com": "BeeGFS",
    "csi.trident.netapp.io": "Trident",
    "spectrumscale.csi.ibm.com": "Storage Scale",
    "csi.weka.io": "WEKA",
    "csi.vastdata.com": "VAST",
    "quobyte-csi": "Quobyte",
    "seaweedfs-csi-driver": "SeaweedFS",
    "pxd.portworx.com": "Portworx",
    "lustre.csi.hpe.com": "Lustre",
}
"""Provisioners of file systems that many Kubernetes nodes mount at a time."""
_ENFORCE: Final = {
    "calico-node": "Calico",
    "canal": "Canal",
    "cilium": "Cilium",
    "anetd": "GKE Dataplane V2",
    "antrea-agent": "Antrea",
    "weave-net": "Weave Net",
    "kube-router": "kube-router",
    "ovnkube-node": "OVN-Kubernetes",
    "kube-ovn-cni": "Kube-OVN",
    "azure-npm": "Azure NPM",
    "kube-network-policies": "kube-network-policies",
    "romana-agent": "Romana",
}
"""DaemonSets of agents that enforce network policies."""
_IGNORE: Final = {"kube-flannel-ds": "flannel", "kube-flannel": "flannel"}
"""DaemonSets of network plugins that do not, on their own."""
_DEVICES: Final = ("gpu", "tpu", "neuron", "gaudi", "habana")


@dataclass(frozen=True)
class ClusterCase:
    """The cluster, as its checks see it."""

    seen: Seen
    version: str
    """The version of this program."""
    fields: frozenset[str]
    """The fields of the spec that this program knows."""
    namespace: str | None = None
    """The namespace of the job that the checks are about."""


def operator(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say whether the operator runs and is ready, and whether it watches the namespace of the job."""
    deployments = [each for each in case.seen.get("deployments") if _is_operator(each)]
    if not deployments:
        words = "no Deployment has pods with the label of the operator"
        yield Finding(check, Level.FAILED, words, "install it: docs/install.md")
        return
    if len(deployments) > 1:
        where = names(f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in deployments)
        watched = [set(watched_namespaces(each)) for each in deployments]
        if any(not each for each in watched) or set.intersection(*watched):
            words = f"several operators watch the same namespaces: {where}"
            yield Finding(check, Level.FAILED, words, "uninstall one, or give each its watchNamespaces")
    for deployment in deployments:
        yield from _health(check, deployment)
    every = [watched_namespaces(each) for each in deployments]
    if case.namespace is not None and not any(not each or case.namespace in each for each in every):
        words = (
            f"no operator watches the namespace {case.namespace}, only {names(each for some in every for each in some)}"
        )
        yield Finding(check, Level.FAILED, words, "add it to watchNamespaces in the values of the chart")


def _is_operator(deployment: Object) -> bool:
    template = (deployment.get("spec") or {}).get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    return bool(labels.get(LABEL_COMPONENT) == COMPONENT_OPERATOR)


def watched_namespaces(deployment: Object) -> list[str]:
    """Return the namespaces that an operator watches; none: all."""
    containers = deployment["spec"]["template"]["spec"].get("containers") or ()
    variables = {each["name"]: each.get("value") for container in containers for each in container.get("env") or ()}
    return [each for each in (variables.get(_NAMESPACES) or "").split(",") if each]


def _health(check: str, deployment: Object) -> Iterator[Finding]:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    name = f"{metadata['namespace']}/{metadata['name']}"
    look = f"kubectl -n {metadata['namespace']} describe deployment {metadata['name']}"
    image = deployment["spec"]["template"]["spec"]["containers"][0].get("image")
    if deployment["spec"].get("replicas", 1) == 0:
        yield Finding(
            check,
            Level.FAILED,
            f"{name} is scaled to 0",
            f"kubectl -n {metadata['namespace']} scale deployment {metadata['name']} --replicas=1",
        )
    elif not status.get("availableReplicas"):
        said = [each.get("message", "") for each in status.get("conditions") or () if each.get("status") == "False"]
        said += [
            each.get("message", "") for each in status.get("conditions") or () if each.get("type") == "ReplicaFailure"
        ]
        words = f"{name} has no pod that is ready" + (f": {said[0]}" if said else "")
        yield Finding(check, Level.FAILED, words, f"see {look}, and the log of its pod")
    else:
        yield ok(check, f"{name} is ready ({image})")


def versions(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say whether the operator, the resource and this program are of one version."""
    deployments = [each for each in case.seen.get("deployments") if _is_operator(each)]
    found = {(each["metadata"].get("labels") or {}).get(_VERSION, "") for each in deployments} - {""}
    other = sorted(found - {case.version})
    if other:
        words = f"this program is {case.version}, the operator {names(other)}"
        yield Finding(check, Level.WARNING, words, "install the same version of both")
    elif found:
        yield ok(check, f"operator and this program are {case.version}")
    elif deployments:
        yield Finding(check, Level.UNKNOWN, f"the operator does not say its version; this program is {case.version}")


def resource(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say whether the resource is installed and served, and knows the fields that this program knows."""
    crd = next((each for each in case.seen.get("customresourcedefinitions")), None)
    if crd is None:
        yield Finding(check, Level.FAILED, f"the cluster has no {PLURAL}", "install the chart: docs/install.md")
        return
    conditions = {each["type"]: each for each in (crd.get("status") or {}).get("conditions") or ()}
    served = {each["name"]: each for each in crd["spec"]["versions"] if each.get("served")}
    bad = [
        each
        for kind, each in conditions.items()
        if kind in ("Established", "NamesAccepted") and each["status"] != "True"
    ]
    for each in bad:
        words = f"{each['type']} is {each['status']}: {each.get('message', '')}"
        yield Finding(
            check, Level.FAILED, words, "another resource has its names: uninstall that, then this chart again"
        )
    if VERSION not in served:
        words = f"the version {VERSION} is not served, only {names(served) or 'none'}"
        yield Finding(check, Level.FAILED, words, "install the chart of this version")
        return
    conversion = (crd["spec"].get("conversion") or {}).get("strategy", "None")
    if conversion != "None":
        words = f"versions are converted by {conversion}: every read of a job needs that webhook"
        yield Finding(check, Level.WARNING, words, "check that its service answers; the chart does not set it")
    stored = set((crd.get("status") or {}).get("storedVersions") or ()) - {
        each["name"] for each in crd["spec"]["versions"]
    }
    if stored:
        words = f"jobs are stored in {names(sorted(stored))}, which the resource no longer has"
        yield Finding(check, Level.WARNING, words, "migrate the storage version")
    schema = (served[VERSION].get("schema") or {}).get("openAPIV3Schema") or {}
    known = ((schema.get("properties") or {}).get("spec") or {}).get("properties") or {}
    older = sorted(case.fields - set(known))
    if known and older:
        words = f"it does not know the fields {names(older, 5)}, which this program knows"
        yield Finding(check, Level.WARNING, words, "upgrade the chart, or crds/torchrun.dev_torchrunjobs.yaml")
    elif not bad:
        yield ok(check, f"{PLURAL} is served as {VERSION}" + (", without conversion" if conversion == "None" else ""))


def storage(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say which storage classes have volumes that the pods of a job can share."""
    classes = case.seen.get("storageclasses")
    shared = [each for each in classes if each.get("provisioner") in _SHARED]
    if shared:
        listed = (f"{each['metadata']['name']} ({_SHARED[each['provisioner']]})" for each in shared)
        yield ok(check, f"ReadWriteMany by {names(listed, 5)}")
    elif classes:
        listed = (f"{each['metadata']['name']} ({each.get('provisioner')})" for each in classes)
        words = f"none of the storage classes is known to have ReadWriteMany volumes: {names(listed, 5)}"
        yield Finding(check, Level.UNKNOWN, words, "snapshots of jobs on several Kubernetes nodes need such a volume")
    else:
        words = "the cluster has no storage classes"
        advice = "snapshots need a claim that an administrator has bound to a volume with ReadWriteMany"
        yield Finding(check, Level.WARNING, words, advice)
    if classes and not any(map(is_default, classes)):
        advice = "name one in spec.snapshots.volumeClaimTemplate.spec.storageClassName"
        yield Finding(check, Level.WARNING, "no storage class is the default one", advice)


def gpus(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say which devices the Kubernetes nodes have."""
    found: dict[str, list[tuple[str, int]]] = {}
    labelled = []
    for node in case.seen.get("nodes"):
        allocatable = read((node.get("status") or {}).get("allocatable"))
        mine = {key: int(amount) for key, amount in allocatable.items() if _is_device(key) and amount > Decimal(0)}
        for key, amount in mine.items():
            found.setdefault(key, []).append((node["metadata"]["name"], amount))
        labels = node["metadata"].get("labels") or {}
        if not mine and ("nvidia.com/gpu.present" in labels or "cloud.google.com/gke-accelerator" in labels):
            labelled.append(node["metadata"]["name"])
    for key, nodes in sorted(found.items()):
        each = ", ".join(f"{name} {amount}" for name, amount in nodes[:5]) + (" …" if len(nodes) > 5 else "")
        total = sum(amount for _, amount in nodes)
        yield ok(check, f"{total} {key} on {many(len(nodes), 'Kubernetes node')}: {each}")
    if labelled:
        words = f"{names(labelled)} {'has' if len(labelled) == 1 else 'have'} GPUs by label, but none to allocate"
        yield Finding(check, Level.WARNING, words, "check the device plugin and the driver there")
    elif not found:
        yield ok(check, "no Kubernetes node has GPUs to allocate: jobs train on CPUs")


def _is_device(key: str) -> bool:
    domain, slash, name = key.partition("/")
    return bool(slash) and any(word in name or word in domain for word in _DEVICES)


def policies(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say whether something enforces network policies, as far as the agents of the cluster tell."""
    agents = [each["metadata"]["name"] for each in case.seen.get("daemonsets")]
    enforcing = next((_ENFORCE[name] for name in agents if name in _ENFORCE), None) or _of_amazon(case)
    ignoring = next((_IGNORE[name] for name in agents if name in _IGNORE), None)
    advice = "without it, every pod of the cluster can reach the store of a job: docs/security.md"
    if enforcing is not None:
        yield ok(check, f"enforced by {enforcing}, unless its settings say otherwise")
    elif ignoring is not None:
        yield Finding(
            check, Level.WARNING, f"{ignoring} does not enforce them, and no known agent beside it does", advice
        )
    else:
        yield Finding(
            check, Level.UNKNOWN, "no known agent is there, so it cannot be told whether they are enforced", advice
        )


def _of_amazon(case: ClusterCase) -> str | None:
    for each in case.seen.get("daemonsets"):
        if each["metadata"]["name"] == "aws-node":
            containers = each["spec"]["template"]["spec"].get("containers") or ()
            if any("--enable-network-policy=true" in (c.get("args") or ()) for c in containers):
                return "the Amazon VPC CNI"
    return None


def watches(case: ClusterCase, check: str) -> Iterator[Finding]:
    """Say what the operator waits for, and what it must not read, in its own words."""
    for each in case.seen.get("readyz"):
        ready, *notes = str(each["text"]).splitlines() or [""]
        if ready != "ok":
            words = f"{each['name']} waits: {'; '.join([ready, *notes])}"
            yield Finding(check, Level.FAILED, words, "see its log")
        elif notes:
            words = f"{each['name']} must not read {many(len(notes), 'watch')}".replace("watchs", "watches")
            advice = "a Role or RoleBinding is missing there: docs/troubleshooting.md"
            yield Finding(check, Level.WARNING, words, advice, tuple(notes))
        else:
            yield ok(check, f"{each['name']} reads all that it watches")
