"""Carries out a plan: sends the target to the rendezvous host, deletes pods, then creates missing objects."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.names import ROLE_NODE, ROLE_RENDEZVOUS, rendezvous_name
from torchrun_operator.cluster.port import Cluster, Key, Manifest, NameTakenError, RefusedError
from torchrun_operator.core.decide import Decision
from torchrun_operator.core.policies.plan import Deletion, Plan
from torchrun_operator.reconcile.memory import Attempt, Memory
from torchrun_operator.render.node_pod import node_pod
from torchrun_operator.render.objects import prerequisites, services
from torchrun_operator.render.programs import Programs
from torchrun_operator.render.rendezvous_pod import rendezvous_pod
from torchrun_operator.rendezvous.links import Links
from torchrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_CONCURRENT_WRITES = 20


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
        self._writes = asyncio.Semaphore(_CONCURRENT_WRITES)

    async def act(self, key: Key, job: api.TorchrunJob, decision: Decision, memory: Memory) -> float | None:
        """Carry out the plan. Return the seconds until refused actions are due again. Raises ClusterError."""
        self._links.ensure(key, job.metadata.uid, decision.host, len(decision.status.nodes))
        if decision.plan.target is not None:
            self._links.tell(key, decision.plan.target)
        await self._delete(key, decision.plan.deletions)
        return await self._create(job, decision.plan, memory)

    async def _delete(self, key: Key, deletions: Sequence[Deletion]) -> None:
        await self._together([self._cluster.delete_pod(key[0], d.name, d.uid, d.grace_seconds) for d in deletions])
        hosts = sum(1 for deletion in deletions if deletion.name == rendezvous_name(key[1]))
        self._metrics.pods_deleted(ROLE_RENDEZVOUS, hosts)
        self._metrics.pods_deleted(ROLE_NODE, len(deletions) - hosts)

    async def _create(self, job: api.TorchrunJob, plan: Plan, memory: Memory) -> float | None:
        generation, last = job.metadata.generation, memory.attempt
        if last is not None and (wait := last.retry_seconds(generation, self._clock())) is not None:
            return wait
        refused: RefusedError | NameTakenError | None = None
        try:
            await self._create_missing(job, plan, memory)
        except (RefusedError, NameTakenError) as error:
            refused = error
            logger.warning("the API server refused an object of the job: %s", error.message)
        before = job.status.refusal is not None if last is None else bool(last.refusal)
        times = (last.times if last is not None else 0) + 1 if refused is not None else 0
        memory.attempt = attempt = Attempt(
            at=self._clock(),
            generation=generation,
            refusal=refused.message if refused is not None else "",
            name_taken=isinstance(refused, NameTakenError),
            times=times,
        )
        if (refused is not None) != before:
            return 0.0  # the status must report it
        return attempt.retry_seconds(generation, attempt.at)

    async def _create_missing(self, job: api.TorchrunJob, plan: Plan, memory: Memory) -> None:
        """Create missing objects concurrently, those that pods mount first."""
        due = [*(prerequisites(job, self._programs, self._operator_namespace) if plan.apply_objects else ())]
        due += services(job) if plan.apply_services else ()
        pods = [node_pod(job, index) for index in plan.create_nodes]
        if plan.create_rendezvous:
            pods.append(rendezvous_pod(job, self._links.token_digest(job.metadata.uid)))
        await self._together(
            [*[self._apply(manifest, memory) for manifest in due], *[self._create_pod(pod) for pod in pods]]
        )
        self._metrics.pods_created(ROLE_RENDEZVOUS, int(plan.create_rendezvous))
        self._metrics.pods_created(ROLE_NODE, len(plan.create_nodes))

    async def _create_pod(self, pod: Manifest) -> None:
        try:
            await self._cluster.create_pod(pod)
        except NameTakenError as error:
            # A node's name is taken. The other nodes continue, unlike with the name of a service.
            raise RefusedError(error.status, error.reason, error.message) from error

    async def _apply(self, manifest: Manifest, memory: Memory) -> None:
        """Apply an object if it differs from what was applied last, or if that was long ago."""
        name, now = (manifest["kind"], manifest["metadata"]["name"]), self._clock()
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        last = memory.applied.get(name)
        if last is not None and last[0] == digest and (now - last[1]).total_seconds() < self._resync_seconds:
            return
        await self._cluster.apply(manifest)
        memory.applied[name] = digest, now

    async def _together(self, requests: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Await all, then raise one error: one that can be retried rather than a refusal."""

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
