"""Writes tables and picture of the published figures: `python -m bench.recovery.report DIRECTORY`."""

import argparse
import json
from pathlib import Path

from bench.recovery import bars
from bench.recovery.picture import picture
from bench.recovery.results import facts_told, table

_NAME = "recovery"
_BEGIN, _END = "<!-- figures -->\n", "<!-- /figures -->\n"
_BARS = "Bars for TorchrunJobs:"


def with_figures(page: str, figures: str) -> str:
    """Put the figures between the marks of a page. Raises ValueError if a mark is missing."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {_BEGIN.strip()} and {_END.strip()}")
    return f"{before}{begin}{figures}{end}{after}"


def main() -> None:
    """Write both files, or check with --check that they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is out of date")
    options = parser.parse_args()
    content = json.loads((options.directory / f"{_NAME}.json").read_text())
    page = options.directory / f"{_NAME}.md"
    figures = "\n\n".join([facts_told(content), table(content), _BARS, bars.told(content)])
    wanted = {
        page: with_figures(page.read_text(), f"\n{figures}\n\n"),
        options.directory / f"{_NAME}.svg": picture(content),
    }
    for path, text in wanted.items():
        if options.check and (not path.exists() or path.read_text() != text):
            raise SystemExit(f"{path} does not show {_NAME}.json: run `make generate`")
        if not options.check:
            path.write_text(text)


if __name__ == "__main__":
    main()
