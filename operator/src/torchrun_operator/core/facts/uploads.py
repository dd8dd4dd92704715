"""Reads the pod that uploads the outputs, and what its program reports. Pure."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torchrun_operator.api.names import ANNOTATION_OUTPUTS_DIGEST, OUTPUT_CONTAINER_PREFIX
from torchrun_operator.core.facts.model import Phase, UploadExit, UploadPod
from torchrun_operator.core.facts.waiting import waiting

_MOST = 2**62


@dataclass(frozen=True)
class Uploaded:
    """What the program reports as it ends."""

    files: int = 0
    bytes: int = 0
    error: str = ""


def upload_pod(pod: Mapping[str, Any], phase: Phase, lost: str) -> UploadPod:
    """Return the pod. ``lost`` says what happened to its Kubernetes node."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    exits = tuple(sorted(_exits(status), key=lambda each: each.position))
    return UploadPod(
        name=metadata["name"],
        uid=metadata["uid"],
        phase=Phase.LOST if lost and phase not in (Phase.SUCCEEDED, Phase.FAILED) else phase,
        digest=str((metadata.get("annotations") or {}).get(ANNOTATION_OUTPUTS_DIGEST, "")),
        exits=exits,
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        trouble=lost,
        wait=waiting(status, _main(status)),
    )


def uploaded(message: str) -> Uploaded | None:
    """Return what the program reports in its termination message. None: it has not written any."""
    try:
        said = json.loads(message)
        return Uploaded(_count(said["files"]), _count(said["bytes"]), str(said.get("error", "")))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _count(value: object) -> int:
    """Return a count that the API server accepts."""
    return min(max(0, int(str(value))), _MOST)


def _exits(status: Mapping[str, Any]) -> Iterator[UploadExit]:
    for container in status.get("containerStatuses") or ():
        position = str(container.get("name") or "").removeprefix(OUTPUT_CONTAINER_PREFIX)
        ended = (container.get("state") or {}).get("terminated")
        if ended and position.isdecimal():
            yield UploadExit(
                int(position),
                int(ended.get("exitCode", 0)),
                str(ended.get("reason") or ""),
                str(ended.get("message") or "").strip(),
            )


def _main(status: Mapping[str, Any]) -> str:
    """Return a container that has started, if there is one: then the pod waits for nothing."""
    started = (
        str(container.get("name") or "")
        for container in status.get("containerStatuses") or ()
        if (container.get("state") or {}).keys() & {"running", "terminated"}
    )
    return next(started, "")
