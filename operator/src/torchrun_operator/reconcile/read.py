"""Reads the facts of a job: from the watches, the rendezvous link and the logs of failed pods."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from torchrun_operator.api import v1alpha1 as api
from torchrun_operator.cluster.port import Cluster, ClusterError, Key
from torchrun_operator.core.facts.clocks import sighted
from torchrun_operator.core.facts.logs import Log, failing_since, logs_to_read
from torchrun_operator.core.facts.machines import names
from torchrun_operator.core.facts.model import Facts
from torchrun_operator.core.facts.pods import gather
from torchrun_operator.core.facts.together import with_static_round
from torchrun_operator.core.facts.words import Words, of_log
from torchrun_operator.lanes import Lanes
from torchrun_operator.reconcile.listen import Listener
from torchrun_operator.reconcile.memory import Memory
from torchrun_operator.rendezvous.links import Links

logger = logging.getLogger(__name__)


_LEAVING = timedelta(seconds=45)
"""After a worker has failed, its agent gives the others of its node 30 s to stop before it leaves the round."""


_MOST_LOGS = 4
"""Logs of one namespace in memory at the same time. Each may have a megabyte, and many jobs may fail at once."""


class Reader:
    """Reads everything that a decision depends on."""

    def __init__(self, cluster: Cluster, links: Links, clock: Callable[[], datetime]) -> None:
        """Clock tells the time in UTC."""
        self._cluster = cluster
        self._links = links
        self._clock = clock
        self._logs = Lanes(_MOST_LOGS)
        self._listener = Listener(cluster, clock)

    async def read(self, key: Key, job: api.TorchrunJob, memory: Memory) -> Facts:
        """Return the facts of a job. Raises ClusterError if the API server could not be read."""
        # The rendezvous state is read first: every address in it then belongs to a pod in the list, or to one that has
        # gone.
        state, hearing = self._links.state(key), self._links.hearing(key)
        pods = await self._cluster.list_pods(*key)
        machines = await self._cluster.list_machines(names(pods))
        digest = self._links.token_digest(job.metadata.uid)
        facts = gather(job, self._clock(), pods, state, token_digest=digest, machines=machines, hearing=hearing)
        facts, memory.sightings = sighted(facts, memory.sightings)
        facts = with_static_round(facts)
        if memory.attempt is not None:  # newer than the status
            attempt = memory.attempt
            refused = frozenset(name for kind, name in attempt.refused if kind == "Pod")
            facts = replace(facts, refusal=attempt.refusal, refused=refused, name_taken=attempt.name_taken)
        facts = await self._listener.listen(facts, memory.hearings)
        wanted = logs_to_read(facts)
        return replace(facts, said=await self._said(key, facts, wanted)) if wanted else facts

    async def _said(self, key: Key, facts: Facts, wanted: Sequence[Log]) -> dict[str, Words]:
        """Return what the failed workers logged, by pod. Skips a log that cannot be read: nothing depends on it."""
        seconds = _new_seconds(facts)
        found = await asyncio.gather(*[self._words(key[0], facts, log, seconds) for log in wanted])
        return {log.pod: words for log, words in zip(wanted, found, strict=True) if words is not None}

    async def _words(self, namespace: str, facts: Facts, log: Log, seconds: int | None) -> Words | None:
        per_node = facts.job.spec.nproc_per_node
        workers = per_node if isinstance(per_node, int) else None
        async with self._logs.of(namespace):  # the text goes before the next one comes
            try:
                text = await self._cluster.read_log(namespace, log.pod, log.container, None if log.ended else seconds)
            except ClusterError as error:
                logger.warning("cannot read the log of container %s of pod %s: %s", log.container, log.pod, error)
                return None
            return of_log(text, ended=log.ended, workers=workers)


def _new_seconds(facts: Facts) -> int | None:
    """Return how many seconds of the logs are about the newest failure of workers. None: all of them."""
    since, last = failing_since(facts), facts.job.status.last_failure
    if last is None or since is None:
        return None
    newer = int((facts.now - last.time).total_seconds()) - 1
    recent = int((facts.now - since + _LEAVING).total_seconds())
    return min(newer, recent) if newer > 0 else recent
