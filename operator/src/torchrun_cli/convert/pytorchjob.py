"""PyTorchJob (kubeflow.org/v1) to TorchrunJob."""

import re
from typing import Any, Final

from torchrun_cli.convert import commands, launch, pods
from torchrun_cli.convert.draft import Draft
from torchrun_cli.convert.emit import one_line
from torchrun_cli.convert.merge import merge
from torchrun_cli.convert.source import Document
from torchrun_cli.convert.view import View, text_of

_INDEX: Final = "TORCHRUN_NODE_INDEX"
_UNKNOWN: Final = (
    "This command does not name torchrun. A static job gives it the variables that a PyTorchJob gave. To make the job "
    "elastic, let the command start torchrun, and remove the backend."
)
_BY_IMAGE: Final = (
    "The image chooses the command. A static job gives it the variables that a PyTorchJob gave. To make the job "
    "elastic, write a command that starts torchrun, and remove the backend."
)
_RANK: Final = re.compile(r"\$(?:RANK\b|([{(])RANK([)}]))")
_CONTAINER: Final = ("pytorch",)
_RUN_POLICY: Final = {
    "cleanPodPolicy": "pods that run at the end are stopped, and finished pods stay until the job is deleted",
}
_MANAGER: Final = "kubeflow.org/training-operator"
_RUN_POLICY_FIELDS: Final = (
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
    "managedBy",
    "backoffLimit",
    "suspend",
    "schedulingPolicy",
)
_ELASTIC: Final = (
    "minReplicas",
    "maxReplicas",
    "rdzvBackend",
    "rdzvPort",
    "rdzvHost",
    "rdzvId",
    "rdzvConf",
    "standalone",
    "nProcPerNode",
    "maxRestarts",
    "metrics",
)
_SCHEDULING: Final = {
    "minAvailable": "the job starts with MIN nodes of spec.nnodes, and there is no gang scheduling",
    "queue": "write the label that your queueing system reads into metadata.labels",
    "minResources": "write requests into the resources of the container",
    "scheduleTimeoutSeconds": "spec.activeDeadlineSeconds limits the whole time of the job, waiting included",
}


def convert(document: Document) -> str:
    """Return the manifest. Raises ConvertError."""
    source = View.of(document)
    meta = source.required_mapping("metadata", "metadata: {name: my-job}")
    draft = Draft(meta.required("name", "the name of the job"))
    pods.metadata(draft, meta)
    draft.heading.append(f"Converted from the PyTorchJob {draft.metadata['name']} by kubectl torchrun convert.")
    spec = source.required_mapping("spec", "the spec of the job")
    master, worker = _replicas(spec)
    _sizes(draft, spec, master, worker)
    _elastic(draft, spec.mapping("elasticPolicy"))
    _run_policy(draft, spec.mapping("runPolicy"))
    _nodes(draft, master, worker, elastic=spec.has("elasticPolicy"))
    draft.unknown(("spec", "other"), spec, ("pytorchReplicaSpecs", "elasticPolicy", "runPolicy", "nprocPerNode"))
    draft.unknown(("spec", "rendezvous"), spec.mapping("elasticPolicy"), _ELASTIC)
    draft.unknown(("spec", "other"), spec.mapping("runPolicy"), (*_RUN_POLICY, *_RUN_POLICY_FIELDS))
    for replica in (master, worker):
        if replica is not None:
            draft.unknown(("spec", "template"), replica, ("replicas", "template", "restartPolicy"))
    return draft.text()


def _replicas(spec: View) -> tuple[View | None, View | None]:
    replicas = spec.required_mapping("pytorchReplicaSpecs", "Master and Worker, each with a template")
    by_name = {key.lower(): replicas.mapping(key) for key in replicas.value}
    unknown = [key for key in replicas.value if key.lower() not in ("master", "worker")]
    if unknown:
        raise replicas.error(f"{replicas.name(unknown[0])} is not known; write Master or Worker", unknown[0])
    if not by_name:
        raise replicas.error(f"{replicas.name()} is empty; write Master and Worker, each with a template")
    for each in by_name.values():
        each.required_mapping("template", "a pod template")
    return by_name.get("master"), by_name.get("worker")


def _count(replica: View | None) -> int:
    if replica is None:
        return 0
    found = replica.number("replicas")
    return 1 if found is None else found


def _sizes(draft: Draft, spec: View, master: View | None, worker: View | None) -> None:
    policy, always = spec.mapping("elasticPolicy"), _count(master)
    total = max(1, always + _count(worker))
    draft.spec["nnodes"] = total
    if policy.value:
        least, most = policy.number("minReplicas"), policy.number("maxReplicas")
        least = _count(worker) if least is None and most is None else most if least is None else least
        most = least if most is None else most
        assert least is not None
        assert most is not None
        low, high = max(1, always + least), max(1, always + most)
        draft.spec["nnodes"] = f"{low}:{high}" if low != high else high
        if low <= total < high:
            draft.spec["replicas"] = total
        if master is not None:
            draft.note(("spec", "nnodes"), "The Master is one of the nodes: it counts in addition to the Workers.")
    processes = spec.text("nprocPerNode") or policy.text("nProcPerNode")
    if processes:
        draft.spec["nprocPerNode"] = int(processes) if processes.isdigit() else processes


def _elastic(draft: Draft, policy: View) -> None:
    if (restarts := policy.number("maxRestarts")) is not None:
        draft.spec["maxRestarts"] = restarts
    if (port := policy.number("rdzvPort")) is not None:
        launch.rendezvous(draft)["port"] = port
    launch.conf(draft, [(each.text("key"), each.text("value")) for each in policy.items("rdzvConf")])
    path = ("spec", "rendezvous")
    if policy.text("rdzvBackend", "c10d") != "c10d":
        draft.note(path, f"rdzvBackend: {policy.text('rdzvBackend')} has no counterpart: the job uses c10d.")
    if policy.has("rdzvHost"):
        draft.note(path, f"rdzvHost: {policy.text('rdzvHost')} has no counterpart: the store has a pod of its own.")
    if policy.has("rdzvId"):
        draft.note(path, f"rdzvId: {policy.text('rdzvId')} has no counterpart: the operator chooses the id.")
    if policy.get("standalone"):
        draft.note(path, "standalone has no counterpart: the nodes train together. For one node, write nnodes: 1.")
    if policy.has("metrics"):
        draft.note(
            ("spec", "replicas"),
            "elasticPolicy.metrics has no counterpart: create a HorizontalPodAutoscaler with these metrics and "
            f"scaleTargetRef: (apiVersion: torchrun.dev/v1alpha1, kind: TorchrunJob, name: {draft.metadata['name']}), "
            "and set spec.replicas.",
        )


def _run_policy(draft: Draft, policy: View) -> None:
    if (seconds := policy.number("activeDeadlineSeconds")) is not None:
        draft.spec["activeDeadlineSeconds"] = seconds
    if (seconds := policy.number("ttlSecondsAfterFinished")) is not None:
        draft.spec["ttlSecondsAfterFinished"] = seconds
    if (manager := policy.text("managedBy")) not in ("", _MANAGER):
        draft.spec["managedBy"] = manager
    if (limit := policy.number("backoffLimit")) is not None:
        if "maxRestarts" in draft.spec:
            draft.note(
                ("spec", "maxRestarts"), f"runPolicy.backoffLimit: {limit} was left out: maxRestarts counts all."
            )
        else:
            draft.spec["maxRestarts"] = limit
    if policy.get("suspend"):
        draft.spec["suspend"] = True
    for key, words in _RUN_POLICY.items():
        if policy.has(key):
            draft.note(("spec", key), f"runPolicy.{key}: {policy.text(key)} has no counterpart: {words}.")
    scheduling = policy.mapping("schedulingPolicy")
    if scheduling.has("priorityClass"):
        draft.pod["priorityClassName"] = scheduling.text("priorityClass")
    draft.unknown(("spec", "other"), scheduling, (*_SCHEDULING, "priorityClass"))
    for key, words in _SCHEDULING.items():
        if scheduling.has(key):
            value = one_line(scheduling.get(key))
            draft.note(("spec", key), f"schedulingPolicy.{key}: {value} has no counterpart: {words}.")


def _nodes(draft: Draft, master: View | None, worker: View | None, *, elastic: bool) -> None:
    """Write the template of all nodes, and what differs in node 0."""
    usual = worker if worker is not None and _count(worker) else master or worker
    assert usual is not None
    priority = draft.pod.get("priorityClassName")
    trainer = pods.template(draft, usual.mapping("template"), _CONTAINER)
    if priority:
        draft.pod["priorityClassName"] = priority
    for replica in (master, worker):
        if replica is not None and replica.has("restartPolicy"):
            _restart_policy(draft, replica.text("restartPolicy"))
    port = next((each for each in trainer.get("ports") or [] if each.get("name") == "pytorchjob-port"), None)
    if port:
        draft.note(
            ("spec", "rendezvous"), f"pytorchjob-port {port.get('containerPort')} was left out: no node serves it."
        )
    if master is None or worker is None or _count(worker) == 0:
        _command(draft, trainer, None, elastic=elastic)
        return
    scratch = Draft("scratch")
    first = pods.template(scratch, master.mapping("template"), _CONTAINER)
    overrides = pods.lead_of(draft, first, trainer, "The Master")
    overrides |= _command(draft, trainer, first, workers=_count(worker), elastic=elastic)
    for key in dict.fromkeys((*scratch.pod, *draft.pod)):
        if scratch.pod.get(key) != draft.pod.get(key) and key != "priorityClassName":
            draft.note(
                ("spec", "template", "spec", key), f"The Master had another {key}: all nodes have the same here."
            )
    pods.lead(draft, {key: overrides[key] for key in ("command", "args", "env", "resources") if key in overrides})


def _restart_policy(draft: Draft, policy: str) -> None:
    words = "the operator replaces failed nodes, as often as spec.maxRestarts says"
    if policy == "ExitCode":
        words += "; exit codes from 128 that should not count have no counterpart"
    if policy != "Never":
        draft.note(("spec", "maxRestarts"), f"restartPolicy: {policy} has no counterpart: {words}.")


def _words(container: dict[str, Any], *keys: str) -> list[str]:
    return [text_of(each) for key in keys or ("command", "args") for each in container.get(key) or []]


def _command(
    draft: Draft, container: dict[str, Any], first: dict[str, Any] | None, *, workers: int = 0, elastic: bool
) -> dict[str, Any]:
    """Write the command. Returns that of node 0, if it differs."""
    if not container.get("command"):
        return _command_of_image(draft, container, first, elastic=elastic)
    command, options, changed = launch.to_torchrun(_words(container))
    command, lead = _with_index(command), None
    if first is not None:
        lead, more, _ = launch.to_torchrun(_words(first))
        options = {**more, **options}
        lead, command = _merged(_with_index(lead), command, workers)
    launch.set_nodes(draft, options)
    launch.apply_options(draft, options)
    draft.trainer["command"] = command
    if changed:
        launch.note_torchrun(draft)
    other = commands.launcher([" ".join(command)])
    if other or not (elastic or launch.starts_torchrun(command)):
        _processes(draft, alone=True)
        launch.make_static(draft, f"{other} starts the workers." if other else _UNKNOWN)
    else:
        _processes(draft, alone=changed)
        launch.note_without_torchrun(draft, command)
        launch.note_local_variables(draft, command)
    return {"command": lead} if lead is not None and lead != command else {}


def _command_of_image(
    draft: Draft, container: dict[str, Any], first: dict[str, Any] | None, *, elastic: bool
) -> dict[str, Any]:
    """Write the arguments of a container whose image chooses the command. Returns what differs in node 0."""
    arguments = _with_index(_words(container, "args"))
    if arguments:
        draft.trainer["args"] = arguments
    _processes(draft, alone=not elastic)
    if elastic:
        launch.note_without_torchrun(draft, [])
    else:
        launch.make_static(draft, _BY_IMAGE)
    if first is None:
        return {}
    lead = _with_index(_words(first, "args"))
    overrides: dict[str, Any] = {"command": _words(first, "command")} if first.get("command") else {}
    return overrides | ({"args": lead} if lead != arguments else {})


def _with_index(words: list[str]) -> list[str]:
    """Replace RANK, which was the number of the pod: torchrun's workers have ranks of their own here."""
    return [_RANK.sub(lambda match: f"${match[1] or ''}{_INDEX}{match[2] or ''}", word) for word in words]


def _processes(draft: Draft, *, alone: bool) -> None:
    """Set the number of workers per node where the source says nothing. `alone`: each pod was one worker."""
    path = ("spec", "nprocPerNode")
    if alone:
        if draft.spec.setdefault("nprocPerNode", 1) == 1:
            draft.note(path, "One worker per node, as before.")
    elif "nprocPerNode" not in draft.spec:
        draft.spec["nprocPerNode"] = "auto"
        draft.note(path, "auto is the default of PyTorchJob: one worker per GPU, or one per CPU if there is no GPU.")


def _merged(first: list[str], others: list[str], workers: int) -> tuple[list[str], list[str]]:
    """Return the commands of node 0 and of the others, which are the same if they differ by the node's number alone."""
    if len(first) != len(others):
        return first, others
    found = [merge([one, *[two] * workers], 1) for one, two in zip(first, others, strict=True)]
    if any(each.lead is not None for each in found):
        return first, others
    same = launch.resolve_words([each.others or "" for each in found], index=_INDEX)
    return same, same
