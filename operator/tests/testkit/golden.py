"""Golden files: a test compares its result with a YAML file that a person has reviewed.

UPDATE_GOLDEN=1 writes the files. Review the changes before you commit them.
"""

import os
from pathlib import Path
from typing import Any

import yaml


def check_golden(path: Path, found: Any) -> None:
    """Compare with the file. The comparison ignores quoting and order, because it is one of objects."""
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(found, sort_keys=False, width=120))
    assert found == yaml.safe_load(path.read_text())
