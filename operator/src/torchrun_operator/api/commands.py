"""The command of the trainer container, read as a person reads it: shell lines and scripts of spec.files included.

Nothing is rejected because of it: a shell may do anything. It explains why no agent comes to the rendezvous. Pure.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from torchrun_operator.api.torchrun import options, reserved_options, starts_torchrun

_SEPARATOR: Final = re.compile("[;&|()]+")
_VARIABLE: Final = re.compile("PET_[A-Z_]+=")
_COMMENT: Final = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_ELSEWHERE: Final = ("--rdzv-endpoint", "--rdzv-id", "--standalone")
"""Each of these options leads an agent to another rendezvous."""
_BACKEND: Final = "--rdzv-backend"
_LAUNCHERS: Final = {
    "accelerate": "accelerate launch",
    "deepspeed": "deepspeed",
    "horovodrun": "horovodrun",
    "mpirun": "mpirun",
    "mpiexec": "mpiexec",
    "srun": "srun",
}
_MOST_CHARACTERS: Final = 100_000


@dataclass(frozen=True)
class Launch:
    """What a command does about torchrun, as far as it can be read."""

    torchrun: bool = False
    """It names torchrun."""
    options: tuple[str, ...] = ()
    """The options of torchrun that a field of the job sets, as they are written, if they lead to another rendezvous."""
    launcher: str = ""
    """Another program that starts workers, if there is no torchrun."""
    python: str = ""
    """The Python script that it runs, if there is no torchrun: the program and the script."""


def launch_of(command: Sequence[str], files: Mapping[str, str], backend: str) -> Launch:
    """Read a command. ``files`` has the contents of spec.files by path, ``backend`` is the rendezvous backend."""
    commands = [*_commands(command, files)]
    torchruns = [words for words in commands if starts_torchrun(words)]
    if torchruns:
        return Launch(torchrun=True, options=_leading_elsewhere(commands, torchruns, backend))
    programs = [(PurePosixPath(words[0]).name, words) for words in commands if words]
    launcher = next((_LAUNCHERS[name] for name, _ in programs if name in _LAUNCHERS), "")
    pythons = [words for name, words in programs if name.startswith("python")]
    return Launch(launcher=launcher, python="" if launcher or not pythons else _script(pythons[-1]))


def _script(words: Sequence[str]) -> str:
    """Return the program and the script of a Python command. Empty: it runs no script."""
    script = next((word for word in words[1:] if not word.startswith("-")), "")
    return f"{words[0]} {script}" if script and "-c" not in words else ""


def _leading_elsewhere(
    commands: Sequence[Sequence[str]], torchruns: Sequence[Sequence[str]], backend: str
) -> tuple[str, ...]:
    """Return the options that a field of the job sets, if one of them leads to another rendezvous."""
    given = [option for words in torchruns for option in options(words)]
    variables = [word.partition("=") for words in commands for word in words if _VARIABLE.match(word)]
    as_options = [(f"--{name.removeprefix('PET_').lower()}", value) for name, _, value in variables]
    named = {written.replace("_", "-"): value for written, value in (*given, *as_options)}
    if named.get(_BACKEND, backend) == backend and not any(option in named for option in _ELSEWHERE):
        return ()
    reserved = (written for words in torchruns for written, _ in reserved_options(words))
    return tuple(dict.fromkeys((*reserved, *(name for name, _, _ in variables))))


def _commands(command: Sequence[str], files: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Yield the plain commands of a command: its words, those of its shell lines, and those of the scripts it runs."""
    yield tuple(command)
    lines = [word for word in command if any(blank in word for blank in " \t\n")]
    named = {word for line in lines for words in _split(line) for word in words} | set(command)
    scripts = [content for path, content in files.items() if path in named and not path.endswith(".py")]
    for text in (*lines, *scripts):
        yield from _split(text)


def _split(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the plain commands in a shell text."""
    joined = _COMMENT.sub("", text[:_MOST_CHARACTERS].replace("\\\n", " ")).replace("\n", " ; ")
    lexer = shlex.shlex(joined, posix=True, punctuation_chars=True)
    lexer.commenters, lexer.whitespace_split = "", True
    words: list[str] = []
    try:
        for word in lexer:
            if _SEPARATOR.fullmatch(word):
                yield tuple(words)
                words = []
            else:
                words.append(word)
    except ValueError:
        pass  # a quote without an end: what was read before it is still true
    yield tuple(words)
