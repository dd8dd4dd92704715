"""The command line of torchrun: finds options that would override the environment that the operator sets."""

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

_RESERVED: Final = {
    "--nnodes": "spec.nnodes",
    "--nproc-per-node": "spec.nprocPerNode",
    "--max-restarts": "spec.maxRestarts",
    "--rdzv-backend": "spec.rendezvous.backend",
    "--rdzv-endpoint": "spec.rendezvous",
    "--rdzv-id": "spec.rendezvous",
    "--rdzv-conf": "spec.rendezvous.conf",
    "--standalone": "spec.rendezvous",
    "--node-rank": "spec.nnodes",
    "--master-addr": "spec.rendezvous",
    "--master-port": "spec.rendezvous",
    "--local-addr": "spec.rendezvous",
    "--monitor-interval": "spec.rendezvous",
}
_WITHOUT_VALUE: Final = {
    "--standalone", "-m", "--module", "--no-python", "--run-path", "--virtual-local-rank", "--print-completion",
}  # fmt: skip
_OTHERS: Final = (
    "--start-method", "--event-log-handler", "--role", "--log-dir", "--redirects", "--tee",
    "--log-line-prefix-template", "--local-ranks-filter", "--duplicate-stdout-filters", "--duplicate-stderr-filters",
    "--logs-specs", "--numa-binding", "--signals-to-handle", "--shutdown-timeout", "--help",
)  # fmt: skip
OPTIONS: Final = (*_RESERVED, *(option for option in _WITHOUT_VALUE if option not in ("-m", "--standalone")), *_OTHERS)
"""All long options of torchrun, with dashes."""
_PROGRAMS: Final = re.compile(r"(?<![\w.$}~-])(/(?:[\w.+@-]+/)*bin)(?=[/:\s\"';)&|]|$)")
_MOST_DIRECTORIES: Final = 8
_MODULES: Final = ("torch.distributed.run", "torch.distributed.launch")


def program_of(command: Sequence[str]) -> str | None:
    """Return the program of a plain torchrun command: torchrun, or the Python that runs it. None for other commands."""
    match [*command]:
        case [program, *_] if PurePosixPath(program).name == "torchrun":
            return program
        case [program, "-m", module, *_] if PurePosixPath(program).name.startswith("python") and module in _MODULES:
            return program
    return None


def python_of(command: Sequence[str]) -> str:
    """Return the Python for programs of the operator in the image: the one that the command names, if any."""
    named = program_of(command) or ""
    return named if PurePosixPath(named).name.startswith("python") else "python3"


def starts_torchrun(command: Sequence[str]) -> bool:
    """Whether a command without shell lines names torchrun."""
    return any(_is_torchrun(word) for word in command)


def program_directories(command: Sequence[str]) -> tuple[str, ...]:
    """Return the absolute directories of programs that the command names, such as that of an environment, in order."""
    found = dict.fromkeys(match for word in command for match in _PROGRAMS.findall(word))
    return tuple(found)[:_MOST_DIRECTORIES]


def reserved_options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each torchrun option of the command that a field of the job sets, with the path of that field.

    The search ends at the script, and does not parse shell lines.
    """
    for written, _ in options(command):
        option = full_name(written)
        if option in _RESERVED:
            yield written, _RESERVED[option]


def full_name(written: str) -> str:
    """Return the whole option, with dashes. torchrun accepts each beginning of an option that no other one has."""
    dashed = written.replace("_", "-")
    if dashed in OPTIONS or not dashed.startswith("--"):
        return dashed
    begun = [option for option in OPTIONS if option.startswith(dashed)]
    return begun[0] if len(begun) == 1 else dashed


def options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option of torchrun in the command, as it is written, with its value. The script's own do not count."""
    words = iter(command)
    for word in words:
        if _is_torchrun(word):
            break
    for word in words:
        if not word.startswith("-"):
            return
        written, _, value = word.partition("=")
        if not value and full_name(written) not in _WITHOUT_VALUE:
            value = next(words, "")
        yield written, value


def _is_torchrun(word: str) -> bool:
    return PurePosixPath(word).name == "torchrun" or word in _MODULES
