"""What makes a pod wait, in few words, and what a person can do about it.

The words are those of the scheduler, the kubelet or the container, without the parts that say nothing. Pure.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torchrun_operator.core.facts.model import Exit, Wait
from torchrun_operator.core.facts.waiting import INITIALIZING, PULLING
from torchrun_operator.core.facts.words import of_termination

CRASHES: Final = "CrashLoopBackOff"
IMAGE_REASONS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "InspectFailed",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_MOST_CHARACTERS = 500


@dataclass(frozen=True)
class Place:
    """Where a pod waits: what hints to people need."""

    namespace: str
    pod: str
    machine: str | None = None
    image: str = ""
    """The image of the trainer container."""
    rendezvous: bool = False
    """It is the rendezvous pod."""

    @property
    def computer(self) -> str:
        """The Kubernetes node, for people."""
        return f"Kubernetes node {self.machine}" if self.machine else "the Kubernetes node"


def cause(wait: Wait) -> str:
    """Return why the pod waits, in one line that stays the same while the cause does."""
    text = " ".join(wait.message.split())
    if wait.reason == CRASHES:
        return f"container {wait.container} {_ended(wait.ended)}" if wait.ended is not None else text
    if wait.reason in IMAGE_REASONS or text.startswith("Failed to pull image"):
        return _image(text)
    for pattern, kept in _NOISE:
        text = pattern.sub(kept, text)
    return text.strip().rstrip(".")[:_MOST_CHARACTERS]


def remedy(wait: Wait, place: Place) -> str:
    """Return what a person can do about it."""
    text = f"{wait.reason}: {' '.join(wait.message.split())}"
    if wait.reason == CRASHES and wait.ended is not None:
        text = f"{wait.reason}: {wait.ended.message}"
    for pattern, advice in _REMEDIES:
        found = pattern.search(text)
        if found is not None:
            return advice(found, wait, place)
    return f"see kubectl -n {place.namespace} describe pod {place.pod}"


def _ended(ended: Exit) -> str:
    lines = [line.strip() for line in ended.message.splitlines() if line.strip()]
    first = of_termination(ended.message).message if ended.message.startswith("{") else ""
    said = first or (lines[-1] if lines else "")
    for pattern, kept in _NOISE:
        said = pattern.sub(kept, said)
    known = ended.reason in ("", "Error", "StartError")
    words = f"exited with code {ended.code}" if known else f"ended with {ended.reason}"
    return f"{words}: {said[:_MOST_CHARACTERS]}" if said else f"{words} and left no message"


def _image(text: str) -> str:
    """Keep the name of the image and the end of the chain of errors."""
    named = re.search(r'(?:image|reference|name|tag) "([^"]+)"', text)
    rest = re.split(r'(?:failed to resolve reference|failed to pull and unpack image) "[^"]+": ', text)[-1]
    for pattern in _IMAGE_NOISE:
        rest = pattern.sub("", rest)
    rest = rest.rstrip(".")
    if named is None:
        return rest[:_MOST_CHARACTERS]
    told = rest.removeprefix(f"{named[1]}: ")
    return (rest if named[1] in told else f"image {named[1]}: {told}")[:_MOST_CHARACTERS]


_IMAGE_NOISE: Final = (
    re.compile(r'^Back-off pulling image "[^"]+":? ?(\w+: )?'),
    re.compile(r'^Failed to pull image "[^"]+": '),
    re.compile(r"^rpc error: code = \w+ desc = "),
    re.compile(r'^failed to do request: \w+ "[^"]+": '),
    re.compile(r"(read|write|dial) (udp|tcp) \S+->\S+: "),  # ports that differ each time
)
_NOISE: Final = (
    # The scheduler: nothing about preemption.
    (re.compile(r" (no new claims to deallocate,? ?|preemption: ).*"), ""),
    (re.compile(r"(not found|PersistentVolumeClaims)\. not found$"), r"\1"),
    (re.compile(" : (?=[a-z])"), ": "),
    # The kubelet: the last link of the chain.
    (re.compile(r"^.*unable to start container process: (error during container init: )?"), ""),
    (re.compile(r": unknown$"), ""),
    (re.compile(r"MountVolume\.\w+ failed for volume"), "volume"),
    (re.compile(r"kubernetes\.io/csi: mounter\.\w+ failed to get CSI client: "), ""),
    (re.compile(r"mount failed: exit status (\d+) Mounting command: .* Output: "), r"mount failed (\1): "),
    (re.compile(r"/var/lib/kubelet/pods/[-0-9a-f]+/volumes/"), ""),
    (re.compile(r"dmesg\(1\) may have more information after failed mount system call\."), ""),
)

Advice = Callable[[re.Match[str], Wait, Place], str]


def _says(words: str) -> Advice:
    """Return advice with the groups of the match, and the namespace, pod, Kubernetes node and container."""

    def advice(found: re.Match[str], wait: Wait, place: Place) -> str:
        names = {
            "namespace": place.namespace,
            "pod": place.pod,
            "computer": place.computer,
            "machine": place.machine or "NAME",
            "image": place.image,
            "container": wait.container or "trainer",
        }
        return words.format(*found.groups(), **names)

    return advice


_OWN_ADVICE = "spec.rendezvous.template"


def _no_torch(found: re.Match[str], wait: Wait, place: Place) -> str:
    if not place.rendezvous:
        return _LOGS(found, wait, place)
    return "" if _OWN_ADVICE in found.string else f"name the Python of the image that has torch in {_OWN_ADVICE}"


def _no_program(found: re.Match[str], wait: Wait, place: Place) -> str:
    if place.rendezvous:
        return f"the rendezvous host needs {found[1]} in PATH of image {place.image}: install it, or correct PATH"
    return f"correct the command of container {wait.container or 'trainer'}: its image has no program {found[1]}"


def _unplaced(found: re.Match[str], wait: Wait, place: Place) -> str:
    """Say what to change so that the pod fits. The rendezvous pod has its own template."""
    del wait
    where = _OWN_ADVICE if place.rendezvous else "the template"
    return f"{_PLACING[found.re](*found.groups())}".replace("the template", where)


_LOGS = _says("see kubectl -n {namespace} logs {pod} -c {container} --previous")
_INSUFFICIENT = re.compile(r"Insufficient ([\w./-]+?)(?=[.,]?(?: |$))")
_SELECTOR = re.compile(r"didn't match Pod's node affinity/selector")
_TAINT = re.compile(r"untolerated taint\(?s?\)? ?\{?([^}:]*)")
_APART = re.compile(r"(anti-affinity rules|topology spread constraints)")
_PLACING: Final[dict[re.Pattern[str], Callable[..., str]]] = {
    _INSUFFICIENT: lambda resource: (
        f"free {resource} in the cluster, add Kubernetes nodes, or request less of it in the template"
    ),
    _SELECTOR: lambda: (
        "correct nodeSelector and affinity of the template, or label a Kubernetes node: kubectl get nodes -L KEY"
    ),
    _TAINT: lambda taint: f"add a toleration for {taint.strip() or 'the taint'} to the template",
    _APART: lambda rule: f"relax the {rule} of the template, or add Kubernetes nodes",
}

_PULL = r"^(?:ErrImagePull|ImagePullBackOff|Failed|RegistryUnavailable): .*"
_REMEDIES: Final[tuple[tuple[re.Pattern[str], Advice], ...]] = (
    # Objects that do not exist.
    (re.compile(r'secret "([^"]+)" not found'), _says("create the Secret {0} in namespace {namespace}")),
    (re.compile(r'configmap "([^"]+)" not found'), _says("create the ConfigMap {0} in namespace {namespace}")),
    (
        re.compile(r'persistentvolumeclaim "([^"]+)" (?:not found|is being deleted)'),
        _says("create the PersistentVolumeClaim {0} in namespace {namespace}"),
    ),
    (
        re.compile(r"couldn't find key (\S+) in (\w+) \S+/(\S+)"),
        _says("add the key {0} to the {1} {2} in namespace {namespace}"),
    ),
    (
        re.compile(r"references non-existent (?:config|secret) key: (\S+)"),
        _says("add the key {0} to the object of that volume in namespace {namespace}, or remove it from its items"),
    ),
    (
        re.compile("PersistentVolumeClaims|binding volumes|volume node affinity|ProvisioningFailed"),
        _says("see kubectl -n {namespace} describe pvc: the claim has no volume that fits"),
    ),
    # Volumes.
    (re.compile(r"driver name (\S+) not found"), _says("install the CSI driver {0} on {computer}")),
    (
        re.compile("hostPath type check failed: (.*?) is not"),
        _says("create {0} on {computer}, or correct the hostPath of the volume"),
    ),
    (
        re.compile("Multi-Attach error|already (?:exclusively )?attached|used by pod"),
        _says("another Kubernetes node has the volume: use a claim with ReadWriteMany, or wait until that pod is gone"),
    ),
    (
        re.compile("^(?:FailedMount|FailedAttachVolume|FailedMapVolume): "),
        _says("see kubectl -n {namespace} describe pod {pod}; check the volume and {computer}"),
    ),
    (
        re.compile("^(?:FailedCreatePodSandBox|NetworkNotReady|FailedCreatePodContainer): "),
        _says("the network or the container runtime of {computer} is at fault: see kubectl describe node {machine}"),
    ),
    # Images.
    (
        re.compile("InvalidImageName|parse image name|invalid reference format"),
        _says("suspend the job and correct the image of container {container} in the template"),
    ),
    (
        re.compile("pull policy of Never"),
        _says("load the image on {computer}, or set imagePullPolicy to IfNotPresent in the template"),
    ),
    (
        re.compile(_PULL + "(?:no match for platform|does not match)"),
        _says("build the image for the architecture of {computer}, or select other Kubernetes nodes in the template"),
    ),
    (
        re.compile(_PULL + r"(?:toomanyrequests|\b429\b|rate limit)"),
        _says("wait, or name an account of the registry in imagePullSecrets of the template"),
    ),
    (
        re.compile(_PULL + r"(?:authoriz|denied|\b40[13]\b|no basic auth|credential)", re.IGNORECASE),
        _says("check the name of the image, and the imagePullSecrets of the template"),
    ),
    (re.compile(_PULL + "no space left"), _says("free disk space on {computer}")),
    (re.compile(_PULL + "x509"), _says("make {computer} trust the certificate of the registry")),
    (
        re.compile(_PULL + r"(?:not found|manifest unknown|\b404\b)"),
        _says("push the image, or suspend the job and correct its name and tag in the template"),
    ),
    (
        re.compile(_PULL + "(?:dial tcp|no such host|timeout|refused|unreachable|deadline exceeded|EOF|reset by peer)"),
        _says("check the name of the registry, and whether {computer} can reach it"),
    ),
    # Containers.
    (
        re.compile("runAsNonRoot|non-numeric user"),
        _says("set runAsUser to a number above 0 in the securityContext of the template, or change the image"),
    ),
    (re.compile("No module named '?torch(?!\\w)"), _no_torch),
    (
        re.compile(r"OutOf\w+: "),
        _says("request less, free it on {computer}, or let the scheduler choose: remove nodeName from the template"),
    ),
    (
        re.compile(r'exec: "([^"]+)": .*(?:not found|no such file|permission denied)'),
        _no_program,
    ),
    (re.compile(f"^{CRASHES}: "), _LOGS),
    (re.compile(f"^{INITIALIZING}: "), _says("see kubectl -n {namespace} logs {pod} -c {container}")),
    (re.compile(f"^{PULLING}: "), lambda _found, _wait, _place: ""),
    # The scheduler.
    (
        re.compile("^SchedulingGated: "),
        _says(
            "a queue or a controller must remove spec.schedulingGates: see kubectl -n {namespace} describe pod {pod}"
        ),
    ),
    *((pattern, _unplaced) for pattern in _PLACING),
)
"""The first pattern that occurs in ``reason: message`` decides."""
