"""Writes the scripts of examples into their manifests as inline files; --check only checks them."""

import argparse
import re
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
MARK = re.compile(r"^  - path: /workspace/(?P<script>\w+\.py)\n    content: \|\n", re.MULTILINE)
"""The start of a script, which is the last part of the manifest and also a file next to it."""


def inlined(manifest: Path) -> str:
    """Return the text of a manifest with its current script."""
    text = manifest.read_text()
    mark = MARK.search(text)
    if not mark:
        raise SystemExit(f"{manifest} has no inline script: the last of its files must be /workspace/NAME.py")
    return text[: mark.end()] + textwrap.indent((manifest.parent / mark["script"]).read_text(), " " * 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a manifest is out of date")
    check = parser.parse_args().check
    for manifest in sorted(HERE.glob("*/torchrunjob.yaml")):
        wanted = inlined(manifest)
        if manifest.read_text() == wanted:
            continue
        if check:
            raise SystemExit(f"{manifest} does not have the current text of its script: run {Path(__file__)}")
        manifest.write_text(wanted)


if __name__ == "__main__":
    main()
