"""Whether the Pod Security level of the namespace lets the pods of the job in.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/, as far as templates of jobs
break them as a rule.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from torchrun_cli.doctor.case import JobCase, containers_of, wanted_pods
from torchrun_cli.doctor.findings import Finding, Level, Object, ok

_LABEL: Final = "pod-security.kubernetes.io/enforce"
_BASELINE_CAPABILITIES: Final = frozenset(
    {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
     "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
)  # fmt: skip
_RESTRICTED_VOLUMES: Final = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)


def pod_security(case: JobCase, check: str) -> Iterator[Finding]:
    """Say whether the namespace enforces a level that the pods break."""
    namespace = next(iter(case.seen.get("namespaces")), None)
    if namespace is None or case.job is None:
        return
    level = (namespace["metadata"].get("labels") or {}).get(_LABEL, "privileged")
    if level not in ("baseline", "restricted"):
        yield ok(check, "the namespace enforces no level")
        return
    broken = dict.fromkeys(words for pod in wanted_pods(case.job) for words in violations(pod["spec"], level))
    if not broken:
        yield ok(check, f"the pods keep the level {level} of the namespace")
        return
    words = f"the namespace enforces {level}, which rejects the pods: {'; '.join(broken)}"
    advice = f"change spec.template, or run the job in a namespace with another label {_LABEL}"
    yield Finding(check, Level.FAILED if case.missing else Level.WARNING, words, advice)


def violations(spec: Object, level: str) -> Iterator[str]:
    """Yield what in the spec of a pod breaks a level."""
    yield from _baseline(spec)
    if level == "restricted":
        yield from _restricted(spec)


def _baseline(spec: Object) -> Iterator[str]:
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    yield from (f"volume {each['name']} is a hostPath" for each in spec.get("volumes") or () if "hostPath" in each)
    for each in containers_of(spec):
        name, security = each["name"], each.get("securityContext") or {}
        if security.get("privileged"):
            yield f"container {name} is privileged"
        if any(port.get("hostPort") for port in each.get("ports") or ()):
            yield f"container {name} has a hostPort"
        more = sorted(set((security.get("capabilities") or {}).get("add") or ()) - _BASELINE_CAPABILITIES)
        if more:
            yield f"container {name} adds {', '.join(more)}"
    if any((each or {}).get("type") == "Unconfined" for each in _of_all(spec, "seccompProfile")):
        yield "seccompProfile is Unconfined"


def _restricted(spec: Object) -> Iterator[str]:
    for each in spec.get("volumes") or ():
        kind = next((key for key in each if key != "name"), "emptyDir")
        if kind not in _RESTRICTED_VOLUMES and kind != "hostPath":
            yield f"volume {each['name']} is a {kind}"
    pod = spec.get("securityContext") or {}
    for each in containers_of(spec):
        name, security = each["name"], each.get("securityContext") or {}
        both = {**pod, **security}
        if not both.get("runAsNonRoot"):
            yield f"container {name} does not set runAsNonRoot"
        if both.get("runAsUser") == 0:
            yield f"container {name} runs as user 0"
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"container {name} does not set allowPrivilegeEscalation: false"
        if "ALL" not in ((security.get("capabilities") or {}).get("drop") or ()):
            yield f"container {name} does not drop ALL capabilities"
        if not both.get("seccompProfile"):
            yield f"container {name} has no seccompProfile"


def _of_all(spec: Object, key: str) -> Iterable[Any]:
    return [(each.get("securityContext") or {}).get(key) for each in (spec, *containers_of(spec))]
