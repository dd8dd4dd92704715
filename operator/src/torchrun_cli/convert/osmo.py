"""OSMO workflow to TorchrunJob."""

import re
from dataclasses import replace
from typing import Any, Final

from torchrun_cli.convert import commands, fields, launch, marks, osmo_nodes, osmo_pod, osmo_tasks, osmo_template
from torchrun_cli.convert import osmo_transfer as transfer
from torchrun_cli.convert.draft import Draft, number
from torchrun_cli.convert.emit import one_line, write
from torchrun_cli.convert.marks import Expression
from torchrun_cli.convert.osmo_nodes import Nodes, Texts
from torchrun_cli.convert.osmo_tasks import Workflow
from torchrun_cli.convert.osmo_template import Template
from torchrun_cli.convert.view import View, text_of
from torchrun_operator.api.names import MAX_JOB_NAME_LENGTH

_WORKFLOW: Final = re.compile(r"^workflow:|^default-values:", re.MULTILINE)
_TASK: Final = (
    "name",
    "image",
    "command",
    "args",
    "environment",
    "files",
    "lead",
    "resource",
    "credentials",
    "inputs",
    "outputs",
    "checkpoint",
    "exitActions",
    "volumeMounts",
    "privileged",
    "hostNetwork",
)
_PARTS: Final = {
    "files": ("path", "contents", "localpath", "localPath"),
    "inputs": ("url", "task", "dataset", "regex"),
    "outputs": ("url", "dataset", "regex"),
    "checkpoint": ("path", "url", "frequency", "regex"),
}
"""The fields of what a task has several of."""
_FIELDS: Final = ("name", "groups", "tasks", "resources", "timeout", "labels", "pool", "priority")
_ACTIONS: Final = {
    "COMPLETE": "only exit code 0 is a success; let the command exit with 0",
    "FAIL": "every other exit code is a failure, and spec.maxRestarts counts it",
    "RESCHEDULE": "every failed node is replaced; spec.maxRestarts counts failures of the code",
    "RESTART": "every failed node is replaced; spec.maxRestarts counts failures of the code",
}


def is_workflow(text: str) -> bool:
    """Whether a text looks like an OSMO workflow. It may be no YAML yet."""
    return bool(_WORKFLOW.search(text))


def convert(text: str, name: str) -> str:
    """Return the manifest. `name`: of the file, for errors. Raises ConvertError and CliError."""
    template = osmo_template.read(text, name)
    workflow = osmo_tasks.read(template)
    title, workflow = _named(workflow)
    draft = Draft(title)
    lead = workflow.group.tasks[0]
    usual = workflow.group.tasks[-1]
    resources = osmo_pod.resources_of(workflow.source, usual)
    gpus = osmo_pod.gpus(resources, marks.values(resources.text("gpu"), workflow.expressions))
    nodes = osmo_nodes.nodes_of(workflow, gpus)
    texts = Texts(draft, nodes, workflow)
    _heading(draft, workflow, template)
    port = nodes.environment.get("MASTER_PORT", "")
    if nodes.static and fields.STATIC and port.isdigit():
        launch.rendezvous(draft)["port"] = int(port)
    _sizes(draft, nodes, workflow, resources)
    draft.trainer["image"] = texts.plain(usual.image)
    osmo_nodes.write(draft, nodes, texts)
    if needs := osmo_pod.requirements(resources):
        draft.trainer["resources"] = needs
    osmo_pod.placement(draft, resources)
    osmo_pod.credentials(draft, lead)
    osmo_pod.volumes(draft, usual)
    osmo_pod.security(draft, usual)
    transfer.inputs(draft, lead, texts)
    transfer.outputs(
        draft, lead, texts, workflow.expressions, resources.get("storage") and number(resources.text("storage"))
    )
    _lead(draft, nodes, workflow, texts)
    if nodes.static:
        launch.take_static_variables(draft)
    _workflow_rest(draft, workflow.source, workflow.expressions)
    _group_rest(draft, workflow, nodes)
    return _finished(draft, template, workflow.expressions)


def _named(workflow: Workflow) -> tuple[str, Workflow]:
    """Return the name of the job, and the workflow with the expressions that the name needs.

    Expressions stay. If their default values are no names of Kubernetes, they get the filters that make them so.
    """
    written = workflow.source.required("name", "the name of the workflow")
    if not marks.marked(written):
        return _name(written), workflow
    value = marks.values(written, workflow.expressions)
    if value == _name(value):
        return written, workflow
    expressions = [*workflow.expressions]
    for index in sorted(marks.used(written)):
        old = workflow.expressions[index]
        written = written.replace(marks.expression(index), marks.expression(len(expressions)))
        source = old.source if old.source.isidentifier() else f"({old.source})"
        expressions.append(Expression(f"{source} | lower | replace('_', '-') | replace('.', '-')", old.value))
    return written.lower().replace("_", "-"), replace(workflow, expressions=tuple(expressions))


def _name(written: str) -> str:
    """Return a name with the characters that Kubernetes allows."""
    name = re.sub("[^a-z0-9-]+", "-", written.lower()).strip("-")
    name = name if name[:1].isalpha() else f"job-{name}"
    return name[:MAX_JOB_NAME_LENGTH].strip("-")


def _heading(draft: Draft, workflow: Workflow, template: Template) -> None:
    draft.heading.append("Converted from an OSMO workflow by kubectl torchrun convert.")
    written = workflow.source.text("name")
    if not marks.marked(written) and written != draft.metadata["name"]:
        draft.note(("metadata", "name"), f"The workflow was called {written}: names here have a-z, 0-9 and - only.")
    if workflow.group.others:
        names = ", ".join(workflow.group.others)
        draft.heading.append(
            f"Only the tasks that train together are here. Run the others as Jobs of their own: {names}."
        )
    codes = dict.fromkeys(code for _, code in template.statements if not re.match("(end|else|elif|raw)", code))
    fixed = [code for code in codes if not _of_loop(code, template)]
    if fixed:
        draft.heading.append(f"Evaluated with the default values, and not in the result: {'; '.join(fixed)}.")


def _of_loop(code: str, template: Template) -> bool:
    """Whether a statement is the loop over the tasks, or depends on its variable."""
    loops = [re.match(r"for\s+(\w+)\s+in\s+range\(", other) for _, other in template.statements]
    names = [match[1] for match in loops if match]
    return any(re.search(rf"\b{name}\b", code) for name in names)


def _sizes(draft: Draft, nodes: Nodes, workflow: Workflow, resources: View) -> None:
    path = ("spec", "nnodes")
    found = launch.nnodes_of(nodes.options)
    if ":" in found:
        draft.spec["nnodes"] = found
    else:
        draft.spec["nnodes"] = number(workflow.count)
    if not nodes.torchrun and resources.has("gpu") and resources.get("gpu") != 0:
        draft.spec["nprocPerNode"] = number(resources.text("gpu"))
    elif not nodes.torchrun and nodes.processes > 1:
        draft.spec["nprocPerNode"] = nodes.processes
    if nodes.static:
        launch.make_static(draft, f"{nodes.launcher or 'The command itself'} starts the workers.")
    elif ":" not in found and len(workflow.group.tasks) > 1:
        draft.note(path, 'The job could be elastic: write "MIN:MAX", and it trains on when nodes are lost.')


def _lead(draft: Draft, nodes: Nodes, workflow: Workflow, texts: Texts) -> None:
    """Write what differs in node 0, and when the job is complete."""
    overrides: dict[str, Any] = {}
    if nodes.lead_words is not None:
        shells = commands.shell_lines(nodes.lead_words)
        overrides["command"] = [texts.word(word, shell=n in shells) for n, word in enumerate(nodes.lead_words)]
    if nodes.lead_environment:
        overrides["env"] = texts.variables(nodes.lead_environment)
    first, usual = workflow.group.tasks[0], workflow.group.tasks[-1]
    needs = osmo_pod.requirements(osmo_pod.resources_of(workflow.source, first))
    if needs != osmo_pod.requirements(osmo_pod.resources_of(workflow.source, usual)):
        overrides["resources"] = needs
    if first.image != usual.image:
        words = f"{first.name} had the image {first.image}. All nodes have the same image here; choose one."
        draft.note(("spec", "template", "spec", "containers", 0, "image"), words)
    if overrides:
        if fields.LEAD:
            draft.spec["lead"] = overrides
        else:
            words = f"{first.name} differed, and this version has no spec.lead: {one_line(overrides)}."
            draft.note(("spec", "lead"), words)


def _workflow_rest(draft: Draft, source: View, expressions: tuple[Expression, ...]) -> None:
    timeout = source.mapping("timeout")
    if timeout.has("exec_timeout"):
        limit = transfer.seconds(marks.values(timeout.text("exec_timeout"), expressions))
        if limit is None:
            raise timeout.error(f"{timeout.name('exec_timeout')} is no time; write one such as 8h", "exec_timeout")
        draft.spec["activeDeadlineSeconds"] = limit
        draft.note(("spec", "activeDeadlineSeconds"), "exec_timeout. The time that the job waits for room counts here.")
    if timeout.has("queue_timeout"):
        words = f"timeout.queue_timeout: {timeout.text('queue_timeout')} has no counterpart"
        draft.note(("spec", "activeDeadlineSeconds"), f"{words}: this field limits the whole time, waiting included.")
    if source.has("labels"):
        labels = source.mapping("labels").value
        draft.metadata["labels"], draft.pod_metadata["labels"] = labels, labels
    for key, words in (
        ("pool", "choose the namespace, or a nodeSelector, that stands for the pool"),
        ("priority", "write spec.template.spec.priorityClassName"),
    ):
        if source.has(key):
            draft.note(("metadata",), f"{key}: {source.text(key)} has no counterpart: {words}.")
    draft.unknown(("spec", "other"), source, _FIELDS)
    draft.unknown(("spec", "activeDeadlineSeconds"), timeout, ("exec_timeout", "queue_timeout"))


def _group_rest(draft: Draft, workflow: Workflow, nodes: Nodes) -> None:
    group = workflow.group.source
    if group is not None:
        if group.get("barrier") is False:
            draft.note(
                ("spec", "nnodes"), "barrier: false has no counterpart: the nodes always start to train together."
            )
        _completion(draft, group, nodes)
        draft.unknown(("spec", "other"), group, ("name", "tasks", "barrier", "ignoreNonleadStatus"))
    for task in workflow.group.tasks:
        for action, codes in task.source.mapping("exitActions").value.items():
            words = _ACTIONS.get(action, "this action is not known")
            draft.note(("spec", "maxRestarts"), f"exitActions.{action}: {text_of(codes)} has no counterpart: {words}.")
        draft.unknown(("spec", "other"), task.source, _TASK)
        for key, known in _PARTS.items():
            for each in task.source.items(key):
                draft.unknown(("spec", "other"), each, known)


def _completion(draft: Draft, group: View, nodes: Nodes) -> None:
    """OSMO's group ends as its lead ends. Under torchrun all nodes end together."""
    if not nodes.static or group.get("ignoreNonleadStatus") is False:
        return
    if fields.LEAD:
        draft.spec["completionPolicy"] = "Lead"
    else:
        draft.note(("spec", "completionPolicy"), "The group ended as its lead ended: here all nodes must succeed.")


def _finished(draft: Draft, template: Template, expressions: tuple[Expression, ...]) -> str:
    """Return the manifest, with the default values that its expressions need."""
    code = " ".join(expressions[index].source for index in marks.used(write(draft.job())))
    used = {name for name in (*template.defaults, *template.required) if re.search(rf"\b{re.escape(name)}\b", code)}
    if missing := sorted(template.required & used):
        draft.heading.append(f"Needs {' '.join(f'--set {name}=...' for name in missing)}, as before.")
    return draft.text(expressions, {name: value for name, value in template.defaults.items() if name in used})
