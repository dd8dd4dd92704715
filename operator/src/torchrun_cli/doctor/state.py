"""What the job says of itself, and what its manifest and its rendezvous pod say."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from torchrun_cli.doctor.case import JobCase, is_host
from torchrun_cli.doctor.findings import Finding, Level, many, ok
from torchrun_cli.show.times import age, moment
from torchrun_operator.api.commands import launch_of, launch_words
from torchrun_operator.api.names import other_manager, rendezvous_name
from torchrun_operator.api.v1alpha1 import TorchrunJobSpec

_DOCS: Final = "docs/troubleshooting.md"
_GRACE: Final = timedelta(seconds=30)
"""So long the operator may take to see a new job, and a pod to start."""
_UNUSUAL: Final = {
    "Accepted": ("False", Level.FAILED),
    "Failed": ("True", Level.FAILED),
    "Scheduled": ("False", Level.FAILED),
    "Running": ("False", Level.FAILED),
    "Resizing": ("True", Level.WARNING),
    "Straggling": ("True", Level.WARNING),
}
"""The status that is bad news, and how bad, while the job has not ended."""
_WAITS: Final = frozenset({"WaitingForPods", "WaitingForNodes", "StartingRendezvous"})
"""Reasons that are normal for a while."""


def conditions(case: JobCase, check: str) -> Iterator[Finding]:
    """Say what the conditions of the job say. It comes first: no other check knows it better."""
    state = case.status.get("state")
    if state is None:
        yield from _unseen(case, check)
        return
    found = [each for kind, (bad, level) in _UNUSUAL.items() if (each := _bad(case, check, kind, bad, level))]
    upload = case.condition("OutputsUploaded")
    if upload.get("reason") in ("UploadFailed", "InvalidOutputs"):
        found.append(_said(check, Level.FAILED, upload))
    if state == "Complete" and not found:
        yield ok(check, "the job is complete")
    elif case.suspended and case.condition("Failed").get("status") != "True":
        yield ok(check, "the job is suspended; what follows is about its next start: kubectl torchrun resume")
    elif found:
        yield from found
    else:
        said = case.status.get("message") or case.condition("Running").get("message") or ""
        yield ok(check, f"{state}: {said}" if said else state)


def _bad(case: JobCase, check: str, kind: str, bad: str, level: Level) -> Finding | None:
    condition = case.condition(kind)
    ended = case.status.get("state") in ("Complete", "Failed")
    if condition.get("status") != bad or condition.get("reason") == "Ended" or (ended and kind != "Failed"):
        return None
    since = moment(condition.get("lastTransitionTime"))
    fresh = since is None or case.seen.now - since < _GRACE
    if condition.get("reason") in _WAITS and fresh:
        level = Level.WARNING
    if kind == "Scheduled" and case.condition("Running").get("status") == "True":
        level = Level.WARNING  # it trains with fewer nodes
    return _said(check, level, condition)


def _said(check: str, level: Level, condition: dict[str, str]) -> Finding:
    reason = condition.get("reason", "")
    message = " ".join(str(condition.get("message") or "").split())
    words = f"{condition.get('type')} is {condition.get('status')} ({reason}): {message}"
    return Finding(check, level, words, f"see {reason} in {_DOCS}")


def _unseen(case: JobCase, check: str) -> Iterator[Finding]:
    manager = other_manager(case.raw.get("spec") or {})
    if manager:
        words = f"{manager} manages the job, as spec.managedBy says, and has not written its status"
        yield Finding(
            check, Level.WARNING, words, f"see whether the controller {manager} runs; this operator does not act"
        )
        return
    created = case.raw["metadata"].get("creationTimestamp")
    since = moment(created)
    words = f"the operator has not seen the job, which is {age(created, case.seen.now)} old"
    fresh = since is not None and case.seen.now - since < _GRACE
    advice = "run kubectl torchrun doctor without a name: does the operator run, and watch this namespace?"
    yield Finding(check, Level.WARNING if fresh else Level.FAILED, words, advice)


def spec(case: JobCase, check: str) -> Iterator[Finding]:
    """Say what `validate` says of the job, and which words of its command keep the nodes from the rendezvous."""
    for problem in case.problems:
        advice = "change the field; most fields of a running job change only while it is suspended"
        yield Finding(check, Level.FAILED, problem, advice)
    if case.job is None:
        return
    trains = case.condition("Running").get("reason") == "Training"
    # A static job may start anything, and a job that trains has found its rendezvous.
    found = [] if case.job.spec.static or trains else [*_commands(case.job.spec, case.name, check)]
    yield from found
    if not found and not case.problems:
        yield ok(check, "valid, and nothing in the command stands against the settings of the operator")


def _commands(spec: TorchrunJobSpec, name: str, check: str) -> Iterator[Finding]:
    """Say what in the command of the template keeps nodes from the rendezvous, and in that of the lead."""
    files = {file.path: file.content for file in spec.files}
    lead, others = spec.command_of(0), spec.command_of(1)
    commands = {"the command of the lead": lead} if lead != others else {}
    if spec.max_nodes > 1 or lead == others:
        commands["the command"] = others
    for whose, command in commands.items():
        launch = launch_of(command, files, spec.rendezvous.backend, rendezvous_name(name))
        words = launch_words(launch) if command else ""
        if words:
            known = bool(launch.launcher or launch.python)
            level = Level.FAILED if launch.options else Level.WARNING if known else Level.UNKNOWN
            head, _, rest = words.replace("the command", whose, 1).partition("; ")
            yield Finding(check, level, head, rest)


def rendezvous(case: JobCase, check: str) -> Iterator[Finding]:
    """Say whether the rendezvous pod is ready, and whether the operator hears it."""
    if case.job is None or case.job.spec.static or case.status.get("state") in ("Complete", "Failed", None):
        return
    name = rendezvous_name(case.name)
    pod = next((each for each in case.pods if is_host(each)), None)
    logs = f"kubectl -n {case.namespace} logs {name}"
    if pod is None:
        if not case.suspended:
            yield Finding(check, Level.FAILED, f"the pod {name} does not exist", "see the conditions above")
        return
    status = pod.get("status") or {}
    ready = any(
        each.get("name") == "rendezvous" and each.get("ready") for each in status.get("containerStatuses") or ()
    )
    restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses") or ())
    since = moment(pod["metadata"].get("creationTimestamp"))
    if not ready:
        fresh = since is not None and case.seen.now - since < _GRACE
        words = f"the pod {name} is not ready ({status.get('phase', 'Pending')})"
        yield Finding(check, Level.WARNING if fresh else Level.FAILED, words, f"see {logs}")
    elif case.condition("Running").get("reason") == "StartingRendezvous":
        words = f"the pod {name} is ready, but the operator does not hear it"
        yield Finding(check, Level.FAILED, words, "network policies must let the operator reach its TCP port 29401")
    elif restarts:
        yield Finding(
            check, Level.WARNING, f"{name} is ready after {many(restarts, 'restart')}", f"see {logs} --previous"
        )
    else:
        yield ok(check, f"{name} is ready")
