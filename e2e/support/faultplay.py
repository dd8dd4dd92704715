"""Plays a case of support.faultcases on a cluster, in a namespace of its own."""

import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from support.clusters import Cluster
from support.diagnosis import story
from support.faultcases import JOB, Case, brief, differences, hints, job_of, pauses_grow, readable, rises
from support.kubectl import Kubectl, KubectlError, Object
from support.waiting import wait_for

KIND = "torchrunjobs"
_SECONDS = 150.0
"""For a step, on a busy computer. What a user waits for is measured from the cause."""


@dataclass(frozen=True)
class Seen:
    """What a step saw."""

    case: Case
    seconds: float | None
    """From the cause to the words; None if the step has no cause."""
    words: str


class Play:
    """One case: its namespace, and every status of its job."""

    def __init__(self, cluster: Cluster, case: Case) -> None:
        self._cluster, self._case = cluster, case
        self._kubectl: Kubectl = cluster.kubectl.within(f"fault-{case.name[:40]}-{secrets.token_hex(3)}")
        self._history: list[tuple[float, Object]] = []
        self._changed = threading.Condition()
        self._acted = 0.0

    def run(self) -> list[Seen]:
        """Play all steps. Raises AssertionError with what a person would look at first."""
        self._cluster.kubectl.run("create", "namespace", self._kubectl.namespace)
        watch = self._kubectl.watch(KIND, "", self._on_status)
        try:
            return self._steps()
        except (AssertionError, KubectlError) as error:
            error.add_note(story(self._cluster, self._kubectl))
            raise
        finally:
            watch.stop()
            with suppress(KubectlError):
                self._cluster.kubectl.run("delete", "namespace", self._kubectl.namespace, "--wait=false")

    def _on_status(self, job: Object) -> None:
        with self._changed:
            self._history.append((time.time(), job.get("status") or {}))
            self._changed.notify_all()

    def _steps(self) -> list[Seen]:
        case = self._case
        if case.objects:
            self._kubectl.apply(*case.objects)
        self._acted = time.time()
        job = job_of(case, self._cluster.trainer_image)
        refused = case.steps[0].get("refused")
        if refused is not None:
            return [self._refusal(job, refused)]
        self._kubectl.apply(job)
        seen = [one for step in case.steps if (one := self._step(step)) is not None]
        for at, status in list(self._history):
            for pattern in case.never:
                assert differences(pattern, readable(status)), f"{pattern} at {at - self._acted:.1f} s: {status}"
        return seen

    def _refusal(self, job: Object, pattern: str) -> Seen:
        try:
            self._kubectl.run("create", "--filename=-", stdin=json.dumps(job))
        except KubectlError as error:
            words = " ".join(str(error).partition("--filename=-: ")[2].split())
            assert not differences(pattern, words), words
            return Seen(self._case, time.time() - self._acted, words)
        raise AssertionError("the API server accepted the job")

    def _step(self, step: Mapping[str, Any]) -> Seen | None:
        """Do one step. The order of the keys of a step does not matter."""
        if "apply" in step:
            self._kubectl.apply(*step["apply"])
        if "patch" in step:
            self._kubectl.patch(KIND, JOB, step["patch"])
        if "delete" in step:
            self._kubectl.run("delete", *step["delete"])
        if {"apply", "patch", "delete"} & set(step):
            self._acted = time.time()
        if "objects" in step:
            for name, pattern in step["objects"].items():
                self._object(name, pattern)
        if "logs" in step:
            for pod, pattern in step["logs"].items():
                self._log(pod, pattern)
        if "grows" in step:
            self._grows(step["grows"], step["times"])
        return self._see(step) if "see" in step else None

    def _see(self, step: Mapping[str, Any]) -> Seen:
        """Wait for a status that matches, even if it was seen before the step began."""
        at, status = self._wait(lambda one: not differences(step["see"], readable(one)), f"{step['see']}")
        for command in hints(status):
            self._kubectl.run(*command.removeprefix("kubectl ").split())
        words = status.get("message", "")
        if "within" not in step:
            return Seen(self._case, None, words)
        seconds = at - self._cause(step.get("since"))
        assert seconds <= step["within"], f"{words!r} came {seconds:.1f} s after its cause, not {step['within']} s"
        return Seen(self._case, seconds, words)

    def _wait(self, matches: Any, what: str) -> tuple[float, Object]:  # noqa: ANN401 - a predicate
        def found() -> tuple[float, Object] | None:
            since = [one for one in self._history if one[0] >= self._acted]
            return next((one for one in since if matches(one[1])), None)

        with self._changed:
            self._changed.wait_for(lambda: found() is not None, timeout=_SECONDS)
            match = found()
            last = self._history[-1][1] if self._history else {}
        assert match is not None, f"not within {_SECONDS:.0f} s: {what}; last seen: {brief(last)}"
        return match

    def _cause(self, since: Any) -> float:  # noqa: ANN401 - as in YAML
        """Return when it happened: the last action, a line of a log, an event, or the start or end of a container."""
        if since is None:
            return self._acted
        if "log" in since:
            return self._time_of_line(since["log"])
        if "event" in since:
            return self._time_of_event(since["event"])
        container, key = since.get("started") or since["ended"], "startedAt" if "started" in since else "finishedAt"
        times = [
            _seconds(state[key])
            for pod in self._kubectl.list("pods")
            for status in pod["status"].get("containerStatuses", []) + pod["status"].get("initContainerStatuses", [])
            for state in (*status.get("state", {}).values(), *status.get("lastState", {}).values())
            if status["name"] == container and key in state
        ]
        if not times and "ended" in since:  # the pod is replaced already
            times = [_seconds(one["lastFailure"]["time"]) for _, one in self._history if "lastFailure" in one]
        assert times, f"no container {container} has {key}"
        return max(times)

    def _time_of_line(self, pattern: str) -> float:
        pods = [pod["metadata"]["name"] for pod in self._kubectl.list("pods", "torchrun.dev/role=node")]
        logs = [self._kubectl.run("logs", pod, "--all-containers", "--timestamps") for pod in pods]
        times = [
            _seconds(line.split(" ", 1)[0]) for log in logs for line in log.splitlines() if re.search(pattern, line)
        ]
        assert times, f"no line of {pods} matches {pattern}"
        return min(times)

    def _time_of_event(self, reason: str) -> float:
        found = [event for event in self._kubectl.list("events") if event["reason"] == reason]
        times = [_seconds(event.get("firstTimestamp") or event["eventTime"]) for event in found]
        return min(times, default=self._acted)  # Without the event, the words came before it.

    def _object(self, name: str, pattern: Any) -> None:  # noqa: ANN401 - as in YAML
        kind, _, which = name.partition("/")
        wait_for(
            f"{name}: {pattern}",
            lambda: not differences(pattern, self._kubectl.get(kind, which)),
            _SECONDS,
            seen=lambda: self._kubectl.get(kind, which),
        )

    def _log(self, pod: str, pattern: str) -> None:
        name, _, container = pod.partition("/")
        log = self._kubectl.run("logs", name, f"--container={container}")
        assert not differences(pattern, log), log[-1000:]

    def _grows(self, path: str, times: int) -> None:
        """Wait until a count has risen that often. The last pause must be much longer than the first one."""
        self._wait(lambda _: len(rises(self._history, path)) >= times, f"{path} rises {times} times")
        reached = rises(self._history, path)[:times]
        assert pauses_grow(reached), f"{path} reached {[(round(at - self._acted, 1), value) for at, value in reached]}"


def _seconds(stamp: str) -> float:
    """Return seconds since 1970 of an RFC 3339 time with any number of decimals."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", stamp)).timestamp()
