"""Loads a manifest: template, values, YAML, local files. The result is the object for the API server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.template.bounded import Rendered, render, used_names
from torchrun_cli.template.local import MOST_BYTES, read_local
from torchrun_cli.template.reading import Document, Origin, read_yaml
from torchrun_cli.template.values import Setting, merge, split_defaults

MOST_MANIFEST_BYTES: Final = 3 * 2**20
"""Of a manifest as the user writes it. etcd takes 1.5 MiB of an object."""


@dataclass(frozen=True)
class Source:
    """A manifest before it is rendered."""

    text: str
    name: str
    """For messages: a path, `sample:NAME` or `stdin`."""
    directory: Path | None
    """Where local files are. None: the user named no directory."""


@dataclass(frozen=True)
class Naming:
    """A name that the user gives to the job, instead of that of the manifest."""

    name: str | None = None
    generate_name: str | None = None


@dataclass(frozen=True)
class Manifest:
    """A job, as the API server takes it, and where its fields are written."""

    job: dict[str, Any]
    document: Document
    notes: list[str] = field(default_factory=list)
    """What the user should know, although it is no error."""

    def line(self, path: str) -> int:
        """Return the line of a field in the file of the user."""
        return self.document.line(path)


def load(source: Source, settings: Sequence[Setting] = (), naming: Naming = Naming()) -> Manifest:
    """Render a manifest, read it, and put local files into it. Raises CliError that names the line."""
    text, defaults = split_defaults(source.text.replace("\r\n", "\n"), source.name)
    values = merge(defaults, settings, lambda: used_names(text, source.name) if _is_template(text) else [])
    rendered = render(text, source.name, values) if _is_template(text) else Rendered(text, ())
    document = _only_document(read_yaml(rendered.text, Origin(source.name, rendered.lines)), source.name)
    job = document.value
    if not isinstance(job, dict):
        raise document.origin.error(
            document.node.start_mark.line + 1, "write a mapping: apiVersion, kind, metadata, spec"
        )
    job.pop("status", None)
    notes = _inline(job, document, source)
    _rename(job, naming)
    return Manifest(job, document, notes)


def _is_template(text: str) -> bool:
    return any(mark in text for mark in ("{{", "{%", "{# "))


def _only_document(documents: list[Document], name: str) -> Document:
    if not documents:
        raise CliError(f"{name}: there is no job; write apiVersion, kind, metadata and spec", Exit.USAGE)
    if len(documents) > 1:
        line = documents[1].node.start_mark.line + 1
        raise documents[1].origin.error(line, "a second document begins here; a manifest has one TorchrunJob")
    return documents[0]


def _rename(job: dict[str, Any], naming: Naming) -> None:
    if not naming.name and not naming.generate_name:
        return
    metadata = job["metadata"] = dict(job.get("metadata") or {})
    metadata.pop("name", None)
    metadata.pop("generateName", None)
    key = "name" if naming.name else "generateName"
    job["metadata"] = {key: naming.name or naming.generate_name, **metadata}


def _inline(job: dict[str, Any], document: Document, source: Source) -> list[str]:
    """Replace `localPath` by `content`, in place. Returns notes."""
    spec = job.get("spec")
    files = spec.get("files") if isinstance(spec, dict) else None
    if not isinstance(files, list):
        return []
    notes: list[str] = []
    for position, file in enumerate(files):
        if isinstance(file, dict) and "localPath" in file:
            content, more = _content(file, f"spec.files[{position}].localPath", document, source)
            files[position] = {key: content if key == "localPath" else value for key, value in file.items()}
            files[position] = {
                "content" if key == "localPath" else key: value for key, value in files[position].items()
            }
            notes += more
    _check_total(files, document)
    return notes


def _content(file: dict[str, Any], path: str, document: Document, source: Source) -> tuple[str, list[str]]:
    where = f"{source.name}:{document.line(path)}: {path}"
    local = file["localPath"]
    if "content" in file:
        raise CliError(f"{where}: write either localPath or content, not both", Exit.USAGE)
    if not isinstance(local, str):
        raise CliError(f"{where}: write the path of a file", Exit.USAGE)
    if source.directory is None:
        raise CliError(f"{where}: name the directory of {local} with --local-dir", Exit.USAGE)
    return read_local(source.directory, local, where)


def _check_total(files: list[Any], document: Document) -> None:
    sizes = {
        str(file.get("path")): len(str(file.get("content", "")).encode("utf-8", "surrogatepass"))
        for file in files
        if isinstance(file, dict)
    }
    if sum(sizes.values()) <= MOST_BYTES:
        return
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    named = ", ".join(f"{path} ({sizes[path] / 1024:,.0f} KiB)" for path in largest)
    words = (
        f"all files together have {sum(sizes.values()) / 1024:,.0f} KiB, more than {MOST_BYTES // 1024} KiB; "
        f"the largest: {named}; put large files into the image or on a volume"
    )
    raise CliError(f"{document.origin.name}:{document.line('spec.files')}: spec.files: {words}", Exit.USAGE)
