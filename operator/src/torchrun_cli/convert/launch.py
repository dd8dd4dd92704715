"""How a converted job starts its workers: torchrun without the options that the operator sets, or a static job."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from torchrun_cli.convert import commands, fields, marks
from torchrun_cli.convert.draft import TRAINER, Draft, number
from torchrun_cli.convert.emit import Plain
from torchrun_operator.api.names import MAX_PROCESSES_PER_NODE, RESERVED_RDZV_CONF, STATIC_ENV

GPU: Final = "nvidia.com/gpu"
COMMAND: Final = (*TRAINER, "command")
_COUNT: Final = "(?:\\d+|\ue000\\d+\ue001)"
_NNODES: Final = re.compile(f"{_COUNT}(?::{_COUNT})?")
_SILENT: Final = ("--node-rank",)
"""Options that need no words: every node has its number."""
_LOCAL: Final = re.compile(r"\$[({]?(RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|PET_[A-Z_]+)\b[)}]?")
_MOST_LAST_CALL: Final = 3600


def nnodes_of(options: Mapping[str, str]) -> str:
    """Return what --nnodes says, if it is a number or a range. Empty: nothing that can be read."""
    found = options.get("--nnodes", "").strip()
    return found if _NNODES.fullmatch(found) else ""


def set_nodes(draft: Draft, options: Mapping[str, str]) -> None:
    """Set the number of nodes if an option of torchrun says it: the option wins over the fields of the source."""
    found = nnodes_of(options)
    if not found:
        return
    draft.spec["nnodes"] = number(found)
    least, _, most = found.partition(":")
    if not least.isdigit() or not int(least) <= draft.spec.get("replicas", 0) < int(most or least):
        draft.spec.pop("replicas", None)


def apply_options(draft: Draft, options: Mapping[str, str]) -> None:
    """Set the fields that torchrun's options stand for, all but the number of nodes, and say what was taken out."""
    if not options:
        return
    processes = options.get("--nproc-per-node", "").strip()
    if re.fullmatch(f"{_COUNT}|gpu|cpu|auto", processes):
        draft.spec["nprocPerNode"] = number(processes)
    elif processes:
        draft.note(("spec", "nprocPerNode"), f"torchrun had --nproc-per-node {processes}: write the number, or gpu.")
    restarts = options.get("--max-restarts", "").strip()
    if re.fullmatch(_COUNT, restarts):
        draft.spec["maxRestarts"] = number(restarts)
    conf(draft, [pair.partition("=")[::2] for pair in options.get("--rdzv-conf", "").split(",") if pair])
    taken = [f"{name} {value}".strip() for name, value in options.items() if name not in _SILENT]
    if taken:
        draft.note(COMMAND, f"Taken out of torchrun's options, because the operator sets them: {', '.join(taken)}.")
    if "--standalone" in options:
        draft.note(COMMAND, "With --standalone, each node trained alone. Here the nodes train together.")
    backend = options.get("--rdzv-backend", "c10d")
    if backend not in ("c10d", "static"):
        draft.note(("spec", "rendezvous"), f"The backend {backend} has no counterpart: the job uses c10d.")


def conf(draft: Draft, pairs: Sequence[tuple[str, str]]) -> None:
    """Set what the configuration of the rendezvous stands for."""
    path = ("spec", "rendezvous")
    for key, value in ((key.strip(), value.strip()) for key, value in pairs):
        if key == "last_call_timeout" and value.isdigit() and int(value) <= _MOST_LAST_CALL:
            rendezvous(draft)["lastCallSeconds"] = int(value)
        elif key in RESERVED_RDZV_CONF:
            draft.note(path, f"The setting {key}={value} of the rendezvous has no counterpart: the operator sets it.")
        elif re.fullmatch("[a-z][a-z0-9_]*", key) and not {",", "="} & set(value):
            rendezvous(draft).setdefault("conf", {})[key] = value
        else:
            draft.note(path, f"The setting {key}={value} of the rendezvous cannot be read: write it as key: value.")


def rendezvous(draft: Draft) -> dict[str, Any]:
    """Return spec.rendezvous, to write into it."""
    found: dict[str, Any] = draft.spec.setdefault("rendezvous", {})
    return found


def make_static(draft: Draft, why: str) -> None:
    """Let the operator give each node its number, without a rendezvous of torchrun. `why`: the first sentence."""
    path = ("spec", "rendezvous")
    if not fields.STATIC:
        words = "It needs a static rendezvous, which this version does not have: let torchrun start the script."
        draft.note(path, f"{why} {words}")
        return
    draft.spec["rendezvous"] = {"backend": "static", **_port(draft)}
    draft.note(path, f"{why} The nodes start together with fixed ranks; if one is lost, all start again.")
    nodes = draft.spec.get("nnodes")
    if isinstance(nodes, str) and ":" in nodes:
        draft.spec["nnodes"] = number(nodes.partition(":")[2])
        words = f"The range {nodes} became its maximum: a static job has a fixed number of nodes."
        draft.note(("spec", "nnodes"), words)
    draft.spec.pop("replicas", None)
    processes = draft.spec.get("nprocPerNode", 1)
    if isinstance(processes, str) and not isinstance(processes, Plain):
        gpus = ((draft.trainer.get("resources") or {}).get("limits") or {}).get(GPU, 1)
        draft.spec["nprocPerNode"] = number(str(gpus))
        words = "A static job needs a number of processes: here that of the GPUs of a node, or 1."
        draft.note(("spec", "nprocPerNode"), words)
    take_static_variables(draft)


def take_static_variables(draft: Draft) -> None:
    """Take out the variables that the operator sets in a static job, and say so."""
    given = draft.trainer.pop("env", [])
    kept = [each for each in given if each.get("name") not in STATIC_ENV]
    for each in given:
        if each not in kept:
            draft.note((*TRAINER, "env"), f"{each['name']} is taken out: the operator sets it in a static job.")
    if kept:
        draft.trainer["env"] = kept


def _port(draft: Draft) -> dict[str, Any]:
    port = (draft.spec.get("rendezvous") or {}).get("port")
    return {} if port is None else {"port": port}


def to_torchrun(words: Sequence[str]) -> tuple[list[str], dict[str, str], bool]:
    """Convert a command in which one process per node was started, or torchrun with options.

    Returns the command, the options that were taken out, and whether torchrun takes the place of Python.
    """
    stripped, options = commands.strip_words(words)
    shell = commands.shell_lines(words)
    changed = False
    for index in shell:
        launch = commands.strip_text(stripped[index])
        options |= launch.options
        line = launch.text if launch.torchruns else commands.python_to_torchrun(launch.text)
        changed |= not launch.torchruns and line != launch.text
        stripped[index] = line
    if not shell and not options and stripped == (before := [*words]):
        stripped = commands.words_to_torchrun(before)
        changed = stripped != before
    return stripped, options, changed


def starts_torchrun(words: Sequence[str]) -> bool:
    """Whether a command names torchrun: as a program, or in a shell line."""
    return any(
        re.search(r"(?:^|[\s/;&|(])torchrun(?:\s|$)|torch\.distributed\.(?:run|launch)\b", word) for word in words
    )


def note_torchrun(draft: Draft) -> None:
    """Comment on a script that Python started, and torchrun starts now."""
    draft.note(COMMAND, "torchrun starts the script now: it sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.")


def note_without_torchrun(draft: Draft, words: Sequence[str]) -> None:
    """Comment on a command from which no torchrun can be seen."""
    if not words:
        draft.note(COMMAND, "The image chooses the command. Write it here, such as command: [torchrun, train.py].")
    elif not starts_torchrun(words):
        draft.note(
            COMMAND, "This command does not name torchrun. Each node must start torchrun, such as torchrun train.py."
        )


def note_local_variables(draft: Draft, texts: Sequence[str]) -> None:
    """Comment on variables of the source's system that only exist in the workers of torchrun."""
    names = dict.fromkeys(name for text in texts for name in _LOCAL.findall(text))
    if names:
        draft.note(
            COMMAND,
            f"{', '.join(names)}: torchrun sets these for its workers, not for this command. "
            "The number of the node is in TORCHRUN_NODE_INDEX.",
        )


def processes_of(value: object) -> int:
    """Return the number of workers per node, 1 if it is not known."""
    known = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PROCESSES_PER_NODE
    return value if known and isinstance(value, int) else 1


def resolve_words(words: Sequence[str], *, index: str, offset: str = "") -> list[str]:
    """Replace the marks of the node's number in a command by variables that the kubelet fills in."""
    done = [word.replace(marks.INDEX, f"$({index})") for word in words]
    return [word.replace(marks.OFFSET, f"$({offset})") if offset else word for word in done]
