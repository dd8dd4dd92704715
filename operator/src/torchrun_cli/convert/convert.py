"""Converts a file of any known kind."""

from typing import Final

from torchrun_cli.convert import osmo, pytorchjob, trainjob
from torchrun_cli.convert.source import ConvertError, Document, documents
from torchrun_operator.api.names import API_VERSION, KIND

KINDS: Final = "an OSMO workflow, a PyTorchJob (kubeflow.org/v1) or a TrainJob (trainer.kubeflow.org/v1alpha1)"


def convert(text: str, name: str) -> str:
    """Return the TorchrunJob manifest for the job in a file. `name`: of the file, for errors.

    Raises CliError, with the line, for a file that cannot be converted.
    """
    try:
        return _convert(text.removeprefix("\ufeff").replace("\r\n", "\n"), name)
    except ConvertError as error:
        raise error.named(name) from error


def _convert(text: str, name: str) -> str:
    if osmo.is_workflow(text):
        return osmo.convert(text, name)
    found = documents(text, name)
    if not found:
        raise ConvertError(f"the file is empty; write {KINDS}")
    jobs = [each for each in found if not trainjob.as_runtime(each.value)]
    if not jobs:
        raise ConvertError("the file has a runtime and no TrainJob; add the TrainJob after a line ---", found[0].line)
    job, kind = jobs[0], str(jobs[0].value.get("kind") or "")
    known = _known(job)
    others = jobs[1:] if kind == "TrainJob" else [each for each in found if each is not job]
    if others:
        other = others[0]
        raise ConvertError(
            f"the file has {len(found)} documents, the next a {other.value.get('kind') or 'mapping without kind'}; "
            "convert one job at a time, and keep other objects in files of their own",
            other.line,
        )
    return trainjob.convert(job, [each for each in found if each is not job]) if known else pytorchjob.convert(job)


def _known(job: Document) -> bool:
    """Whether a job is a TrainJob; False for a PyTorchJob. Raises ConvertError for anything else."""
    kind, version = job.value.get("kind"), job.value.get("apiVersion")
    if not kind:
        raise ConvertError(f"kind is missing; write {KINDS}", job.line)
    if (version, kind) == (API_VERSION, KIND):
        raise ConvertError("this is a TorchrunJob already; use it with kubectl torchrun submit", job.line_of(("kind",)))
    versions = {"PyTorchJob": "kubeflow.org/v1", "TrainJob": "trainer.kubeflow.org/v1alpha1"}
    if kind not in versions:
        raise ConvertError(f"kind {kind} cannot be converted; convert reads {KINDS}", job.line_of(("kind",)))
    if version != versions[kind]:
        raise ConvertError(
            f"apiVersion {version or 'is missing'}: a {kind} can be read as {versions[kind]}; write that apiVersion",
            job.line_of(("apiVersion",)),
        )
    return bool(kind == "TrainJob")
