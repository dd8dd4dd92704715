"""Checks the words of docs, messages and comments: codespell for typos, words.toml for words that we avoid.

Run as `python docs/style/words.py`; it exits with 1 if it finds something.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
_CODE = re.compile(r"`[^`\n]*`|https?://\S+|\]\([^)\s]*\)|^[\s-]*\w+:(?=\s|$)")
"""Parts of a line that are not prose: code, addresses, targets of links, keys of YAML."""
_OFF, _ON = "<!-- words: off -->", "<!-- words: on -->"
_IGNORED_BY_CODESPELL = "uv.lock,*.sum,*.json,*.svg,words.toml"
_NO_TYPOS = "notin"
"""Parts of names that codespell takes for typos."""


class Finding(NamedTuple):
    """One word to replace."""

    path: str
    line: int
    word: str
    write: str

    def __str__(self) -> str:
        """Format the finding as compilers do."""
        return f"{self.path}:{self.line}: {self.word!r}: write {self.write}"


def find_words(path: str, text: str, rules: dict[str, Any]) -> Iterator[Finding]:
    """Yield the words of one file that the rules of words.toml reject. `path` is relative to the repository."""
    groups = {name for name, patterns in rules["groups"].items() if _is_in(path, patterns)}
    exceptions = rules["exceptions"].get(path, [])
    words = [
        (re.compile(rf"\b(?:{word['find']})\b", re.IGNORECASE), word["write"])
        for word in rules["words"]
        if groups & set(word.get("only", rules["groups"])) and word["find"] not in exceptions
    ]
    allowed = re.compile("|".join(rules["allowed"]["phrases"]), re.IGNORECASE)
    for number, line in _prose(text, markdown=path.endswith(".md")):
        prose = allowed.sub("", line)
        for pattern, write in words:
            if match := pattern.search(prose):
                yield Finding(path, number, match[0], write)


def _prose(text: str, *, markdown: bool) -> Iterator[tuple[int, str]]:
    """Yield numbered lines without code; fenced code blocks of Markdown and lines between the marks are left out."""
    off = fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        off = line != _ON and (off or line == _OFF)
        fenced ^= markdown and line.lstrip().startswith("```")
        if not off and not fenced:
            yield number, _CODE.sub("", line)


def _is_in(path: str, patterns: list[str]) -> bool:
    return any(fnmatch(path, pattern) or fnmatch(path, pattern.replace("**/", "")) for pattern in patterns)


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "-C", _ROOT, "ls-files"], capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if (_ROOT / path).is_file()]


def main() -> int:
    """Check all tracked files. Returns 1 if there is a finding."""
    rules = tomllib.loads((Path(__file__).parent / "words.toml").read_text())
    found = [
        finding
        for path in _tracked()
        if any(_is_in(path, patterns) for patterns in rules["groups"].values())
        for finding in find_words(path, (_ROOT / path).read_text(), rules)
    ]
    for finding in found:
        sys.stderr.write(f"{finding}\n")
    options = ["--skip", _IGNORED_BY_CODESPELL, "--ignore-words-list", _NO_TYPOS]
    spelling = subprocess.run([sys.executable, "-m", "codespell_lib", *options, *_tracked()], cwd=_ROOT, check=False)
    return 1 if found or spelling.returncode else 0


if __name__ == "__main__":
    raise SystemExit(main())
