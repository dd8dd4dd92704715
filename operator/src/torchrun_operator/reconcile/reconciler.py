"""One pass over one job: read, find, plan, write, act, tell. If a pass ends early, the next one repairs the rest."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.conditions import Reason, has_ended
from torchrun_operator.api.names import other_manager
from torchrun_operator.api.validation import readable
from torchrun_operator.cluster.port import Cluster, Key, Manifest
from torchrun_operator.core.decide import Decision, decide
from torchrun_operator.core.events import transitions
from torchrun_operator.core.status.accepted import unaccepted
from torchrun_operator.core.status.goodput import new_seconds
from torchrun_operator.reconcile.act import Actor
from torchrun_operator.reconcile.memory import Memory
from torchrun_operator.reconcile.read import Reader
from torchrun_operator.reconcile.tell import EventRecorder
from torchrun_operator.reconcile.write import StatusWriter, Written
from torchrun_operator.render.programs import Programs
from torchrun_operator.render.validation import problems
from torchrun_operator.rendezvous.links import Links, name_of
from torchrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The result of a pass, for the queue."""

    gone: bool = False
    look_again_seconds: float | None = None
    rest_seconds: float = 0.0
    """The next pass begins no sooner, whatever happens."""


class Reconciler:
    """Makes passes over jobs. Different jobs may have passes at the same time, one job has one pass at a time."""

    def __init__(
        self,
        cluster: Cluster,
        links: Links,
        metrics: Metrics,
        clock: Callable[[], datetime],
        programs: Programs,
        *,
        operator_namespace: str | None = None,
        resync_seconds: float = 300.0,
        progress_interval: float = 5.0,
    ) -> None:
        """Clock tells the time in UTC; the operator reaches rendezvous hosts from ``operator_namespace``."""
        self._cluster = cluster
        self._links = links
        self._metrics = metrics
        self._clock = clock
        self._reader = Reader(cluster, links, clock)
        self._statuses = StatusWriter(cluster, clock, progress_interval)
        self._actor = Actor(
            cluster,
            links,
            metrics,
            clock,
            programs,
            operator_namespace=operator_namespace,
            resync_seconds=resync_seconds,
        )
        self.recorder = EventRecorder(cluster, clock)
        self._memories: dict[Key, Memory] = {}

    async def reconcile(self, key: Key) -> Outcome:
        """Make one pass. Raises ClusterError if the API server could not be read or written."""
        raw = await self._cluster.get_job(*key)
        if raw is None or raw["metadata"].get("deletionTimestamp") or other_manager(raw.get("spec") or {}):
            self._forget(key)
            return Outcome(gone=raw is None)
        memory = self._memory(key, raw)
        job = _valid(raw)
        if isinstance(job, str):
            return await self._refuse(key, raw, job)
        facts = await self._reader.read(key, job, memory)
        decision = decide(facts)
        written = await self._statuses.write(key, raw, decision, memory)
        try:
            retry = await self._actor.act(key, job, decision, memory)
        finally:
            self._tell(key, raw, job, decision, written)
        listen = memory.hearings.due_seconds(self._clock())
        again = _soonest(decision.plan.look_again_seconds, written.waits_seconds, retry, listen)
        return Outcome(look_again_seconds=again, rest_seconds=written.rest_seconds)

    def _memory(self, key: Key, raw: Manifest) -> Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != raw["metadata"]["uid"]:
            self._forget(key)  # also if it is the link of an earlier job of that name
            memory = self._memories[key] = Memory(uid=raw["metadata"]["uid"])
        return memory

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self._links.drop(key)
        self._metrics.job_state(name_of(key), None)
        self._metrics.rendezvous_link(name_of(key), None)

    async def _refuse(self, key: Key, raw: Manifest, message: str) -> Outcome:
        """Write the problem into the status and change nothing else: pods continue. A corrected spec wakes the job."""
        old = api.status_of(dict(raw))
        generation = raw["metadata"].get("generation", 0)
        new = unaccepted(old, generation, Reason.INVALID_SPEC, message, self._clock())
        if new.wire() != raw.get("status"):
            await self._cluster.apply_status(*key, raw["metadata"]["resourceVersion"], new.wire())
            self.recorder.tell(raw, transitions(old, new))
            logger.warning("the job is not accepted: %s", message)
        self._metrics.job_state(name_of(key), new.state)
        return Outcome()

    def _tell(self, key: Key, raw: Manifest, job: api.TorchrunJob, decision: Decision, written: Written) -> None:
        """Count and report what this pass has written."""
        name, status = name_of(key), decision.status
        self._metrics.job_state(name, status.state)
        self._metrics.straggling(name, status.straggler is not None)
        if not written.changed:
            return
        for cause, count in decision.restarts.items():
            self._metrics.restarts(cause, count)
        for kind, seconds in new_seconds(job.status.goodput, status.goodput).items():
            self._metrics.trained(kind, seconds)
        if decision.hung:
            self._metrics.hung()
        self.recorder.tell(raw, (*decision.events, *transitions(job.status, status)))


def _valid(raw: Manifest) -> api.TorchrunJob | str:
    """Return the job, or its problem. A job that has ended is not checked: newer rules do not apply to it."""
    try:
        job = api.job_of(dict(raw))
    except ValidationError as error:
        return readable(error)
    found = [] if has_ended(job.status.conditions) else problems(job)
    return "; ".join(map(str, found)) if found else job


def _soonest(*delays: float | None) -> float | None:
    return min((delay for delay in delays if delay is not None), default=None)
