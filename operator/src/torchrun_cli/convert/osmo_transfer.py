"""Inputs, outputs and continuous uploads of an OSMO task."""

import re
from collections.abc import Iterator
from typing import Any, Final

from torchrun_cli.convert import fields, marks
from torchrun_cli.convert.draft import Draft
from torchrun_cli.convert.emit import one_line
from torchrun_cli.convert.marks import Expression
from torchrun_cli.convert.osmo_nodes import OUTPUT_DIRECTORY, Texts, input_directory
from torchrun_cli.convert.osmo_tasks import Task
from torchrun_cli.convert.view import View

_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE: Final = "10Gi"
_LEAST_SECONDS, _MOST_SECONDS = 5, 86400
_SCHEMES: Final = ("s3", "gs", "gcs", "az", "abfs", "abfss", "pvc", "nfs")
_ENDING: Final = re.compile(r"\^?\.\*\\?\.(\w+)\$?")
_INPUTS, _OUTPUTS, _SNAPSHOTS = ("spec", "inputs"), ("spec", "outputs"), ("spec", "snapshots")


def seconds(text: str) -> int | None:
    """Return the seconds of a time such as 30m. None: it cannot be read."""
    match = re.fullmatch(r"\s*(\d+)\s*([smhd]?)\s*", text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


def inputs(draft: Draft, task: Task, texts: Texts) -> None:
    """Write what is fetched before the start. The token input:N names the directory of the N-th."""
    for index, each in enumerate(task.source.items("inputs")):
        directory, title = input_directory(index), f"inputs[{index}]"
        if not each.has("url"):
            words = f"{one_line(each.value)} has no counterpart: write its url. The command reads it at {directory}"
            draft.note(_INPUTS, f"{title}: {words}.")
            continue
        url = texts.plain(each.text("url"))
        if each.has("regex"):
            words = f"regex: {each.text('regex')} has no counterpart: everything below the url is fetched"
            draft.note(_INPUTS, f"{title}: {words}.")
        if not fields.TRANSFER:
            draft.note(_INPUTS, f"{title}: fetch {url} to {directory} in an init container, on a volume.")
        elif _known_scheme(draft, _INPUTS, title, url):
            draft.spec.setdefault("inputs", []).append({"url": url, "path": directory})
            if _is_own(task, each.text("url")):
                words = "comes from the uploads of an earlier run. Without files there, the job does not start"
                draft.note(_INPUTS, f"{title} {words}: remove it for the first run.")


def _is_own(task: Task, url: str) -> bool:
    """Whether a URL is at or below one that the task uploads to."""
    uploads = [each.text("url").rstrip("/") for key in ("outputs", "checkpoint") for each in task.source.items(key)]
    return any(f"{url}/".startswith(f"{upload}/") for upload in uploads if upload)


def outputs(draft: Draft, task: Task, texts: Texts, expressions: tuple[Expression, ...], storage: Any) -> None:  # noqa: ANN401
    """Write what is uploaded, and the volume that it lies on. `storage`: the size of the disk that the task had."""
    found = [*_outputs(draft, task, texts), *_checkpoints(draft, task, texts, expressions)]
    written = _names_output(draft)
    if not found and not written:
        return
    directory = _directory(draft, found)
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": storage or _SIZE}}}
    draft.spec["snapshots"] = {"mountPath": directory, "volumeClaimTemplate": {"spec": claim}}
    draft.note(
        _SNAPSHOTS,
        f"One volume for all nodes at {directory}, in place of a disk for each task: check its size, and that the "
        "storage class offers ReadWriteMany.",
    )
    if written and directory != OUTPUT_DIRECTORY:
        draft.pod.setdefault("volumes", []).append({"name": "outputs", "emptyDir": {}})
        draft.trainer.setdefault("volumeMounts", []).append({"name": "outputs", "mountPath": OUTPUT_DIRECTORY})
    for entry in found:
        _upload(draft, entry, directory)
    if draft.spec.get("outputs"):
        draft.note(_OUTPUTS, "If the storage needs credentials, add secretRef: (name: SECRET) to each output.")


def _upload(draft: Draft, entry: dict[str, Any], directory: str) -> None:
    """Write one output, or what to do where that is not possible."""
    done = draft.spec.get("outputs", [])
    if not fields.TRANSFER:
        when = f"every {entry['seconds']} s" if "seconds" in entry else "at the end"
        draft.note(_OUTPUTS, f"{entry['path']} was uploaded to {entry['url']} {when}: copy it from the volume.")
    elif not f"{entry['path']}/".startswith(f"{directory}/"):
        words = f"is not on the volume at {directory}: let the script write below it, and add an output"
        draft.note(_OUTPUTS, f"{entry['path']} {words}: {one_line(entry)}.")
    elif entry["url"] in [each["url"] for each in done]:
        draft.note(_OUTPUTS, f"Two uploads had the url {entry['url']}: add another url for {one_line(entry)}.")
    elif _known_scheme(draft, _OUTPUTS, entry["path"], entry["url"]):
        draft.spec.setdefault("outputs", []).append(entry)


def _known_scheme(draft: Draft, path: tuple[str, ...], title: str, url: str) -> bool:
    """Whether the scheme of a URL can be transferred, as far as it can be read. Otherwise a comment says what to do."""
    scheme, separator, _ = url.partition("://")
    if (separator and scheme in _SCHEMES) or marks.marked(scheme):
        return True
    draft.note(path, f"{title}: the url {url} has no counterpart: write one with {', '.join(_SCHEMES)}.")
    return False


def _outputs(draft: Draft, task: Task, texts: Texts) -> Iterator[dict[str, Any]]:
    for index, each in enumerate(task.source.items("outputs")):
        include = _include(draft, f"outputs[{index}]", each)
        if each.has("url"):
            yield {"path": OUTPUT_DIRECTORY, "url": texts.plain(each.text("url")), "when": "Success", **include}
        elif each.has("dataset"):
            dataset = each.mapping("dataset")
            below = dataset.text("path").strip("/")
            directory = f"{OUTPUT_DIRECTORY}/{below}" if below else OUTPUT_DIRECTORY
            words = f"the dataset {dataset.text('name')} has no counterpart: write an output with path: {directory}"
            more = f", include: {one_line(include['include'])}" if include else ""
            draft.note(_OUTPUTS, f"outputs[{index}]: {words}{more}, and a url.")
        else:
            draft.note(
                _OUTPUTS, f"outputs[{index}]: {one_line(each.value)} has no counterpart: write an output with a url."
            )


def _checkpoints(
    draft: Draft, task: Task, texts: Texts, expressions: tuple[Expression, ...]
) -> Iterator[dict[str, Any]]:
    for index, each in enumerate(task.source.items("checkpoint")):
        title = f"checkpoint[{index}]"
        include = _include(draft, title, each)
        written = each.required("frequency", "a time such as 10m")
        every = seconds(marks.values(written, expressions))
        if every is None:
            raise each.error(f"{each.name('frequency')}: {written!r} is no time; write one such as 10m", "frequency")
        if marks.marked(written):
            draft.note(_OUTPUTS, f"{title}: the frequency was an expression of the template; it is fixed at {every} s.")
        path = texts.plain(each.required("path", "the directory to upload")).rstrip("/") or "/"
        pause = min(max(every, _LEAST_SECONDS), _MOST_SECONDS)
        if pause != every:
            draft.note(_OUTPUTS, f"{title}: the frequency {every} s became {pause} s.")
        url = texts.plain(each.required("url", "s3://..."))
        yield {"path": path, "url": url, "when": "Periodic", "seconds": pause, **include}


def _directory(draft: Draft, found: list[dict[str, Any]]) -> str:
    """Return where the volume is mounted: what is uploaded lies there, if that is one directory without other files."""
    paths = list(dict.fromkeys(entry["path"] for entry in found))
    files = [file["path"] for file in draft.spec.get("files", [])]
    alone = len(paths) == 1 and paths[0] != "/" and not any(file.startswith(f"{paths[0]}/") for file in files)
    return str(paths[0]) if alone else OUTPUT_DIRECTORY


def _names_output(draft: Draft) -> bool:
    """Whether a command or script writes below the directory of outputs."""
    texts = [*draft.trainer.get("command", []), *(file.get("content", "") for file in draft.spec.get("files", []))]
    return any(OUTPUT_DIRECTORY in text for text in texts)


def _include(draft: Draft, title: str, source: View) -> dict[str, list[str]]:
    """Return the patterns of a regular expression that names an ending. Others become a comment."""
    if not source.has("regex"):
        return {}
    regex = source.text("regex")
    if match := _ENDING.fullmatch(regex):
        return {"include": [f"*.{match[1]}"]}
    words = f"regex: {regex} has no counterpart: write include, a list of patterns such as *.pth"
    draft.note(_OUTPUTS, f"{title}: {words}.")
    return {}
