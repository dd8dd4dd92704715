"""The job that a conversion writes, with its comments."""

from collections.abc import Sequence
from typing import Any, Final

from torchrun_cli.convert import marks
from torchrun_cli.convert.emit import Note, Plain, one_line, write
from torchrun_cli.convert.marks import Expression
from torchrun_cli.convert.source import Path
from torchrun_cli.convert.view import View
from torchrun_operator.api.names import API_VERSION, KIND, TRAINER_CONTAINER

TRAINER: Final[Path] = ("spec", "template", "spec", "containers", 0)
"""The path of the trainer container: always the first one."""
POD: Final[Path] = ("spec", "template", "spec")
_SPEC: Final = (
    "nnodes",
    "replicas",
    "nprocPerNode",
    "maxRestarts",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "completionPolicy",
    "managedBy",
    "suspend",
    "rendezvous",
    "inputs",
    "files",
    "snapshots",
    "outputs",
    "lead",
    "template",
)
_CONTAINER: Final = ("name", "image", "imagePullPolicy", "command", "args", "workingDir", "env", "envFrom", "resources")
_POD: Final = ("serviceAccountName", "priorityClassName", "nodeSelector", "affinity", "tolerations")


class Draft:
    """A TorchrunJob under construction."""

    def __init__(self, name: str) -> None:
        self.metadata: dict[str, Any] = {"name": name}
        self.spec: dict[str, Any] = {}
        self.trainer: dict[str, Any] = {"name": TRAINER_CONTAINER}
        self.pod: dict[str, Any] = {}
        self.pod_metadata: dict[str, Any] = {}
        self.others: list[dict[str, Any]] = []
        """Further containers."""
        self.heading: list[str] = []
        """Comments on the whole file."""
        self.notes: list[Note] = []

    def note(self, path: Path, text: str) -> None:
        """Add a comment above the value of that path, or where it would be."""
        self.notes.append((path, text))

    def unknown(self, path: Path, source: View, known: Sequence[str]) -> None:
        """Add comments on the fields of the source that are not known."""
        for key in source.value:
            if key not in known:
                self.note(path, f"{source.name(key)}: {one_line(source.get(key))} is not known, and was left out.")

    def job(self) -> dict[str, Any]:
        """Return the job."""
        pod = {**self.pod, "containers": [_ordered(self.trainer, _CONTAINER), *self.others]}
        template = {"metadata": self.pod_metadata} if self.pod_metadata else {}
        spec = {**self.spec, "template": {**template, "spec": _ordered(pod, _POD)}}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": self.metadata, "spec": _ordered(spec, _SPEC)}

    def text(self, expressions: Sequence[Expression] = (), defaults: dict[str, Any] | None = None) -> str:
        """Return the manifest. `defaults`: the default values of the template that the expressions are from."""
        job = {**self.job(), **({"default-values": defaults} if defaults else {})}
        notes = [(path, marks.readable(text, expressions)) for path, text in self.notes]
        body = write(job, notes)
        heading = [marks.readable(text, expressions) for text in self.heading]
        if marks.marked(body) or marks.is_template(body):
            heading.append("This file is a template: use it with kubectl torchrun submit or render, not kubectl apply.")
        comments = write({"x": None}, [(("x",), text) for text in heading]).removesuffix("x: null\n")
        return marks.finish(comments + body, expressions)


def number(text: str) -> int | str:
    """Return what stands for a number: an int, an expression of the template, or the text as it is."""
    stripped = text.strip()
    if stripped.isdigit():
        return int(stripped)
    return Plain(stripped) if marks.marked(stripped) and ":" not in stripped else stripped


def _ordered(value: dict[str, Any], order: Sequence[str]) -> dict[str, Any]:
    return {key: value[key] for key in (*order, *value) if key in value}
