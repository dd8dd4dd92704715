"""One pass over one job: observe, decide, write the status, act. Level-based: a pass that dies at any point is repaired
by the next.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.base import rfc3339
from torchrun_operator.api.conditions import Reason, has_ended
from torchrun_operator.api.names import API_VERSION, KIND, MANAGED_BY, TRAINER_CONTAINER, rendezvous_name
from torchrun_operator.api.validation import readable
from torchrun_operator.cluster.port import Cluster, ClusterError, Key, Manifest, NameTakenError, RefusedError
from torchrun_operator.core.decide import decide
from torchrun_operator.core.decision import Decision, Event
from torchrun_operator.core.machines import names
from torchrun_operator.core.observe import observe
from torchrun_operator.core.observed import Observed, Phase
from torchrun_operator.core.report import unaccepted
from torchrun_operator.core.transitions import transitions
from torchrun_operator.core.words import Words, of_log
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import prerequisites, services
from torchrun_operator.render.programs import Programs
from torchrun_operator.render.rendezvous_pod import rendezvous_pod
from torchrun_operator.render.validation import problems
from torchrun_operator.rendezvous.links import Links, name_of
from torchrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_REFUSED_RETRY_SECONDS = 15.0
_CONCURRENT_WRITES = 20
_FIRST_STATUS_SECONDS = 2.0
_DETAIL_SECONDS = 2.0
_UNSTARTED = frozenset({Phase.PENDING, Phase.STARTING})
_LIVE = _UNSTARTED | {Phase.RUNNING}
_LOG_LINES = 1000
"""How much of a log is searched for what a worker said when it failed, some seconds ago."""
_EVENT_CHARACTERS = 1024
"""The most that the API server takes in an event's message."""


@dataclass(frozen=True)
class Outcome:
    """What the queue should do with the key."""

    gone: bool = False
    look_again_seconds: float | None = None
    rest_seconds: float = 0.0
    """Nothing that happens sooner is worth another pass."""


@dataclass(frozen=True)
class _Refusal:
    """What the API server did not accept, and of which generation of the job."""

    message: str
    generation: int
    at: datetime
    name_taken: bool
    times: int

    @property
    def retry_at(self) -> datetime:
        """What is refused may soon pass (objects of a job of that name that is being deleted) or last (a quota)."""
        return self.at + timedelta(seconds=min(_REFUSED_RETRY_SECONDS, 2.0 ** (self.times - 1)))


@dataclass
class _Memory:
    """What is remembered of a job between passes: only to save work, never needed to be right."""

    uid: str
    applied: dict[tuple[str, str], tuple[str, datetime]] = field(default_factory=dict)
    """By kind and name: the digest of what was applied last, and when."""
    refusal: _Refusal | None = None
    status_written_at: datetime | None = None


class Reconciler:
    """Brings jobs to what their specs ask for. Different keys may be reconciled at the same time, one key never is."""

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
        """Clock tells the time in UTC; operator_namespace is where the operator reaches rendezvous pods from."""
        self._cluster = cluster
        self._links = links
        self._metrics = metrics
        self._clock = clock
        self._programs = programs
        self._operator_namespace = operator_namespace
        self._resync_seconds = resync_seconds
        self._progress_interval = progress_interval
        self._memories: dict[Key, _Memory] = {}
        self._writes = asyncio.Semaphore(_CONCURRENT_WRITES)

    async def reconcile(self, key: Key) -> Outcome:
        """Make one pass. Raises ClusterError where the API server could not be read or written."""
        raw = await self._cluster.get_job(*key)
        if raw is None or raw["metadata"].get("deletionTimestamp"):
            self._forget(key)
            return Outcome(gone=raw is None)
        memory = self._memory(key, raw)
        try:
            job = api.job_of(dict(raw))
        except ValidationError as error:
            return await self._refuse(key, raw, Reason.INVALID_SPEC, readable(error))
        found = [] if has_ended(job.status.conditions) else problems(job)
        if found:
            return await self._refuse(key, raw, Reason.INVALID_SPEC, "; ".join(map(str, found)))
        observed = await self._observe(key, job, memory)
        decision = decide(job, observed, self._clock())
        if decision.logs_to_read:
            if decision.target is not None and not decision.target.close:
                self._links.tell(key, decision.target)  # the survivors need not wait for the logs
            said = await self._said(key, job, decision.logs_to_read)
            decision = decide(job, replace(observed, said=said), self._clock())
        if "status" not in raw and decision.create_nodes and memory.refusal is None:
            # A new job has nothing to lose, so its pods come first; the next pass writes down what became of them.
            retry = await self._act(key, job, decision, memory)
            return Outcome(
                look_again_seconds=_soonest(_FIRST_STATUS_SECONDS, retry), rest_seconds=_FIRST_STATUS_SECONDS
            )
        delay = await self._write_status(key, raw, job.status, decision, memory)
        if decision.target is not None:
            self._links.tell(key, decision.target)
        await self._tell(raw, decision.events)
        retry = await self._act(key, job, decision, memory)
        return Outcome(look_again_seconds=_soonest(decision.look_again_seconds, delay, retry))

    def _memory(self, key: Key, raw: Manifest) -> _Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != raw["metadata"]["uid"]:
            self._forget(key)  # also the link to the host of a job of that name that was deleted unnoticed
            memory = self._memories[key] = _Memory(uid=raw["metadata"]["uid"])
        return memory

    def _forget(self, key: Key) -> None:
        self._memories.pop(key, None)
        self._links.drop(key)
        self._metrics.job_state(name_of(key), None)
        self._metrics.rendezvous_link(name_of(key), None)

    async def _refuse(self, key: Key, raw: Manifest, reason: Reason, message: str) -> Outcome:
        """Say what is wrong and touch nothing else: what runs goes on, and a corrected spec is taken up at once."""
        old = api.status_of(dict(raw))
        new = unaccepted(old, raw["metadata"].get("generation", 0), reason, message, self._clock())
        if new.wire() != raw.get("status"):
            await self._cluster.apply_status(*key, raw["metadata"]["resourceVersion"], new.wire())
            await self._tell(raw, transitions(old, new))
            logger.warning("the job is not accepted: %s", message)
        self._metrics.job_state(name_of(key), new.state)
        return Outcome()

    async def _observe(self, key: Key, job: api.TorchrunJob, memory: _Memory) -> Observed:
        # The rendezvous state is read first: every address in it then belongs to a pod that the list shows, or to one
        # that has gone.
        state = self._links.state(key)
        pods = await self._cluster.list_pods(*key)
        machines = await self._cluster.list_machines(names(pods))
        digest = self._links.token_digest(job.metadata.uid)
        observed = observe(job.metadata.uid, pods, state, token_digest=digest, machines=machines)
        if memory.refusal is not None:
            refusal = memory.refusal
            observed = replace(observed, refusal=refusal.message, name_taken=refusal.name_taken)
        host = observed.rendezvous_pod
        up = host is not None and host.phase is Phase.RUNNING and host.token_digest == digest
        self._links.ensure(key, job.metadata.uid, host.address if host is not None and up else None)
        return observed

    async def _said(self, key: Key, job: api.TorchrunJob, pods: Sequence[str]) -> dict[str, Words]:
        """Return what the workers that failed said, by pod, as far as their logs can be read: nothing depends on it."""
        logs = await asyncio.gather(
            *[self._cluster.read_log(key[0], pod, TRAINER_CONTAINER, _LOG_LINES) for pod in pods],
            return_exceptions=True,
        )
        last = job.status.last_failure
        after = last.time + timedelta(seconds=1) if last is not None else None
        said = {}
        for pod, log in zip(pods, logs, strict=True):
            words = of_log(log, after=after) if isinstance(log, str) else None
            if words is not None:
                said[pod] = words
            if isinstance(log, ClusterError):
                logger.warning("the log of pod %s cannot be read: %s", pod, log)
            elif isinstance(log, BaseException):
                raise log
        return said

    async def _write_status(
        self, key: Key, raw: Manifest, old: api.TorchrunJobStatus, decision: Decision, memory: _Memory
    ) -> float | None:
        """Write the status where it differs; return in how many seconds to look again if progress alone waits."""
        new, now = decision.status.wire(), self._clock()
        before = raw.get("status") or {}
        self._metrics.job_state(name_of(key), decision.status.state)
        self._metrics.straggling(name_of(key), decision.status.straggler is not None)
        if new == before:
            return None
        written = memory.status_written_at
        if written is not None and _substance(new) == _substance(before):
            interval = self._progress_interval if _only_progress(new, before) else _DETAIL_SECONDS
            wait = interval - (now - written).total_seconds()
            if wait > 0:
                return wait
        await self._cluster.apply_status(*key, raw["metadata"]["resourceVersion"], new)
        memory.status_written_at = now
        for cause, count in decision.losses.items():
            self._metrics.restarts(cause, count)
        if decision.hung:
            self._metrics.hung()
        await self._tell(raw, transitions(old, decision.status))
        return None

    async def _act(self, key: Key, job: api.TorchrunJob, decision: Decision, memory: _Memory) -> float | None:
        """Carry the decision out; return in how many seconds to try again what was refused.

        Each thing may fail without holding up the others.
        """
        deletions = [
            self._cluster.delete_pod(key[0], deletion.name, deletion.uid, deletion.grace_seconds)
            for deletion in decision.deletions
        ]
        await self._together(deletions)
        hosts = sum(1 for deletion in decision.deletions if deletion.name == rendezvous_name(key[1]))
        self._metrics.pods_deleted("rendezvous", hosts)
        self._metrics.pods_deleted("node", len(deletions) - hosts)
        held = self._held(job, memory)
        if held is not None:
            return held
        refused = None
        try:
            await self._create(job, decision, memory)
        except (RefusedError, NameTakenError) as error:
            times = memory.refusal.times + 1 if memory.refusal is not None else 1
            name_taken = isinstance(error, NameTakenError)
            refused = _Refusal(error.message, job.metadata.generation, self._clock(), name_taken, times)
            logger.warning("the cluster refuses what the job needs: %s", error.message)
        changed = (refused is None) != (memory.refusal is None)
        memory.refusal = refused
        return 0.0 if changed else self._held(job, memory)

    def _held(self, job: api.TorchrunJob, memory: _Memory) -> float | None:
        """Return for how long not to ask again: what was refused is tried anew after a while (a quota may have been
        raised), or at once when the spec has changed.
        """
        refusal = memory.refusal
        if refusal is None or refusal.generation != job.metadata.generation:
            return None
        left = (refusal.retry_at - self._clock()).total_seconds()
        return left if left > 0 else None

    async def _create(self, job: api.TorchrunJob, decision: Decision, memory: _Memory) -> None:
        """Make what is missing side by side, what pods mount first."""
        due = [*(prerequisites(job, self._programs, self._operator_namespace) if decision.apply_objects else ())]
        due += services(job) if decision.apply_services else ()
        pods = [node_pod(job, index) for index in decision.create_nodes]
        if decision.create_rendezvous:
            pods.append(rendezvous_pod(job, self._links.token_digest(job.metadata.uid)))
        await self._together(
            [
                *[self._apply(manifest, memory) for manifest in due],
                *[self._create_pod(pod) for pod in pods],
            ]
        )
        self._metrics.pods_created("rendezvous", int(decision.create_rendezvous))
        self._metrics.pods_created("node", len(decision.create_nodes))

    async def _create_pod(self, pod: Manifest) -> None:
        try:
            await self._cluster.create_pod(pod)
        except NameTakenError as error:
            # Of one node: no reason to end the others, as it would be for a service's name.
            raise RefusedError(error.status, error.reason, error.message) from error

    async def _apply(self, manifest: Manifest, memory: _Memory) -> None:
        """Apply an object if it differs from what was applied last, and now and then regardless."""
        name, now = (manifest["kind"], manifest["metadata"]["name"]), self._clock()
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        last = memory.applied.get(name)
        if last is not None and last[0] == digest and (now - last[1]).total_seconds() < self._resync_seconds:
            return
        await self._cluster.apply(manifest)
        memory.applied[name] = digest, now

    async def _together(self, requests: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Await all; then raise what went wrong: a passing error before a refusal, because it is tried again."""

        async def limited(request: Coroutine[Any, Any, None]) -> None:
            async with self._writes:
                await request

        try:
            results = await asyncio.gather(*map(limited, requests), return_exceptions=True)
        finally:
            for request in requests:
                request.close()  # those that had not begun when this pass was cancelled
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise min(errors, key=lambda error: isinstance(error, RefusedError | NameTakenError))

    async def _tell(self, raw: Manifest, events: Sequence[Event]) -> None:
        """Record events; one that cannot be recorded is only logged, nothing depends on it."""
        for event in events:
            logger.log(logging.WARNING if event.warning else logging.INFO, "%s: %s", event.reason, event.message)
            try:
                await self._cluster.create_event(_event_manifest(raw, event, self._clock()))
            except ClusterError as error:
                logger.warning("the event %s could not be recorded: %s", event.reason, error)


def _event_manifest(raw: Manifest, event: Event, now: datetime) -> dict[str, Any]:
    metadata = raw["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:_EVENT_CHARACTERS],
        "source": {"component": MANAGED_BY},
        "firstTimestamp": rfc3339(now),
        "lastTimestamp": rfc3339(now),
        "count": 1,
    }


def _only_progress(new: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    details = {"progress": None, "straggler": None}
    return {**new, **details} == {**before, **details}


def _substance(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be written at once: what other clients act on and what counts losses. The rest, how far pods
    have come and how messages put it, may wait a little: a start would otherwise write it a dozen times.
    """
    nodes = [
        (node["index"], node.get("rank"), node.get("uid") if node.get("phase") not in _UNSTARTED else None)
        for node in status.get("nodes", ())
    ]
    dead = [node["index"] for node in status.get("nodes", ()) if node.get("phase") not in _LIVE]
    conditions = [(c["type"], c["status"], c["reason"]) for c in status.get("conditions", ())]
    left_out = ("progress", "straggler", "replicas", "readyReplicas", "nodes", "conditions")
    rest = {key: value for key, value in status.items() if key not in left_out}
    return {**rest, "nodes": nodes, "dead": dead, "conditions": conditions}


def _soonest(*delays: float | None) -> float | None:
    return min((delay for delay in delays if delay is not None), default=None)
