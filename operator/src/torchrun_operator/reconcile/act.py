"""Carries out a plan: sends the target to the rendezvous host, deletes pods, then creates missing objects.

The rendezvous pod comes before the nodes: no node can train without it.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.names import ROLE_NODE, ROLE_OUTPUTS, ROLE_RENDEZVOUS, outputs_name, rendezvous_name
from torchrun_operator.cluster.port import Cluster, Key, Manifest, NameTakenError, RefusedError
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.policies.plan import Deletion, Plan
from torchrun_operator.reconcile.memory import Attempt, Memory, Reference
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import claims, prerequisites, services, unwanted
from torchrun_operator.render.outputs_pod import outputs_pod
from torchrun_operator.render.programs import Programs
from torchrun_operator.render.rendezvous_pod import rendezvous_pod
from torchrun_operator.rendezvous.links import Links
from torchrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_CONCURRENT_WRITES = 20
"""Of one pass. The transport limits the requests of a namespace."""

Request = Coroutine[Any, Any, None]
Refusals = dict[Reference, RefusedError | NameTakenError]


class Actor:
    """Carries out plans. An action that fails does not stop the others."""

    def __init__(
        self,
        cluster: Cluster,
        links: Links,
        metrics: Metrics,
        clock: Callable[[], datetime],
        programs: Programs,
        *,
        operator_namespace: str | None,
        resync_seconds: float,
    ) -> None:
        """Apply objects again after ``resync_seconds``, even if they have not changed."""
        self._cluster = cluster
        self._links = links
        self._metrics = metrics
        self._clock = clock
        self._programs = programs
        self._operator_namespace = operator_namespace
        self._resync_seconds = resync_seconds

    async def act(self, key: Key, job: api.TorchrunJob, decision: Decision, memory: Memory) -> float | None:
        """Carry out the plan. Return the seconds until refused actions are due again. Raises ClusterError."""
        self._links.ensure(key, job.metadata.uid, decision.host, len(decision.status.nodes))
        if decision.plan.target is not None:
            self._links.tell(key, decision.plan.target)
        await self._delete(key, decision.plan.deletions)
        if decision.plan.delete_job:
            logger.info("the job is deleted: spec.ttlSecondsAfterFinished is %s", job.spec.ttl_seconds_after_finished)
            # A write of the status in this pass conflicts, and the next pass deletes the job.
            await self._cluster.delete_job(*key, job.metadata.uid, job.metadata.resource_version)
            return None
        await self._attempt(
            {("Pod", stop.uid): self._cluster.stop_pod(key[0], stop.name, stop.uid) for stop in decision.plan.stops}
        )
        return await self._create(job, decision.plan, memory)

    async def _delete(self, key: Key, deletions: Sequence[Deletion]) -> None:
        await self._attempt(
            {("Pod", d.uid): self._cluster.delete_pod(key[0], d.name, d.uid, d.grace_seconds) for d in deletions}
        )
        names = [deletion.name for deletion in deletions]
        hosts, uploads = names.count(rendezvous_name(key[1])), names.count(outputs_name(key[1]))
        self._metrics.pods_deleted(ROLE_RENDEZVOUS, hosts)
        self._metrics.pods_deleted(ROLE_OUTPUTS, uploads)
        self._metrics.pods_deleted(ROLE_NODE, len(names) - hosts - uploads)

    async def _create(self, job: api.TorchrunJob, plan: Plan, memory: Memory) -> float | None:
        """Create what is missing. What was refused lately waits; the rest does not wait for it."""
        generation, last = job.metadata.generation, memory.attempt
        wait = last.retry_seconds(generation, self._clock()) if last is not None else None
        held = last.refused if last is not None and wait is not None else frozenset()
        refused = await self._create_missing(job, plan, memory, held)
        if wait is not None and not refused:
            return wait
        told = next(iter(refused.values()), None)
        if told is not None:
            logger.warning("the API server refused %d objects of the job: %s", len(refused), told.message)
            memory.rules_read_at = None  # they may not have fitted the rules of the namespace
        before = job.status.refusal is not None if last is None else bool(last.refusal)
        memory.attempt = attempt = Attempt(
            at=self._clock(),
            generation=generation,
            refusal=told.message if told is not None else "",
            refused=held.union(refused),
            name_taken=isinstance(told, NameTakenError),
            times=(last.times if last is not None else 0) + 1 if refused else 0,
        )
        if bool(refused) != before:
            return 0.0  # the status must report it
        return attempt.retry_seconds(generation, attempt.at)

    async def _create_missing(
        self, job: api.TorchrunJob, plan: Plan, memory: Memory, held: frozenset[Reference]
    ) -> Refusals:
        """Create missing objects except the held ones. Return those that the API server refuses, and why.

        The rendezvous pod comes first. Where it is refused, no node takes its place in a quota.
        """
        refused: Refusals = {}
        if plan.create_rendezvous:
            name = "Pod", rendezvous_name(job.metadata.name)
            if name in held:
                return refused
            await self._read_rules(job, memory)
            host = rendezvous_pod(job, self._links.token_digest(job.metadata.uid), memory.rules)
            refused = await self._attempt({name: self._create_pod(host)})
            self._metrics.pods_created(ROLE_RENDEZVOUS, 1)
            if refused:
                return refused
        requests = await self._objects(job, plan, memory)
        requests |= {_reference(pod): self._create_pod(pod) for pod in _node_pods(job, plan)}
        requests |= {_reference(pod): self._create_pod(pod) for pod in _outputs_pods(job, plan, memory)}
        for reference in held.intersection(requests):
            requests.pop(reference).close()
        pods = [name for kind, name in requests if kind == "Pod"]
        self._metrics.pods_created(ROLE_OUTPUTS, pods.count(outputs_name(job.metadata.name)))
        self._metrics.pods_created(ROLE_NODE, len(pods) - pods.count(outputs_name(job.metadata.name)))
        return await self._attempt(requests)

    async def _objects(self, job: api.TorchrunJob, plan: Plan, memory: Memory) -> dict[Reference, Request]:
        """Return the requests that make the objects beside the pods as they should be, those that pods mount first."""
        applied: list[Manifest] = []
        if plan.apply_objects:
            await self._read_rules(job, memory)
            applied += prerequisites(job, self._programs, self._operator_namespace, memory.rules)
        if plan.apply_services:
            applied += services(job)
        due: list[tuple[Callable[[Manifest], Request], Sequence[Manifest]]] = [(self._cluster.apply, applied)]
        if plan.apply_objects:
            due += [(self._cluster.create, claims(job)), (self._cluster.delete_owned, unwanted(job))]
        return {
            _reference(manifest): self._once(request, manifest, memory)
            for request, manifests in due
            for manifest in manifests
        }

    async def _read_rules(self, job: api.TorchrunJob, memory: Memory) -> None:
        now, last = self._clock(), memory.rules_read_at
        if last is None or (now - last).total_seconds() >= self._resync_seconds:
            memory.rules, memory.rules_read_at = await self._cluster.namespace_rules(job.metadata.namespace), now

    async def _create_pod(self, pod: Manifest) -> None:
        try:
            await self._cluster.create_pod(pod)
        except NameTakenError as error:
            # A node's name is taken. The other nodes continue, unlike with the name of a service.
            raise RefusedError(error.status, error.reason, error.message) from error

    async def _once(self, request: Callable[[Manifest], Request], manifest: Manifest, memory: Memory) -> None:
        """Make the request about an object if it differs from the last one, or if that was long ago."""
        name, now = _reference(manifest), self._clock()
        digest = hashlib.sha256(json.dumps([request.__name__, manifest], sort_keys=True).encode()).hexdigest()
        last = memory.applied.get(name)
        if last is not None and last[0] == digest and (now - last[1]).total_seconds() < self._resync_seconds:
            return
        await request(manifest)
        memory.applied[name] = digest, now

    async def _attempt(self, requests: Mapping[Reference, Request]) -> Refusals:
        """Await all requests. Return the refused ones. Then raise one of the other errors, which may pass."""
        results = await self._together([*requests.values()])
        found = dict(zip(requests, results, strict=True))
        for error in found.values():
            if error is not None and not isinstance(error, RefusedError | NameTakenError):
                raise error
        return {name: error for name, error in found.items() if isinstance(error, RefusedError | NameTakenError)}

    async def _together(self, requests: Sequence[Request]) -> list[BaseException | None]:
        """Await all. Return the error of each."""
        writes = asyncio.Semaphore(_CONCURRENT_WRITES)

        async def limited(request: Request) -> None:
            async with writes:
                await request

        try:
            return await asyncio.gather(*map(limited, requests), return_exceptions=True)
        finally:
            for request in requests:
                request.close()  # those that had not begun when this pass was cancelled


def _node_pods(job: api.TorchrunJob, plan: Plan) -> Iterator[Manifest]:
    return (node_pod(job, index, plan.names.get(index, ""), plan.lead) for index in plan.create_nodes)


def _outputs_pods(job: api.TorchrunJob, plan: Plan, memory: Memory) -> Iterator[Manifest]:
    if plan.upload is not None:
        upload = plan.upload
        yield outputs_pod(job, upload.positions, upload.digest, periodic=upload.periodic, rules=memory.rules)


def _reference(manifest: Manifest) -> Reference:
    return manifest["kind"], manifest["metadata"]["name"]
