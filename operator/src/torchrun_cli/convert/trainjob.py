"""TrainJob (trainer.kubeflow.org/v1alpha1) to TorchrunJob, with the defaults of its runtime, if the file has it."""

import copy
from collections.abc import Sequence
from typing import Any, Final

from torchrun_cli.convert import commands, fields, launch, pods
from torchrun_cli.convert.draft import Draft
from torchrun_cli.convert.emit import one_line
from torchrun_cli.convert.source import Document
from torchrun_cli.convert.view import View, text_of

RUNTIMES: Final = ("ClusterTrainingRuntime", "TrainingRuntime")
_STEP: Final = "trainer.kubeflow.org/trainjob-ancestor-step"
_CONTAINERS: Final = ("node", "trainer")
_JOBS: Final = ("node", "trainer-node")
_SPEC: Final = (
    "runtimeRef",
    "trainer",
    "initializer",
    "suspend",
    "activeDeadlineSeconds",
    "managedBy",
    "labels",
    "annotations",
)
_MANAGER: Final = "trainer.kubeflow.org/trainjob-controller"
_WITHOUT: Final = {
    "podTemplateOverrides": "write what it changes into spec.template",
    "podSpecOverrides": "write what it changes into spec.template",
}
_TRAINER: Final = ("image", "command", "args", "env", "numNodes", "numProcPerNode", "resourcesPerNode")
_DIRECTORIES: Final = {"dataset": "/workspace/dataset", "model": "/workspace/model"}


def convert(document: Document, runtimes: Sequence[Document]) -> str:
    """Return the manifest. Raises ConvertError."""
    source = View.of(document)
    meta = source.required_mapping("metadata", "metadata: {name: my-job}")
    draft = Draft(meta.required("name", "the name of the job"))
    pods.metadata(draft, meta)
    draft.heading.append(f"Converted from the TrainJob {draft.metadata['name']} by kubectl torchrun convert.")
    spec = source.required_mapping("spec", "the spec of the job")
    runtime = _runtime(spec, runtimes)
    trainer = spec.mapping("trainer")
    policy, job = _policy(runtime), _node_job(runtime)
    _template(draft, job, spec, trainer)
    _sizes(draft, policy, trainer)
    _command(draft, trainer)
    _rest(draft, spec)
    _initializer(draft, spec.mapping("initializer"))
    _runtime_rest(draft, runtime, job)
    return draft.text()


def _runtime(spec: View, runtimes: Sequence[Document]) -> View | None:
    reference = spec.required_mapping("runtimeRef", "runtimeRef: {name: torch-distributed}")
    name, kind = reference.required("name", "the name of the runtime"), reference.text("kind", RUNTIMES[0])
    for document in runtimes:
        runtime = View.of(document)
        if runtime.text("kind") == kind and runtime.mapping("metadata").text("name") == name:
            return runtime.required_mapping("spec", "the spec of the runtime")
    if not spec.mapping("trainer").has("image"):
        raise reference.error(
            f"{reference.name('name')}: the {kind} {name} has the image, and it is not in the file; write "
            f"spec.trainer.image, or add the runtime after a line ---: kubectl get {kind.lower()} {name} -o yaml",
            "name",
        )
    return None


def _policy(runtime: View | None) -> View | None:
    return runtime.mapping("mlPolicy") if runtime else None


def _node_job(runtime: View | None) -> View | None:
    """Return the job of the runtime that trains."""
    if runtime is None:
        return None
    jobs = [*runtime.mapping("template").mapping("spec").items("replicatedJobs")]
    for job in jobs:
        labels = job.mapping("template").mapping("metadata").mapping("labels")
        if labels.text(_STEP) == "trainer" or job.text("name") in _JOBS:
            return job
    raise runtime.error(f"{runtime.name('template')} has no job with the label {_STEP}: trainer", "template")


def _template(draft: Draft, job: View | None, spec: View, trainer: View) -> None:
    """Write the pod template: that of the runtime, with what the job says on top."""
    if job is not None:
        container = pods.template(draft, job.mapping("template").mapping("spec").mapping("template"), _CONTAINERS)
        for key in ("command", "args"):
            if container.get(key):
                draft.trainer[key] = [text_of(each) for each in container[key]]
    else:
        name = spec.mapping("runtimeRef").text("name")
        draft.note(
            ("spec", "template"),
            f"The runtime {name} was not in the file. What it adds to the pods, such as volumes, is missing here.",
        )
    if trainer.has("image"):
        draft.trainer["image"] = trainer.text("image")
    if trainer.has("resourcesPerNode"):
        draft.trainer["resources"] = copy.deepcopy(trainer.mapping("resourcesPerNode").value)
    variables = [*trainer.items("env")]
    if variables:
        names = {each.text("name") for each in variables}
        kept = [each for each in draft.trainer.get("env", []) if each.get("name") not in names]
        draft.trainer["env"] = [*kept, *pods.environment(draft, [each.value for each in variables])]
    for kind in ("labels", "annotations"):
        if spec.has(kind):
            draft.pod_metadata[kind] = {**draft.pod_metadata.get(kind, {}), **spec.mapping(kind).value}
    for patch in spec.items("runtimePatches"):
        _patch(draft, patch)


def _patch(draft: Draft, patch: View) -> None:
    """Apply what a patch says about the pods that train."""
    jobs = patch.mapping("trainingRuntimeSpec").mapping("template").mapping("spec")
    for job in jobs.items("replicatedJobs"):
        path = ("spec", "template")
        if job.text("name") not in _JOBS:
            draft.note(
                path, f"The runtime patch of the job {job.text('name')} was left out: only the nodes are converted."
            )
            continue
        template = job.mapping("template").mapping("spec").mapping("template")
        for kind in ("labels", "annotations"):
            if found := template.mapping("metadata").mapping(kind).value:
                draft.pod_metadata[kind] = {**draft.pod_metadata.get(kind, {}), **found}
        for key, value in template.mapping("spec").value.items():
            if key in ("containers", "initContainers"):
                draft.note(path, f"The runtime patch of {key} was left out; write it here: {one_line(value)}.")
            elif isinstance(value, dict) and isinstance(draft.pod.get(key), dict):
                draft.pod[key] = {**draft.pod[key], **value}
            elif isinstance(value, list) and key != "tolerations":
                draft.pod[key] = [*draft.pod.get(key, []), *value]
            else:
                draft.pod[key] = value


def _sizes(draft: Draft, policy: View | None, trainer: View) -> None:
    nodes = trainer.number("numNodes")
    if nodes is None:
        nodes = policy.number("numNodes") if policy else None
    draft.spec["nnodes"] = 1 if nodes is None else nodes
    torch = policy.mapping("torch") if policy else None
    processes = trainer.text("numProcPerNode") or (torch.text("numProcPerNode") if torch else "") or "auto"
    draft.spec["nprocPerNode"] = int(processes) if processes.isdigit() else processes
    if processes == "auto":
        draft.note(
            ("spec", "nprocPerNode"), "auto is the default of TrainJob: one worker per GPU, or one per CPU without."
        )
    elastic = torch.mapping("elasticPolicy") if torch else None
    if elastic and elastic.value:
        least = elastic.number("minNodes") or draft.spec["nnodes"]
        most = elastic.number("maxNodes") or draft.spec["nnodes"]
        draft.spec["nnodes"] = f"{least}:{most}" if least != most else most
        if (restarts := elastic.number("maxRestarts")) is not None:
            draft.spec["maxRestarts"] = restarts
    other = next((key for key in (policy.value if policy else {}) if key not in ("numNodes", "torch")), None)
    if other:
        launch.make_static(draft, f"The policy {other} of the runtime does not use torchrun.")


def _command(draft: Draft, trainer: View) -> None:
    words = [*draft.trainer.pop("command", []), *draft.trainer.pop("args", [])]
    if trainer.has("command"):
        words = [*trainer.words("command"), *trainer.words("args")]
    elif trainer.has("args"):
        words = [*words[:1], *trainer.words("args")] if words else []
        if not words:
            draft.trainer["args"] = trainer.words("args")
    command, options, changed = launch.to_torchrun(words)
    launch.apply_options(draft, options)
    launch.set_nodes(draft, options)
    if changed:
        launch.note_torchrun(draft)
    if command:
        draft.trainer["command"] = command
    if other := commands.launcher([" ".join(command)]):
        launch.make_static(draft, f"{other} starts the workers.")
    else:
        launch.note_without_torchrun(draft, command)
    launch.note_local_variables(draft, command)


def _rest(draft: Draft, spec: View) -> None:
    if spec.get("suspend"):
        draft.spec["suspend"] = True
    if (seconds := spec.number("activeDeadlineSeconds")) is not None:
        draft.spec["activeDeadlineSeconds"] = seconds
    if (manager := spec.text("managedBy")) not in ("", _MANAGER):
        draft.spec["managedBy"] = manager
    for key, value in spec.value.items():
        if key in _WITHOUT:
            draft.note(("spec", key), f"{key}: {one_line(value)} has no counterpart: {_WITHOUT[key]}.")
    draft.unknown(("spec", "other"), spec, (*_SPEC, *_WITHOUT, "runtimePatches"))
    draft.unknown(("spec", "template"), spec.mapping("trainer"), _TRAINER)


def _initializer(draft: Draft, source: View) -> None:
    """Write the inputs that initializers fetched."""
    for key, value in source.value.items():
        path = ("spec", "inputs")
        step = source.mapping(key)
        url = step.text("storageUri")
        if key not in _DIRECTORIES or not url:
            draft.note(path, f"initializer.{key}: {one_line(value)} has no counterpart.")
            continue
        directory = _DIRECTORIES[key]
        secret = step.mapping("secretRef").text("name")
        if fields.TRANSFER:
            entry = {"url": url, "path": directory, **({"secretRef": {"name": secret}} if secret else {})}
            draft.spec.setdefault("inputs", []).append(entry)
        else:
            draft.note(path, f"initializer.{key} fetched {url} to {directory}: fetch it in an init container.")
        if step.has("env"):
            draft.note(path, f"initializer.{key}.env has no counterpart: {one_line(step.get('env'))}.")


def _runtime_rest(draft: Draft, runtime: View | None, job: View | None) -> None:
    """Comment on what of the runtime was left out."""
    if runtime is None or job is None:
        return
    path = ("spec", "template")
    if runtime.has("podGroupPolicy"):
        words = one_line(runtime.get("podGroupPolicy"))
        draft.note(path, f"podGroupPolicy: {words} has no counterpart: there is no gang scheduling.")
    template = runtime.mapping("template").mapping("spec")
    for other in template.items("replicatedJobs"):
        name = other.text("name")
        if other.path != job.path and not name.endswith("-initializer"):
            draft.note(path, f"The job {name} of the runtime was left out: run it as a Job of its own.")
    for key in template.value:
        if key != "replicatedJobs":
            draft.note(path, f"{key} of the runtime was left out: {one_line(template.get(key))}.")


def as_runtime(value: dict[str, Any]) -> bool:
    """Whether an object is a runtime of TrainJobs."""
    return value.get("kind") in RUNTIMES
