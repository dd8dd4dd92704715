"""What is known of jobs without a request: what the watch reported, and what the last write returned.

It may be a moment behind. That is safe: a status is written only over the version that it was decided on. The API
server rejects the write of a pass that saw an old version, and that version is then forgotten.
"""

from torchrun_operator.cluster.port import Key, Manifest


class JobCache:
    """The newest known version of each job, by namespace and name."""

    def __init__(self) -> None:
        self._jobs: dict[Key, Manifest] = {}

    def get(self, key: Key) -> Manifest | None:
        """Return the job, or None if nothing is known of it. The job may exist all the same."""
        return self._jobs.get(key)

    def put(self, key: Key, job: Manifest) -> None:
        """Keep this version unless a newer one is known: events and answers overtake each other."""
        known = self._jobs.get(key)
        if known is None or _version(job) >= _version(known):
            self._jobs[key] = job

    def update(self, key: Key, job: Manifest | None) -> None:
        """Keep this version as put() does, or forget the job if it was deleted (None)."""
        if job is None:
            self.forget(key)
        else:
            self.put(key, job)

    def forget(self, key: Key) -> None:
        """Drop what is known of the job."""
        self._jobs.pop(key, None)

    def clear(self) -> None:
        """Drop what is known of all jobs. The next read of each then finds what a watch has missed."""
        self._jobs.clear()


def _version(job: Manifest) -> int:
    """Return the resource version as a number.

    Those of one resource grow: etcd never gave others, and from 1.35 on
    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions promises it.
    """
    return int(job["metadata"]["resourceVersion"])
