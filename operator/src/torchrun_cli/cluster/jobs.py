"""Changes of jobs, and the words about them."""

from typing import Any

from torchrun_cli.cluster.client import Client
from torchrun_cli.cluster.resources import JOBS
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.show.pace import has_ended
from torchrun_operator.api.names import GROUP, SINGULAR


def live_job(client: Client, name: str, verb: str) -> dict[str, Any]:
    """Return a job that has not ended. Raises CliError with exit code 4 if it has, because nothing would follow."""
    job = client.get(JOBS, name)
    if has_ended(job):
        state = (job.get("status") or {}).get("state")
        raise CliError(f"{name} is {state}, so there is nothing to {verb}: submit a new job", Exit.REFUSED)
    if job["metadata"].get("deletionTimestamp"):
        raise CliError(f"{name} is being deleted, so there is nothing to {verb}", Exit.REFUSED)
    return job


def change_spec(client: Client, name: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 values of the spec
    """Set fields of the spec, and return the job. Raises ApiError."""
    return client.patch(JOBS, name, {"spec": fields})


def done(name: str, verb: str) -> str:
    """Return what kubectl says after a change."""
    return f"{SINGULAR}.{GROUP}/{name} {verb}"
