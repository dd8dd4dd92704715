"""What is known of jobs without asking: what the watch told of them, and what the last write answered.

It may be a moment behind. That is safe because a status is written only over the version it was decided on: a pass
that saw an old one is refused, and what it saw is forgotten.
"""

from torchrun_operator.cluster.port import Key, Manifest


class JobCache:
    """The newest known version of each job, by namespace and name."""

    def __init__(self) -> None:
        self._jobs: dict[Key, Manifest] = {}

    def get(self, key: Key) -> Manifest | None:
        """Return the job, or None where nothing is known of it, which does not mean that there is none."""
        return self._jobs.get(key)

    def put(self, key: Key, job: Manifest) -> None:
        """Take what was seen, unless something newer is known: events and answers overtake each other."""
        known = self._jobs.get(key)
        if known is None or _version(job) >= _version(known):
            self._jobs[key] = job

    def forget(self, key: Key) -> None:
        """Know nothing of the job any more."""
        self._jobs.pop(key, None)

    def clear(self) -> None:
        """Know nothing of any job: whatever a watch has missed is then read."""
        self._jobs.clear()


def _version(job: Manifest) -> int:
    """Resource versions of one resource are numbers that grow, as
    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions promises from 1.35 on; etcd never
    gave others.
    """
    return int(job["metadata"]["resourceVersion"])
