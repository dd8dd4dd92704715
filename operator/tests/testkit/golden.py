"""Golden files: what a test gets is compared with a YAML file that people have read.

UPDATE_GOLDEN=1 writes them anew; read the difference before you commit it.
"""

import os
from pathlib import Path
from typing import Any

import yaml


def check_golden(path: Path, found: Any) -> None:
    """Compare with the file. Comparing objects, not text, leaves quoting and order out of it."""
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(found, sort_keys=False, width=120))
    assert found == yaml.safe_load(path.read_text())
