"""Waits for the state of an object, with one watch instead of a command for each look."""

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from support.kubectl import Kubectl, Object
from support.waiting import NotInTimeError

_AGAIN_SECONDS = 10.0
"""Asks the API server after that time without a change, so that the end of a watch costs no more than that."""


def wait_object(
    kubectl: Kubectl, kind: str, name: str, what: str, wanted: Callable[[Object], object], seconds: float
) -> Object:
    """Return the object as soon as `wanted` is true of it. The object must exist.

    Raises NotInTimeError after that many seconds, with the status of the object.
    """
    seen: SimpleQueue[Object] = SimpleQueue()
    deadline = time.monotonic() + seconds
    stream = kubectl.watch_one(kind, name, seen.put)
    try:
        while True:
            found = _newest(seen, min(_AGAIN_SECONDS, deadline - time.monotonic())) or kubectl.get(kind, name)
            assert found is not None, f"{kind} {name} is gone"
            if wanted(found):
                return found
            if time.monotonic() >= deadline:
                raise NotInTimeError(f"not within {seconds:.0f} s: {name}: {what}; last seen: {found.get('status')}")
    finally:
        stream.stop()


def _newest(seen: SimpleQueue[Object], seconds: float) -> Object | None:
    """Return the last of the states that have come, or the first one to come; None if none comes in time."""
    try:
        found = seen.get(timeout=max(0.0, seconds))
        while not seen.empty():
            found = seen.get_nowait()
    except Empty:
        return None
    return found
