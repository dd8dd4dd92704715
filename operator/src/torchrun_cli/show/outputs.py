"""The outputs of a job: what they are, how far their upload is, and where a download puts them."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from posixpath import basename
from typing import Any, Final

from torchrun_cli.show.pace import condition
from torchrun_cli.show.style import PLAIN, Paint, cleaned
from torchrun_cli.show.table import table
from torchrun_cli.show.times import age, duration, moment

_TITLES: Final = ("PATH", "URL", "WHEN", "STATE", "FILES", "SIZE", "MESSAGE")
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
CONDITION: Final = "OutputsUploaded"


def outputs_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each output of the spec, with what the status says about it."""
    said = {(each.get("path"), each.get("url")): each for each in (job.get("status") or {}).get("outputs") or ()}
    found = []
    for each in (job.get("spec") or {}).get("outputs") or ():
        known = said.get((each.get("path"), each.get("url")), {})
        found.append({"when": "Success", "state": "Waiting", **each, **known})
    return found


def outputs_document(job: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs for programs: each output, the condition, and how often the upload was interrupted."""
    upload = (job.get("status") or {}).get("upload") or {}
    return {
        "job": job["metadata"]["name"],
        "namespace": job["metadata"].get("namespace"),
        "condition": condition(job, CONDITION) or None,
        "interrupted": upload.get("interrupted", 0),
        "retryTime": upload.get("retryTime"),
        "outputs": outputs_of(job),
    }


def output_table(job: dict[str, Any], now: datetime, *, paint: Paint = PLAIN, width: int | None = None) -> list[str]:
    """Return the lines of the table of outputs, and below it what the upload as a whole says."""
    rows = [
        [
            each["path"],
            each["url"],
            each["when"] + (f" {each['seconds']}s" if each.get("seconds") else ""),
            paint.state(each["state"]),
            str(each.get("files", "-")),
            size_words(each.get("bytes")),
            each.get("message") or "-",
        ]
        for each in cleaned(outputs_of(job))
    ]
    return [*table(_TITLES, rows, paint=paint, width=width), *_whole(cleaned(job), now, paint)]


def _whole(job: dict[str, Any], now: datetime, paint: Paint) -> list[str]:
    found, upload = condition(job, CONDITION), (job.get("status") or {}).get("upload") or {}
    lines = []
    if found:
        since = age(found.get("lastTransitionTime"), now)
        colour = paint.good if found.get("status") == "True" else paint.warn
        lines.append(f"{colour(found.get('reason', ''))} for {since}: {found.get('message', '')}")
    if upload.get("interrupted"):
        again = moment(upload.get("retryTime"))
        wait = (
            f"; the next attempt starts in {duration((again - now).total_seconds())}" if again and again > now else ""
        )
        lines.append(f"The upload was interrupted {upload['interrupted']} times{wait}.")
    return ["", *lines] if lines else []


def size_words(count: int | None) -> str:
    """Return a number of bytes for people; `-` if it is unknown."""
    if count is None:
        return "-"
    size = float(count)
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")


def directory_names(outputs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the directory of each output below that of a download: the last part of its path, and unique."""
    names = [basename(each["path"].rstrip("/")) or "output" for each in outputs]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name}-{position}" for position, name in enumerate(names)]


def by_hand(url: str, directory: str) -> str:
    """Return what to run to copy an output without this program."""
    scheme = url.partition("://")[0]
    if scheme == "s3":
        return f"aws s3 cp --recursive {url.rstrip('/')}/ {directory}"
    if scheme in ("gs", "gcs"):
        return f"gcloud storage cp --recursive gs://{url.partition('://')[2].rstrip('/')}/* {directory}"
    if scheme in ("az", "abfs", "abfss"):
        return f"azcopy copy --recursive (the https address of {url}) {directory}"
    return f"a pod that mounts the volume of {url}, and kubectl cp"
