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
_INPUTS, _OUTPUTS, _SNAPSHOTS = ("spec", "inputs"), ("spec", "outputs"), ("spec", "snapshots")


def seconds(text: str) -> int | None:
    """Return the seconds of a time such as 30m. None: it cannot be read."""
    match = re.fullmatch(r"\s*(\d+)\s*([smhd]?)\s*", text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


def inputs(draft: Draft, task: Task, texts: Texts) -> None:
    """Write what is fetched before the start. The token input:N names the directory of the N-th."""
    for index, each in enumerate(task.source.items("inputs")):
        directory = input_directory(index)
        if not each.has("url"):
            words = f"{one_line(each.value)} has no counterpart: write its url. The command reads it at {directory}"
            draft.note(_INPUTS, f"inputs[{index}]: {words}.")
            continue
        url = texts.plain(each.text("url"))
        if fields.TRANSFER:
            draft.spec.setdefault("inputs", []).append({"url": url, "path": directory})
        else:
            draft.note(_INPUTS, f"inputs[{index}]: fetch {url} to {directory} in an init container, on a volume.")
        _regex(draft, _INPUTS, f"inputs[{index}]", each)


def outputs(draft: Draft, task: Task, texts: Texts, expressions: tuple[Expression, ...], storage: Any) -> None:  # noqa: ANN401
    """Write what is uploaded, and the volume that it lies on. `storage`: the size of the disk that the task had."""
    found = [*_outputs(draft, task, texts), *_checkpoints(draft, task, texts, expressions)]
    if not found and not _names_output(draft):
        return
    directory = _directory(found)
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": storage or _SIZE}}}
    draft.spec["snapshots"] = {"mountPath": directory, "volumeClaimTemplate": {"spec": claim}}
    draft.note(
        _SNAPSHOTS,
        f"One volume for all nodes at {directory}, in place of a disk for each task: check its size, and that the "
        "storage class offers ReadWriteMany.",
    )
    for entry in found:
        if not f"{entry['path']}/".startswith(f"{directory}/"):
            draft.note(_OUTPUTS, f"{entry['path']} is not on the volume at {directory}: let the script write below it.")
    if fields.TRANSFER and found:
        draft.spec["outputs"] = found
        draft.note(_OUTPUTS, "If the storage needs credentials, add secretRef: (name: SECRET) to each output.")
    for entry in found if not fields.TRANSFER else []:
        when = f"every {entry['seconds']} s" if "seconds" in entry else "at the end"
        draft.note(_OUTPUTS, f"{entry['path']} was uploaded to {entry['url']} {when}: copy it from the volume.")


def _outputs(draft: Draft, task: Task, texts: Texts) -> Iterator[dict[str, Any]]:
    for index, each in enumerate(task.source.items("outputs")):
        _regex(draft, _OUTPUTS, f"outputs[{index}]", each)
        if each.has("url"):
            yield {"path": OUTPUT_DIRECTORY, "url": texts.plain(each.text("url")), "when": "Success"}
        elif each.has("dataset"):
            dataset = each.mapping("dataset")
            below = dataset.text("path").strip("/")
            directory = f"{OUTPUT_DIRECTORY}/{below}" if below else OUTPUT_DIRECTORY
            words = f"the dataset {dataset.text('name')} has no counterpart: write an output with path: {directory}"
            draft.note(_OUTPUTS, f"outputs[{index}]: {words}, and a url.")
        else:
            draft.note(
                _OUTPUTS, f"outputs[{index}]: {one_line(each.value)} has no counterpart: write an output with a url."
            )


def _checkpoints(
    draft: Draft, task: Task, texts: Texts, expressions: tuple[Expression, ...]
) -> Iterator[dict[str, Any]]:
    for index, each in enumerate(task.source.items("checkpoint")):
        title = f"checkpoint[{index}]"
        _regex(draft, _OUTPUTS, title, each)
        written = each.required("frequency", "a time such as 10m")
        every = seconds(marks.values(written, expressions))
        if every is None:
            raise each.error(f"{each.name('frequency')}: {written!r} is no time; write one such as 10m", "frequency")
        if marks.marked(written):
            draft.note(_OUTPUTS, f"{title}: the frequency was an expression of the template; it is fixed at {every} s.")
        path = texts.plain(each.required("path", "the directory to upload")).rstrip("/") or "/"
        yield {"path": path, "url": texts.plain(each.required("url", "s3://...")), "when": "Periodic", "seconds": every}


def _directory(found: list[dict[str, Any]]) -> str:
    """Return where the volume is mounted: below it lies what is uploaded, if that is one directory."""
    paths = list(dict.fromkeys(entry["path"] for entry in found))
    return str(paths[0]) if len(paths) == 1 and paths[0].count("/") >= 1 and paths[0] != "/" else OUTPUT_DIRECTORY


def _names_output(draft: Draft) -> bool:
    """Whether a command or script writes below the directory of outputs."""
    texts = [*draft.trainer.get("command", []), *(file.get("content", "") for file in draft.spec.get("files", []))]
    return any(OUTPUT_DIRECTORY in text for text in texts)


def _regex(draft: Draft, path: tuple[str, ...], title: str, source: View) -> None:
    if source.has("regex"):
        words = f"regex: {source.text('regex')} has no counterpart: write include, a list of patterns such as *.pth"
        draft.note(path, f"{title}: {words}.")
