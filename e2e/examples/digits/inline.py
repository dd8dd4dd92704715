"""Writes train.py into torchrunjob.yaml as its inline file; with --check only says whether it is there."""

import argparse
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
MARK = "  - path: /workspace/train.py\n    content: |\n"  # the last thing in the manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the manifest is out of date")
    check = parser.parse_args().check
    manifest = HERE / "torchrunjob.yaml"
    before = manifest.read_text()
    head, mark, _ = before.partition(MARK)
    if not mark:
        raise SystemExit(f"{manifest} has no inline /workspace/train.py")
    after = head + mark + textwrap.indent((HERE / "train.py").read_text(), " " * 6)
    if check and after != before:
        raise SystemExit(f"{manifest} does not hold the text of train.py: run {HERE / 'inline.py'}")
    if not check:
        manifest.write_text(after)


if __name__ == "__main__":
    main()
