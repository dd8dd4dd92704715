"""The known jobs: as the watch reported them, and as the last write returned them.

The cache may lag. That is safe: the API server rejects the status of a pass that saw an old version, and the cache then
forgets that version.
"""

from collections.abc import Mapping
from typing import Any

from torchrun_operator.cluster.port import Key, Manifest

_MOST_CHARACTERS = 65536
"""Maximum size of a kept job. A larger one is read for each pass: it may have 1.5 MiB, and there may be any number."""


class JobCache:
    """The newest known version of each job, by namespace and name."""

    def __init__(self) -> None:
        self._jobs: dict[Key, Manifest] = {}

    def get(self, key: Key) -> Manifest | None:
        """Return the job, or None if the cache does not know it. It may exist nevertheless."""
        return self._jobs.get(key)

    def put(self, key: Key, job: Manifest) -> None:
        """Keep this version unless a newer one is known. Events and answers may arrive out of order."""
        known = self._jobs.get(key)
        if known is not None and _version(job) < _version(known):
            return
        metadata = {name: value for name, value in job["metadata"].items() if name != "managedFields"}
        kept = {**job, "metadata": metadata}
        if _size(kept, _MOST_CHARACTERS) <= _MOST_CHARACTERS:
            self._jobs[key] = kept
        else:
            self.forget(key)

    def update(self, key: Key, job: Manifest | None) -> None:
        """Keep this version as put() does, or forget the job if it was deleted (None)."""
        if job is None:
            self.forget(key)
        else:
            self.put(key, job)

    def forget(self, key: Key) -> None:
        """Forget the job."""
        self._jobs.pop(key, None)

    def clear(self, namespace: str) -> None:
        """Forget the jobs of that namespace ("": of all), so that the next read of each job asks the API server."""
        self._jobs = {key: job for key, job in self._jobs.items() if namespace and key[0] != namespace}


def _version(job: Manifest) -> int:
    """Return the resource version as a number.

    The versions of one resource grow. etcd assigns them so, and from Kubernetes 1.35 on
    https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions guarantees it.
    """
    return int(job["metadata"]["resourceVersion"])


def _size(value: Any, most: int) -> int:  # noqa: ANN401 - any JSON value
    """Return about the number of characters of a value, or any number above `most` once it is above."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, Mapping | list):
        return 1
    size = 2
    for inner in value.values() if isinstance(value, Mapping) else value:
        size += 2 + _size(inner, most - size)
        if size > most:
            break
    return size + (sum(map(len, value)) if isinstance(value, Mapping) else 0)
