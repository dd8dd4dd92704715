"""Puts files of the conversion's tests into the pages about other systems, so that no page becomes stale."""

import re
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_FILES: Final = _ROOT / "operator" / "tests" / "cli" / "convert"
_PAGES: Final = _ROOT / "docs" / "how-to" / "coming-from"
_PAIR: Final = re.compile(r"<!-- pair: (\S+) -->\n(?:\n<table>.*?</table>\n)?", re.DOTALL)
_LANGUAGES: Final = {".sh": "sh", ".yaml": "yaml"}


def coming_from() -> dict[Path, str]:
    """Return the pages with the current text of each pair of files: what one has, and the manifest."""
    return {page: _PAIR.sub(_table, page.read_text()) for page in sorted(_PAGES.glob("*.md"))}


def _table(match: re.Match[str]) -> str:
    before, after = _pair(_FILES / match[1])
    cells = f"<tr><th>Before</th><th>After</th></tr>\n<tr><td>\n\n{before}\n\n</td><td>\n\n{after}\n\n</td></tr>"
    return f"<!-- pair: {match[1]} -->\n\n<table>\n{cells}\n</table>\n"


def _pair(path: Path) -> tuple[str, str]:
    """Return the fenced texts of the source and of the manifest."""
    expected, shell = path.with_suffix(".expected.yaml"), path.with_suffix(".sh")
    if expected.exists():
        return _fenced(path.with_suffix(".yaml")), _fenced(expected)
    return _fenced(shell), _fenced(path.with_suffix(".yaml"))


def _fenced(path: Path) -> str:
    text = path.read_text().strip()
    templated = path.suffix == ".yaml" and ("{%" in text or "{{" in text)  # no YAML before it is rendered
    return f"```{'jinja' if templated else _LANGUAGES[path.suffix]}\n{text}\n```"
