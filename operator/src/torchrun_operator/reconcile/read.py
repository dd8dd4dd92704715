"""Reads the facts of a job: from the watches, the rendezvous link and the logs of failed pods."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.api.names import TRAINER_CONTAINER
from torchrun_operator.cluster.port import Cluster, ClusterError, Key
from torchrun_operator.core.facts.logs import logs_to_read
from torchrun_operator.core.facts.machines import names
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.facts.pods import gather
from torchrun_operator.core.facts.words import Words, of_log
from torchrun_operator.reconcile.memory import Memory
from torchrun_operator.rendezvous.links import Links

logger = logging.getLogger(__name__)

_LOG_LINES = 1000
"""Number of lines at the end of a log to search for the error of a worker that failed seconds ago."""


class Reader:
    """Reads everything that a decision depends on."""

    def __init__(self, cluster: Cluster, links: Links, clock: Callable[[], datetime]) -> None:
        """Clock tells the time in UTC."""
        self._cluster = cluster
        self._links = links
        self._clock = clock

    async def read(self, key: Key, job: api.TorchrunJob, memory: Memory) -> Facts:
        """Return the facts of a job. Raises ClusterError if the API server could not be read."""
        # The rendezvous state is read first: every address in it then belongs to a pod in the list, or to one that has
        # gone.
        state, hearing = self._links.state(key), self._links.hearing(key)
        pods = await self._cluster.list_pods(*key)
        machines = await self._cluster.list_machines(names(pods))
        digest = self._links.token_digest(job.metadata.uid)
        facts = gather(job, self._clock(), pods, state, token_digest=digest, machines=machines, hearing=hearing)
        if memory.attempt is not None:  # newer than the status
            attempt = memory.attempt
            refused = frozenset(name for kind, name in attempt.refused if kind == "Pod")
            facts = replace(facts, refusal=attempt.refusal, refused=refused, name_taken=attempt.name_taken)
        wanted = logs_to_read(facts)
        return replace(facts, said=await self._said(key, job, wanted)) if wanted else facts

    async def _said(self, key: Key, job: api.TorchrunJob, pods: Sequence[str]) -> dict[str, Words]:
        """Return what the failed workers logged, by pod. Skips a log that cannot be read: nothing depends on it."""
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
                logger.warning("cannot read the log of pod %s: %s", pod, log)
            elif isinstance(log, BaseException):
                raise log
        return said
