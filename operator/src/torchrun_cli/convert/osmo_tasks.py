"""The tasks of an OSMO workflow: which group trains, and which variable of the template is its size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchrun_cli.convert import commands, marks
from torchrun_cli.convert.marks import Expression
from torchrun_cli.convert.osmo_template import Template
from torchrun_cli.convert.source import ConvertError
from torchrun_cli.convert.view import View, text_of
from torchrun_cli.errors import CliError

_ENOUGH: Final = 3
"""With this many tasks, a text that differs by the number of the task is no coincidence."""
_STARTS: Final = re.compile(r"torchrun|torch\.distributed\.|python|accelerate|deepspeed|mpirun")


@dataclass(frozen=True)
class File:
    """A file of a task."""

    path: str
    content: str | None
    local: str = ""
    """The file on the user's computer, if there is no content."""


@dataclass(frozen=True)
class Task:
    """A task, read."""

    source: View
    name: str
    image: str
    words: tuple[str, ...]
    environment: Mapping[str, str]
    files: tuple[File, ...]

    @property
    def texts(self) -> list[str]:
        """Its command and its scripts."""
        return [" ".join(self.words), *(each.content or "" for each in self.files)]


@dataclass(frozen=True)
class Group:
    """The tasks that train together: the lead first."""

    source: View | None
    """The group, unless the task stands alone."""
    tasks: tuple[Task, ...]
    others: tuple[str, ...]
    """The names of the other tasks of the workflow."""


@dataclass(frozen=True)
class Workflow:
    """A workflow, with values that make its tasks many enough to compare."""

    source: View
    group: Group
    expressions: tuple[Expression, ...]
    count: str
    """The number of nodes: a number, or the mark of an expression."""


def read(template: Template) -> Workflow:
    """Read a workflow. Raises ConvertError."""
    source, group, expressions = _rendered(template, template.defaults)
    count = len(group.tasks)
    loops = " ".join(code for _, code in template.statements)
    for name, value in template.defaults.items():
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number and re.search(rf"\b{re.escape(name)}\b", loops) and _governs(template, name, value, count):
            more = {**template.defaults, name: max(value, value - count + _ENOUGH)}
            source, group, expressions = _rendered(template, more)
            difference = count - value
            sign = f" {'+' if difference > 0 else '-'} {abs(difference)}" if difference else ""
            counted = Expression(f"{name}{sign}", count)
            return Workflow(source, group, (*expressions, counted), marks.expression(len(expressions)))
    return Workflow(source, group, expressions, str(count))


def _governs(template: Template, name: str, value: int, count: int) -> bool:
    """Whether each increment of a variable adds one task."""
    try:
        counts = [len(_rendered(template, {**template.defaults, name: value + n})[1].tasks) for n in (1, 2)]
    except (ConvertError, CliError):
        return False
    return counts == [count + 1, count + 2]


def _rendered(template: Template, values: Mapping[str, Any]) -> tuple[View, Group, tuple[Expression, ...]]:
    document, expressions = template.render(values)
    top = View.of(document)
    workflow = top.required_mapping("workflow", "workflow: {name: ..., groups: [...]}")
    return workflow, _group(workflow), expressions


def _group(workflow: View) -> Group:
    groups = [(each, _tasks(each)) for each in workflow.items("groups")]
    alone = [(None, (task,)) for task in _tasks(workflow)] if workflow.has("tasks") else []
    found: list[tuple[View | None, tuple[Task, ...]]] = [*groups, *alone]
    if not found:
        raise workflow.error(f"{workflow.name()} has neither groups nor tasks; write the tasks to convert")
    chosen = max(found, key=lambda each: (_trains(each[1]), len(each[1])))
    others = tuple(task.name for group in found if group is not chosen for task in group[1])
    return Group(chosen[0], _lead_first(chosen[1]), others)


def _trains(tasks: tuple[Task, ...]) -> int:
    texts = [text for task in tasks for text in task.texts]
    if any(re.search(r"torchrun|torch\.distributed\.|accelerate launch|deepspeed|mpirun", text) for text in texts):
        return 2
    return int(any(_STARTS.search(text) for text in texts) and len(tasks) > 1)


def _lead_first(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    return tuple(sorted(tasks, key=lambda task: not task.source.get("lead")))


def _tasks(source: View) -> tuple[Task, ...]:
    tasks = tuple(_task(each) for each in source.items("tasks"))
    if not tasks:
        raise source.error(f"{source.name('tasks')} is missing; write at least one task", "tasks")
    return tasks


def _task(source: View) -> Task:
    files = tuple(_file(each) for each in source.items("files"))
    environment = {key: text_of(value) for key, value in source.mapping("environment").value.items()}
    name = source.required("name", "the name of the task")
    image = source.required("image", "the image of the container, such as registry.example.com/train:1")
    words = (*source.words("command"), *source.words("args"))
    if not words:
        raise source.error(f"{source.name('command')} is missing; write the command, such as [bash, /tmp/run.sh]")
    return Task(source, name, image, words, environment, files)


def _file(source: View) -> File:
    path = source.required("path", "the path of the file in the container")
    local = source.text("localpath") or source.text("localPath")
    if not source.has("contents") and not local:
        raise source.error(f"{source.name()}: write contents, or localpath, for {path}")
    return File(path, None if local else source.text("contents"), local)


def is_script(task: Task, file: File) -> bool:
    """Whether a file of a task is a shell script."""
    return commands.is_shell_file(file.path, file.content or "", task.words)
