"""Waits until a job is as wished."""

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.follow import Feed
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.show.pace import condition, has_ended

Test = Callable[[dict[str, Any]], bool]
DELETED: Final = "deleted"
OUTPUTS_UPLOADED: Final = "OutputsUploaded"


class Wish(NamedTuple):
    """What one waits for."""

    words: str
    """For people."""
    test: Test
    """Whether the job is as wished."""
    over: Test = has_ended
    """Whether the job cannot become so any more, if it is not."""
    reason: str = ""
    """The condition that says why it did not. Empty: the end of the job."""


def wish_of(wish: str) -> Wish:
    """Read `--for`. Raises CliError if there is no such wish."""
    kind, _, rest = wish.partition("=")
    if wish == DELETED:
        return Wish("the end of the job", lambda _: False)
    if wish in ("complete", "running", "suspended"):
        kind, rest = "condition", wish.capitalize()
    if kind != "condition" or not rest:
        words = "write condition=TYPE, condition=TYPE=STATUS, complete, running, suspended or deleted"
        raise CliError(f"--for={wish} is not known: {words}", Exit.USAGE)
    type_, _, status = rest.partition("=")
    status = (status or "True").capitalize()
    # The upload begins when the job has ended.
    uploads = type_.lower() == OUTPUTS_UPLOADED.lower()
    over, reason = (has_uploaded, OUTPUTS_UPLOADED) if uploads else (has_ended, "")
    return Wish(f"condition {type_}={status}", lambda job: _has(job, type_, status), over, reason)


def _has(job: dict[str, Any], type_: str, status: str) -> bool:
    """Whether the condition is so, for the spec as it is now. Its name may be in small letters."""
    conditions = (job.get("status") or {}).get("conditions") or ()
    found: dict[str, Any] = next((each for each in conditions if each.get("type", "").lower() == type_.lower()), {})
    current = found.get("observedGeneration", 0) >= (job["metadata"].get("generation") or 0)
    if found.get("type") == "Suspended" and status == "True" and found.get("reason") != "Suspended":
        return False  # its pods still end
    return bool(found.get("status") == status and (current or has_ended(job)))


def wait_for(
    client: Client,
    name: str,
    wish: Wish,
    *,
    seconds: float | None = None,
    absence: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Wait until a job is as wished, or with ``absence`` until it is gone, and return it as it was last.

    Raises CliError with exit code 124 when the time is over, 3 if there is no such job, and 1 if the job ended and so
    will not become so any more.
    """
    job = client.find(JOBS, name) if absence else client.get(JOBS, name)
    if job is None:
        return {}
    until = clock() + seconds if seconds is not None else None
    uid = job["metadata"]["uid"]
    feed = Feed(client, JOBS, client.namespace, fields=f"metadata.name={name}", until=until, clock=clock)
    feed.expect(job)
    if not absence and decided(job, name, wish):
        return job
    for change in feed.changes():
        gone = change.deleted or change.object["metadata"]["uid"] != uid
        if gone and absence:
            return job
        if gone:
            raise CliError(f"{name} was deleted", Exit.NOT_FOUND)
        job = change.object
        if not absence and decided(job, name, wish):
            return job
    raise CliError(f"timed out after {seconds:g} s waiting for {wish.words} of {name}: {_state(job)}", Exit.TIMEOUT)


def has_uploaded(job: dict[str, Any]) -> bool:
    """Whether a job has ended, and no output is still to be uploaded."""
    outputs = (job.get("status") or {}).get("outputs") or ()
    return has_ended(job) and all(output.get("state") not in ("Waiting", "Uploading") for output in outputs)


def decided(job: dict[str, Any], name: str, wish: Wish) -> bool:
    """Whether a job is as wished. Raises CliError if it has ended and is not."""
    if wish.test(job):
        return True
    if wish.over(job):
        raise CliError(f"{name} ended without {wish.words}: {_end(job, wish.reason)}")
    return False


def _end(job: dict[str, Any], reason: str) -> str:
    told = condition(job, reason)
    if told:
        return f"{told.get('reason')}: {told.get('message')}"
    kind = "Failed" if condition(job, "Failed").get("status") == "True" else "Complete"
    found = condition(job, kind)
    return f"{kind} ({found.get('reason')}): {found.get('message')}"


def _state(job: dict[str, Any]) -> str:
    status = job.get("status") or {}
    message = status.get("message")
    return f"it is {status.get('state') or 'Pending'}" + (f": {message}" if message else "")
