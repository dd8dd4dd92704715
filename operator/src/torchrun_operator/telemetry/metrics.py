"""The operator's Prometheus metrics: one registry, and a method for each event to count."""

import platform
from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from torchrun_operator.api.names import ROLE_NODE, ROLE_OUTPUTS, ROLE_RENDEZVOUS
from torchrun_operator.api.v1alpha1.status import JobState, Restarts

_API_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MOST_KINDS = 50
_OTHER = "Other"
_MOST_RESTARTS = 100
"""Most restarts of one job that one pass counts. A job may claim any number of them, and all jobs share the counter."""
_RECONCILE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


_MOST_SECONDS = 86400
"""Most seconds of one job that one pass counts: clocks of pods may be wrong."""


class Metrics:
    """All metrics, in a registry of their own. Labels come from small sets: no series per job or pod."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the number of series
        self.registry: Final = CollectorRegistry()
        self._job_states: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._reconciles = Counter(
            "torchrun_operator_reconciles",
            "Reconciles by result.",
            ["result"],
            registry=self.registry,
        )
        self._reconcile_seconds = Histogram(
            "torchrun_operator_reconcile_duration_seconds",
            "Duration of reconciles, including waits for the API server.",
            buckets=_RECONCILE_SECONDS,
            registry=self.registry,
        )
        self._errors = Counter(
            "torchrun_operator_errors",
            "Errors by kind.",
            ["kind"],
            registry=self.registry,
        )
        self._queue_depth = Gauge(
            "torchrun_operator_queue_depth",
            "Due jobs that wait for a reconcile.",
            registry=self.registry,
        )
        self._queue_age = Gauge(
            "torchrun_operator_queue_oldest_seconds",
            "Longest time that a job has been due; 0 if none is.",
            registry=self.registry,
        )
        self._api_seconds = Histogram(
            "torchrun_operator_api_request_duration_seconds",
            "Duration of requests to the API server; status 0 means no answer.",
            ["verb", "resource", "status"],
            buckets=_API_SECONDS,
            registry=self.registry,
        )
        self._watch_up = Gauge(
            "torchrun_operator_watch_up",
            "1 if the API server answered the watch's last request, else 0; the namespace is empty for all namespaces.",
            ["watch", "namespace"],
            registry=self.registry,
        )
        self._watch_forbidden = Gauge(
            "torchrun_operator_watch_forbidden",
            "1 if the operator has no right to read what the watch follows, else 0.",
            ["watch", "namespace"],
            registry=self.registry,
        )
        self._create_job_metrics()
        Gauge(
            "torchrun_operator_build_info",
            "Always 1; the labels are the versions of the operator and of Python.",
            ["version", "python"],
            registry=self.registry,
        ).labels(version, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    def _create_job_metrics(self) -> None:
        self._kinds: set[str] = set()
        self._jobs = Gauge("torchrun_operator_jobs", "Jobs by state.", ["state"], registry=self.registry)
        self._restarts = Counter(
            "torchrun_operator_job_restarts",
            "Restarts of workers by cause.",
            ["cause"],
            registry=self.registry,
        )
        self._hangs = Counter(
            "torchrun_operator_job_hangs",
            "Restarts with the cause code that ended a hang.",
            registry=self.registry,
        )
        self._seconds = Counter(
            "torchrun_operator_job_seconds",
            "Seconds since the first step: training, or lost.",
            ["kind"],
            registry=self.registry,
        )
        self._straggling = Gauge(
            "torchrun_operator_jobs_straggling",
            "Jobs in which one worker keeps all others waiting.",
            registry=self.registry,
        )
        self._stragglers: set[str] = set()
        self._straggling.set_function(lambda: len(self._stragglers))
        self._pods_created = Counter(
            "torchrun_operator_pods_created", "Created pods by role.", ["role"], registry=self.registry
        )
        self._pods_deleted = Counter(
            "torchrun_operator_pods_deleted",
            "Pods that the operator deleted, by role.",
            ["role"],
            registry=self.registry,
        )
        self._rendezvous_links = Gauge(
            "torchrun_operator_rendezvous_links",
            "Connections to rendezvous hosts: up if the host answers, down if not.",
            ["state"],
            registry=self.registry,
        )
        self._rounds = Counter(
            "torchrun_operator_rendezvous_rounds",
            "Completed rounds of all jobs.",
            registry=self.registry,
        )
        # rate() does not see the first increment of a series that appears with it.
        for state in JobState:
            self._jobs.labels(state)
        for cause in Restarts.model_fields:
            self._restarts.labels(cause)
        for kind in ("training", "lost"):
            self._seconds.labels(kind)
        for role in (ROLE_NODE, ROLE_RENDEZVOUS, ROLE_OUTPUTS):
            self._pods_created.labels(role)
            self._pods_deleted.labels(role)
        for link in ("up", "down"):
            self._rendezvous_links.labels(link)

    def reconciled(self, result: str, seconds: float) -> None:
        """Count a reconcile that ended with `result` after `seconds`."""
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def error(self, kind: str) -> None:
        """Count an error. `kind` is one word. After many different ones, further ones count as Other."""
        if len(self._kinds) < _MOST_KINDS and len(kind) <= _MOST_KINDS:
            self._kinds.add(kind)
        self._errors.labels(kind if kind in self._kinds else _OTHER).inc()

    def watch_queue(self, depth: Callable[[], int], oldest_seconds: Callable[[], float]) -> None:
        """Register two functions that each read of the metrics calls. They must be fast."""
        self._queue_depth.set_function(depth)
        self._queue_age.set_function(oldest_seconds)

    def follow_watch(self, kind: str, namespace: str, up: Callable[[], bool], forbidden: Callable[[], bool]) -> None:
        """Register two fast functions that each read of the metrics calls. `kind` is jobs, pods or nodes."""
        self._watch_up.labels(kind, namespace).set_function(lambda: float(up()))
        self._watch_forbidden.labels(kind, namespace).set_function(lambda: float(forbidden()))

    def api_request(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """Count a request to the API server. `resource` is a plural with its subresource; `status` 0 is no answer."""
        self._api_seconds.labels(verb, resource, str(status)).observe(seconds)

    def job_state(self, key: str, state: JobState | None) -> None:
        """Record the state of a job; None: it is gone. `key` names the job, such as namespace/name."""
        _move(self._job_states, self._jobs, key, state)
        if state is None:
            self.rendezvous_link(key, None)
            self.straggling(key, False)

    def straggling(self, key: str, yes: bool) -> None:
        """Record whether one of the job's workers keeps the others waiting."""
        (self._stragglers.add if yes else self._stragglers.discard)(key)

    def hung(self) -> None:
        """Count a restart that ended a hang."""
        self._hangs.inc()

    def restarts(self, cause: str, count: int = 1) -> None:
        """Add `count` restarts of one job by `cause`, a key of status.restarts; at most 100 of them."""
        self._restarts.labels(cause).inc(min(count, _MOST_RESTARTS))

    def trained(self, kind: str, seconds: int) -> None:
        """Add seconds of one job; `kind` is training or lost. A job may claim any number of them."""
        self._seconds.labels(kind).inc(min(seconds, _MOST_SECONDS))

    def pods_created(self, role: str, count: int = 1) -> None:
        """Add pods that the operator created; `role` is node, rendezvous or outputs."""
        self._pods_created.labels(role).inc(count)

    def pods_deleted(self, role: str, count: int = 1) -> None:
        """Add pods that the operator deleted; `role` is node, rendezvous or outputs."""
        self._pods_deleted.labels(role).inc(count)

    def rendezvous_link(self, key: str, up: bool | None) -> None:
        """Record whether a job's rendezvous host answers; None: there is no connection."""
        _move(self._links, self._rendezvous_links, key, None if up is None else "up" if up else "down")

    def rounds_completed(self, count: int = 1) -> None:
        """Add completed rounds."""
        self._rounds.inc(count)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


def _move(places: dict[str, str], gauge: Gauge, key: str, place: str | None) -> None:
    """Remove `key` from the series that counts it, and count it in the series of `place`, if any."""
    before = places.pop(key, None)
    if before is not None:
        gauge.labels(before).dec()
    if place is not None:
        places[key] = place
        gauge.labels(place).inc()
