"""Command lines: takes the operator's options out of torchrun's, also in shell texts, and finds launchers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

OPTIONS: Final = {
    "--nnodes": True,
    "--nproc-per-node": True,
    "--rdzv-backend": True,
    "--rdzv-endpoint": True,
    "--rdzv-id": True,
    "--rdzv-conf": True,
    "--standalone": False,
    "--max-restarts": True,
    "--monitor-interval": True,
    "--node-rank": True,
    "--master-addr": True,
    "--master-port": True,
    "--local-addr": True,
}
"""The options of torchrun that the operator sets, and whether each has a value."""
_OTHERS: Final = {
    "--start-method": True,
    "--event-log-handler": True,
    "--role": True,
    "--module": False,
    "--no-python": False,
    "--run-path": False,
    "--log-dir": True,
    "--redirects": True,
    "--tee": True,
    "--local-ranks-filter": True,
    "--logs-specs": True,
    "--numa-binding": True,
    "--signals-to-handle": True,
    "--duplicate-stdout-filters": True,
    "--duplicate-stderr-filters": True,
    "--virtual-local-rank": False,
    "--use-env": False,
    "-m": False,
    "-r": True,
    "-t": True,
}
_TORCHRUN: Final = re.compile(
    r"(?<![\w/.$-])(?:[^\s;&|()\"'=]*/)?torchrun(?=\s)|(?<=\s)-m\s+torch\.distributed\.(?:run|launch)(?=\s)"
)
_SPACE: Final = re.compile(r"(?:[ \t]|\\\r?\n)+")
_WORD: Final = re.compile(r"(?:\"(?:\\.|[^\"\\])*\"|'[^']*'|\$\([^)]*\)|[^\s\"'\\;&|()<>]|\\[^\r\n])+")
_PYTHON: Final = re.compile(
    r"(?<![\w/.$-])(?:[^\s;&|()\"'=]*/)?python[\d.]*(?:[ \t]+-[uBOIsSE]+)*[ \t]+"
    r"(?P<script>-m[ \t]+[\w.]+|[^\s;&|()<>-][^\s;&|()<>]*\.py\b)"
)
_BARRIER: Final = re.compile(r"(?:python[\d.]*|bash|sh)[ \t]+\S*barrier(?:\\\n|[^\n;&|])*")
_SHELLS: Final = ("sh", "bash", "dash", "zsh", "ash")
LAUNCHERS: Final = {
    "accelerate": "accelerate launch",
    "deepspeed": "deepspeed",
    "mpirun": "mpirun",
    "mpiexec": "mpiexec",
}


@dataclass(frozen=True)
class Launch:
    """A text without the options of torchrun that the operator sets."""

    text: str
    options: Mapping[str, str]
    """What was taken out: the full names of the options, and their values. Empty values: options without one."""
    torchruns: int
    """How often torchrun is started."""


def is_shell(command: Sequence[str]) -> bool:
    """Whether a command runs a shell."""
    return bool(command) and PurePosixPath(command[0]).name in _SHELLS


def shell_lines(command: Sequence[str]) -> set[int]:
    """Return the indexes of the words of a command that are shell texts: what follows `-c` of a shell."""
    if not is_shell(command):
        return set()
    flags = [index for index, word in enumerate(command) if re.fullmatch("-[a-z]*c", word)]
    return {flags[0] + 1} if flags and flags[0] + 1 < len(command) else set()


def is_shell_file(path: str, content: str, command: Sequence[str]) -> bool:
    """Whether a file is a shell script: by its name, its first line, or the shell that runs it."""
    first = content.split("\n", 1)[0]
    by_first_line = first.startswith("#!") and any(re.search(rf"\b{shell}\b", first) for shell in _SHELLS)
    by_name = PurePosixPath(path).suffix in (".sh", ".bash")
    return by_name or by_first_line or (is_shell(command) and path in command[1:])


def strip_words(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take the options out of a command that is a list of words. Returns the rest, and what was taken out."""
    start = next((index for index, word in enumerate(words) if _starts_torchrun(words, index)), None)
    if start is None:
        return list(words), {}
    rest, index = list(words[: start + 1]), start + 1
    taken: dict[str, str] = {}
    while index < len(words) and words[index].startswith("-"):
        written, equals, value = words[index].partition("=")
        option = _full(written)
        length = 2 if _takes_value(option) and not equals else 1
        if option in OPTIONS:
            taken[option] = value or " ".join(words[index + 1 : index + length])
        else:
            rest.extend(words[index : index + length])
        index += length
    return [*rest, *words[index:]], taken


def strip_text(text: str) -> Launch:
    """Take the options out of every torchrun command in a shell text."""
    done, position, count = "", 0, 0
    taken: dict[str, str] = {}
    for match in _TORCHRUN.finditer(text):
        if match.start() < position or _in_comment(text, match.start()):
            continue
        count += 1
        done += text[position : match.end()]
        kept, options, position = _strip_from(text, match.end())
        done += kept
        taken |= options
    return Launch(done + text[position:], taken, count)


def python_script(text: str) -> str:
    """Return the last Python script or module that a shell text runs, such as `train.py`. Empty: none."""
    return next((match["script"] for match in reversed([*_scripts(text)])), "")


def python_to_torchrun(text: str) -> str:
    """Let torchrun start the script that a shell text starts by Python, if there is exactly one."""
    matches = [*_scripts(text)]
    if len(matches) != 1:
        return text
    match = matches[0]
    return f"{text[: match.start()]}torchrun {match['script']}{text[match.end() :]}"


def words_to_torchrun(words: Sequence[str]) -> list[str]:
    """Let torchrun start the script of a command `python [options] script.py ...`; other commands stay."""
    if not words or not re.fullmatch(r"python[\d.]*", PurePosixPath(words[0]).name):
        return list(words)
    rest = [*words[1:]]
    while rest and re.fullmatch("-[uBOIsSE]+", rest[0]):
        rest.pop(0)
    if rest and (rest[0].endswith(".py") or rest[0] == "-m"):
        return ["torchrun", *rest]
    return list(words)


def launcher(texts: Sequence[str]) -> str:
    """Return another program that starts workers: its name in messages. Empty: none."""
    found = (name for text in texts for name in LAUNCHERS if re.search(rf"(?<![\w/.-]){name}(?=\s)", text))
    return next((LAUNCHERS[name] for name in found), "")


def barriers(text: str) -> list[str]:
    """Return the commands that run a barrier."""
    return [" ".join(found.replace("\\\n", " ").split()) for found in _BARRIER.findall(text)]


def _scripts(text: str) -> Iterator[re.Match[str]]:
    return (
        match for match in _PYTHON.finditer(text) if not _in_comment(text, match.start()) and not _is_barrier(match)
    )


def _is_barrier(match: re.Match[str]) -> bool:
    return "barrier" in match["script"] or match["script"].split()[-1] in ("pip", "venv")


def _in_comment(text: str, position: int) -> bool:
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return bool(re.search(r"(?:^|\s)#", line))


def _starts_torchrun(words: Sequence[str], index: int) -> bool:
    is_module = words[index] in ("torch.distributed.run", "torch.distributed.launch") and words[index - 1] == "-m"
    return PurePosixPath(words[index]).name == "torchrun" or is_module


def _strip_from(text: str, position: int) -> tuple[str, dict[str, str], int]:
    """Return the options that stay, those taken out, and where the script begins."""
    kept, dropped = "", ""
    taken: dict[str, str] = {}
    while match := _SPACE.match(text, position):
        space, word = match[0], _WORD.match(text, match.end())
        if not word or not word[0].startswith("-"):
            return kept + (dropped or space), taken, match.end()
        written, equals, value = word[0].partition("=")
        option, end = _full(written), word.end()
        if _takes_value(option) and not equals:
            gap = _SPACE.match(text, end)
            following = _WORD.match(text, gap.end()) if gap else None
            value, end = (following[0], following.end()) if following else ("", end)
        if option in OPTIONS:
            taken[option] = value.strip("\"'")
            dropped = dropped or space
        else:
            kept, dropped = kept + (dropped or space) + text[word.start() : end], ""
        position = end
    return kept, taken, position


def _full(written: str) -> str:
    """Return the full name of an option: torchrun accepts underscores and unambiguous beginnings."""
    name = written.replace("_", "-")
    known = (*OPTIONS, *_OTHERS)
    if name in known or not name.startswith("--"):
        return name
    matches = [option for option in known if option.startswith(name)]
    return matches[0] if len(matches) == 1 else name


def _takes_value(option: str) -> bool:
    return OPTIONS.get(option, _OTHERS.get(option, True))
