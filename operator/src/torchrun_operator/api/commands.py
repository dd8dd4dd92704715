"""The command of the trainer container, read as a person reads it: shell lines and scripts of spec.files included.

Nothing is rejected because of it: a shell may do anything. It explains why no agent comes to the rendezvous. Pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from torchrun_operator.api.names import TRAINER_CONTAINER
from torchrun_operator.api.shell import plain_commands
from torchrun_operator.api.torchrun import full_name, options, reserved_options, starts_torchrun

_VARIABLE: Final = re.compile("PET_[A-Z_]+=")
_ELSEWHERE: Final = ("--rdzv-endpoint", "--rdzv-id", "--standalone")
"""Each of these options leads an agent to another rendezvous."""
_BACKEND: Final = "--rdzv-backend"
_OURS: Final = re.compile(r"\$[({]?PET_RDZV_(ENDPOINT|ID)\b")
"""A value that the operator sets."""
_LAUNCHERS: Final = {
    "accelerate": "accelerate launch",
    "deepspeed": "deepspeed",
    "horovodrun": "horovodrun",
    "mpirun": "mpirun",
    "mpiexec": "mpiexec",
    "srun": "srun",
}
COMMAND: Final = "the command"
"""What people call it."""
_STATIC: Final = "set spec.rendezvous.backend to static for fixed ranks"


@dataclass(frozen=True)
class Launch:
    """What a command does about torchrun, as far as it can be read."""

    torchrun: bool = False
    """It names torchrun."""
    options: tuple[str, ...] = ()
    """The options of torchrun that a field of the job sets, as they are written, if they lead to another rendezvous."""
    where: str = COMMAND
    """Where the first of them stands, for people."""
    launcher: str = ""
    """Another program that starts workers, if there is no torchrun."""
    python: str = ""
    """The Python script that it runs, if there is no torchrun: the program and the script."""


@dataclass(frozen=True)
class _Text:
    """A shell text, or the words of the command, and what people call it."""

    name: str
    text: str
    commands: tuple[tuple[str, ...], ...]


def launch_of(command: Sequence[str], files: Mapping[str, str], backend: str, host: str = "") -> Launch:
    """Read a command.

    ``files`` has the contents of spec.files by path, ``backend`` is the rendezvous backend, and ``host`` the name of
    the service that leads to the rendezvous host.
    """
    texts = [*_texts(command, files)]
    commands = [words for each in texts for words in each.commands]
    if any(starts_torchrun(words) for words in commands):
        for each in texts:
            found = _leading_elsewhere(each.commands, backend, host)
            if found:
                return Launch(torchrun=True, options=found, where=_place(each, found[0]))
        return Launch(torchrun=True)
    programs = [(PurePosixPath(words[0]).name, words) for words in commands if words]
    launcher = next((_LAUNCHERS[name] for name, _ in programs if name in _LAUNCHERS), "")
    pythons = [words for name, words in programs if name.startswith("python")]
    return Launch(launcher=launcher, python="" if launcher or not pythons else _script(pythons[-1]))


def launch_words(launch: Launch) -> str:
    """Say what a command does that keeps agents away from the rendezvous; then, after a semicolon, what to write.

    Empty: nothing can be seen there.
    """
    if launch.options:
        options, several = ", ".join(launch.options), len(launch.options) > 1
        leads, remove = ("lead", "remove them") if several else ("leads", "remove it")
        return (
            f"{launch.where} gives torchrun {options}, which {leads} to another rendezvous; {remove}: the operator "
            "sets nodes, workers and rendezvous in the environment, so torchrun and the script suffice"
        )
    if launch.launcher:
        instead = "write torchrun and the script in its place"
        return f"{launch.where} runs {launch.launcher}, not torchrun; {instead}, or {_STATIC}"
    if launch.python:
        instead = f"write torchrun {launch.python.split()[-1]}"
        return f'{launch.where} runs "{launch.python}", not torchrun; {instead}, or {_STATIC}'
    if launch.torchrun:
        return ""
    return (
        "torchrun must take its rendezvous from the PET_ variables of the container: check that the command of the "
        f"{TRAINER_CONTAINER} container ends with torchrun and the script, without options that name a rendezvous"
    )


def _script(words: Sequence[str]) -> str:
    """Return the program and the script of a Python command. Empty: it runs no script."""
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    return f"{words[0]} {script}" if script and "-c" not in words else ""


def _leading_elsewhere(commands: Sequence[Sequence[str]], backend: str, host: str) -> tuple[str, ...]:
    """Return the options that a field of the job sets, if one of them leads to another rendezvous."""
    torchruns = [words for words in commands if starts_torchrun(words)]
    given = [option for words in torchruns for option in options(words)]
    variables = [word.partition("=") for words in commands for word in words if _VARIABLE.match(word)]
    as_options = [(f"--{name.removeprefix('PET_').lower()}", value) for name, _, value in variables]
    named = {full_name(written): value for written, value in (*given, *as_options)}
    elsewhere = any(option in named and not _is_ours(named[option], host) for option in _ELSEWHERE)
    if named.get(_BACKEND, backend) == backend and not elsewhere:
        return ()
    reserved = (written for words in torchruns for written, _ in reserved_options(words))
    return tuple(dict.fromkeys((*reserved, *(name for name, _, _ in variables))))


def _is_ours(value: str, host: str) -> bool:
    """Whether a value leads to the rendezvous of the job: a variable of the operator, or the name of its service."""
    name = value.partition(":")[0]
    return bool(_OURS.match(value)) or (bool(host) and (name == host or name.startswith(f"{host}.")))


def _place(text: _Text, option: str) -> str:
    """Return where an option stands, for people."""
    lines = text.text.splitlines()
    number = next((n for n, line in enumerate(lines, 1) if option in line and not line.lstrip().startswith("#")), 0)
    return f"line {number} of {text.name}" if number and (len(lines) > 1 or text.name != COMMAND) else text.name


def _texts(command: Sequence[str], files: Mapping[str, str]) -> Iterator[_Text]:
    """Yield the words of the command, its shell lines, and the scripts that it runs, each with its plain commands."""
    found = [_Text(COMMAND, "", (tuple(command),))]
    found += [_shell(COMMAND, word) for word in command if any(blank in word for blank in " \t\n")]
    left = {path: text for path, text in files.items() if not path.endswith(".py")}
    while found:
        each = found.pop(0)
        yield each
        words = {word for words in each.commands for word in words}
        for path in [path for path in left if _runs(words, path)]:
            found.append(_shell(path, left.pop(path)))


def _shell(name: str, text: str) -> _Text:
    return _Text(name, text, tuple(plain_commands(text)))


def _runs(words: set[str], path: str) -> bool:
    """Whether these words name the file: by its path, or relative to a directory that cannot be known."""
    name = PurePosixPath(path).name
    return path in words or any(not word.startswith("/") and PurePosixPath(word).name == name for word in words)
