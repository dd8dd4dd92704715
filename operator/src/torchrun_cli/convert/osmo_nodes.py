"""Makes one pod template of the tasks of a group: their commands, scripts and variables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from torchrun_cli.convert import commands, launch, marks, pods
from torchrun_cli.convert.draft import Draft
from torchrun_cli.convert.merge import Merged, merge, unify
from torchrun_cli.convert.osmo_tasks import File, Task, Workflow, is_script
from torchrun_cli.convert.source import Path

_WORLD: Final = re.compile(r"(--world[_-]size[= ]+)(\d+)\b")
_FIRST: Final = re.compile(r"(--(?:rank[_-])?offset[= ]+)(\d+)\b")
_SIZE: Final = re.compile(r"--(?:size|local[_-]size|nproc)[= ]+(\d+|\ue000\d+\ue001)")


@dataclass
class Nodes:
    """What all nodes run, with marks, and what node 0 runs if it differs."""

    words: list[str]
    files: list[File]
    environment: dict[str, str]
    lead_words: list[str] | None = None
    lead_environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    torchrun: bool = False
    launcher: str = ""
    unread: list[str] = field(default_factory=list)
    """Scripts on the user's computer: what they start is not known."""
    processes: int = 1
    notes: list[str] = field(default_factory=list)
    """Comments on the command."""

    @property
    def static(self) -> bool:
        """Whether the job needs fixed ranks, because torchrun does not start the workers."""
        return not self.torchrun and (bool(self.launcher) or not self.unread)


def nodes_of(workflow: Workflow, gpus: int) -> Nodes:
    """Merge the tasks that train. `gpus`: of each node, 0 if it is not known."""
    tasks = workflow.group.tasks
    options: dict[str, str] = {}
    torchrun = False
    stripped: list[tuple[list[str], dict[str, str]]] = []
    for task in tasks:
        words, taken, starts = _stripped_words(task.words)
        contents: dict[str, str] = {}
        for file in task.files:
            text = file.content or ""
            found = commands.strip_text(text) if is_script(task, file) else commands.Launch(text, {}, 0)
            contents[file.path], taken, starts = found.text, {**taken, **found.options}, starts or found.torchruns > 0
        stripped.append((words, contents))
        options, torchrun = {**taken, **options}, torchrun or starts
    processes = _processes(workflow, options, gpus)
    nodes = Nodes([], [], {}, options=options, torchrun=torchrun, processes=processes)
    nodes.launcher = commands.launcher([text for task in tasks for text in task.texts])
    nodes.unread = [file.local for file in tasks[0].files if file.content is None and is_script(tasks[0], file)]
    _merge_words(nodes, [words for words, _ in stripped])
    _merge_files(nodes, tasks, [contents for _, contents in stripped])
    _merge_environment(nodes, tasks)
    return nodes


def write(draft: Draft, nodes: Nodes, texts: "Texts") -> None:
    """Write the commands, files and variables, with the names that they have in the pods of a job."""
    shells = commands.shell_lines(nodes.words)
    draft.trainer["command"] = [texts.word(word, shell=n in shells) for n, word in enumerate(nodes.words)]
    for file in nodes.files:
        entry = {"path": file.path}
        if file.content is None:
            entry["localPath"] = file.local
        else:
            entry["content"] = texts.file(file, shell=_is_shell(nodes, file))
        draft.spec.setdefault("files", []).append(entry)
    variables = pods.environment(draft, texts.variables(nodes.environment))
    if variables:
        draft.trainer["env"] = variables
    launch.apply_options(draft, nodes.options)
    for note in nodes.notes:
        draft.note(launch.COMMAND, note)
    for script in nodes.unread:
        draft.note(
            ("spec", "files"),
            f"{script} was not read. If it starts torchrun, take these options out: --nnodes, --node_rank, --rdzv_id, "
            "--rdzv_endpoint, --master_addr, --master_port. Tokens of OSMO in it have no meaning here.",
        )


class Texts:
    """Writes texts with marks as the pods of the job need them."""

    def __init__(self, draft: Draft, nodes: Nodes, workflow: Workflow) -> None:
        self._draft, self._nodes, self._workflow = draft, nodes, workflow
        self._name = draft.metadata["name"]
        self._numbers = {task.name: number for number, task in enumerate(workflow.group.tasks)}
        self._world = len(workflow.group.tasks) * nodes.processes

    def word(self, text: str, *, shell: bool) -> str:
        """Return a word of the command, or a shell line of it."""
        if shell:
            return self._shell(text, launch.COMMAND)
        index = "NODE_RANK" if self._nodes.static else "TORCHRUN_NODE_INDEX"
        text = self._with_world(text, "$({})").replace(marks.INDEX, f"$({index})")
        if marks.OFFSET in text and not self._nodes.static:
            self._draft.note(launch.COMMAND, "RANK_OFFSET exists only in a static job; torchrun sets RANK instead.")
        text = text.replace(marks.OFFSET, "$(RANK_OFFSET)")
        return self._common(text, "$(TORCHRUN_JOB_NAME)")

    def variables(self, environment: Mapping[str, str]) -> list[dict[str, str]]:
        """Return environment variables."""
        return [{"name": name, "value": self.word(value, shell=False)} for name, value in environment.items()]

    def file(self, file: File, *, shell: bool) -> str:
        """Return the content of a file."""
        text = file.content or ""
        if shell:
            return self._shell(text, ("spec", "files"))
        if marks.INDEX in text or marks.OFFSET in text:
            self._draft.note(
                ("spec", "files"),
                f"{file.path} had the number of the node in it: read TORCHRUN_NODE_INDEX from the environment instead.",
            )
        text = text.replace(marks.INDEX, "NODE_INDEX").replace(marks.OFFSET, "RANK_OFFSET")
        return self._looped(self._common(text, self._name), file.path)

    def _looped(self, text: str, path: str) -> str:
        """Return a list of all nodes as a loop of the template, if the number of nodes is one of its expressions."""
        numbers = {int(number) for number in re.findall(rf"^{re.escape(self._name)}-(\d+)\.", text, re.MULTILINE)}
        count = self._workflow.group.tasks
        if not marks.marked(self._workflow.count) or numbers != {*range(len(count))}:
            return text
        lines = [line for line in text.splitlines() if line.strip()]
        line = unify(lines, range(len(count)), 1) if len(lines) == len(count) else None
        if line is None:
            self._draft.note(("spec", "files"), f"{path} names {len(count)} nodes: write as many as spec.nnodes has.")
            return text
        found = marks.only(self._workflow.count, self._workflow.expressions)
        source = found.source if found else str(len(count))
        start, end = marks.code(f"% for node in range({source}) %"), marks.code("% endfor %")
        return f"{start}\n{line.replace(marks.INDEX, marks.code('{ node }'))}\n{end}\n"

    def plain(self, text: str) -> str:
        """Return a text that no program expands, such as a URL."""
        return self._common(text, self._name)

    def _shell(self, text: str, path: Path) -> str:
        for barrier in commands.barriers(text):
            self._draft.note(
                path, f"Remove this barrier: a node that is replaced later would wait there for the others. {barrier}"
            )
        processes = self._nodes.processes
        offset = "${RANK_OFFSET}" if self._nodes.static else f"$((TORCHRUN_NODE_INDEX * {processes}))"
        index = "${NODE_RANK}" if self._nodes.static else "${TORCHRUN_NODE_INDEX}"
        text = self._with_world(text, "${{{}}}").replace(marks.INDEX, index).replace(marks.OFFSET, offset)
        return self._common(text, "${TORCHRUN_JOB_NAME}")

    def _with_world(self, text: str, form: str) -> str:
        """Replace the size of the world and the first rank of the node, where the operator sets them."""
        if not self._nodes.static or self._nodes.launcher:
            return text
        size, offset = form.format("WORLD_SIZE"), form.format("RANK_OFFSET")
        text = _FIRST.sub(
            lambda match: match[1] + (match[2] if int(match[2]) % self._nodes.processes else offset), text
        )
        return _WORLD.sub(lambda match: match[1] + (size if int(match[2]) == self._world else match[2]), text)

    def _common(self, text: str, job: str) -> str:
        text = marks.replace_hosts(text, lambda task: self._address(task, job))
        text = marks.replace_inputs(text, input_directory)
        return text.replace(marks.OUTPUT, OUTPUT_DIRECTORY).replace(marks.WORKFLOW, job)

    def _address(self, task: str, job: str) -> str:
        number = self._numbers.get(task)
        if number is None and not task.isdigit():
            self._draft.note(launch.COMMAND, f"The token host:{task} names no task of the group: the name stays.")
            return task
        if number == 0 and self._nodes.static and job.startswith("$"):
            return job.replace("TORCHRUN_JOB_NAME", "MASTER_ADDR")
        return f"{job}-{number}.{job}"


OUTPUT_DIRECTORY: Final = "/outputs"


def input_directory(number: int) -> str:
    """Return the directory of an input."""
    return f"/inputs/{number}"


def _stripped_words(words: Sequence[str]) -> tuple[list[str], dict[str, str], bool]:
    stripped, taken = commands.strip_words(words)
    starts = launch.starts_torchrun([word for word in words if " " not in word])
    for index in commands.shell_lines(words):
        found = commands.strip_text(stripped[index])
        stripped[index] = found.text
        taken, starts = {**taken, **found.options}, starts or found.torchruns > 0
    return stripped, taken, starts


def _processes(workflow: Workflow, options: dict[str, str], gpus: int) -> int:
    """Return the number of workers per node, as far as it is a number."""
    texts = [text for task in workflow.group.tasks for text in task.texts]
    sizes = [size for text in texts for size in _SIZE.findall(text)]
    for found in (options.get("--nproc-per-node", ""), *sizes[:1]):
        value = marks.values(found, workflow.expressions)
        if value.isdigit():
            return launch.processes_of(int(value))
    return launch.processes_of(gpus)


def _merge_words(nodes: Nodes, commands_: Sequence[Sequence[str]]) -> None:
    if len({len(each) for each in commands_[1:]}) > 1:
        nodes.words = list(commands_[1])
        nodes.notes.append("The commands of the tasks differed in more than a number: this is that of the second task.")
        return
    others = [merge(column, nodes.processes) for column in zip(*commands_[1:], strict=True)] or [
        Merged(word) for word in commands_[0]
    ]
    if len(commands_) == 1 or len(commands_[0]) != len(commands_[1]):
        nodes.words = [each.others or "" for each in others]
        nodes.lead_words = list(commands_[0]) if len(commands_) > 1 else None
        return
    found = [merge(column, nodes.processes) for column in zip(*commands_, strict=True)]
    nodes.words = [
        each.others if each.others is not None else column for each, column in zip(found, commands_[1], strict=True)
    ]
    if any(each.others is None for each in found):
        nodes.notes.append("The commands of the tasks differed in more than a number: this is that of the second task.")
    if any(each.lead is not None for each in found):
        nodes.lead_words = [
            word if each.lead is not None else str(each.others) for each, word in zip(found, commands_[0], strict=True)
        ]


def _merge_files(nodes: Nodes, tasks: Sequence[Task], contents: Sequence[dict[str, str]]) -> None:
    """Merge the files. A file that differs in node 0 gets a path of its own there."""
    for path in dict.fromkeys(file.path for task in tasks for file in task.files):
        owners = [number for number, task in enumerate(tasks) if any(file.path == path for file in task.files)]
        first = next(file for file in tasks[owners[0]].files if file.path == path)
        if first.content is None:
            nodes.files.append(first)
            continue
        texts = [contents[number].get(path, "") for number in owners]
        found = merge(texts, nodes.processes) if len(owners) == len(tasks) else Merged(texts[-1])
        if found.others is None:
            nodes.notes.append(f"{path} differed in more than a number: this is that of the second task.")
        nodes.files.append(File(path, found.others if found.others is not None else texts[min(1, len(texts) - 1)]))
        if found.lead is not None:
            name = PurePosixPath(path)
            own = str(name.with_name(f"{name.stem}-lead{name.suffix}"))
            nodes.files.append(File(own, found.lead))
            words = nodes.lead_words if nodes.lead_words is not None else list(nodes.words)
            nodes.lead_words = [word.replace(path, own) for word in words]


def _merge_environment(nodes: Nodes, tasks: Sequence[Task]) -> None:
    for name in dict.fromkeys(name for task in tasks for name in task.environment):
        values = [task.environment[name] for task in tasks if name in task.environment]
        if name not in tasks[-1].environment:
            nodes.lead_environment[name] = values[0]
            continue
        if len(values) < len(tasks):
            nodes.environment[name] = values[0]
            continue
        found = merge(values, nodes.processes)
        nodes.environment[name] = found.others if found.others is not None else values[-1]
        if found.lead is not None:
            nodes.lead_environment[name] = found.lead


def _is_shell(nodes: Nodes, file: File) -> bool:
    runs = [*nodes.words, *(nodes.lead_words or [])]
    return commands.is_shell_file(file.path, file.content or "", runs)
