"""The lint rules that ban the clock in decisions: they find every way to read it, and only there."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "operator" / "src"
CORE = "torchrun_operator/core/x.py"


def banned(code: str, file: str = CORE) -> list[str]:
    """Return the names in this code that the lint rules ban in that file. The file need not exist."""
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "json", "--no-cache", "--ignore-noqa"]
    command += ["--stdin-filename", str(SOURCE / file), "-"]
    done = subprocess.run(command, input=code, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [found["message"].split("`")[1] for found in json.loads(done.stdout) if found["code"] == "TID251"]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import time", "time"),
        ("import time as clock", "time"),
        ("from time import monotonic", "time"),
        ("def f():\n    import time", "time"),
        ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ("from datetime import datetime as moment\nmoment.now(UTC)", "datetime.datetime.now"),
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("import datetime as dt\ndt.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("from datetime import datetime\ndatetime.today()", "datetime.datetime.today"),
        ("from datetime import date\ndate.today()", "datetime.date.today"),
        ("import datetime\ndatetime.date.today()", "datetime.date.today"),
        ("from datetime import datetime\nread = datetime.now", "datetime.datetime.now"),
        ("from datetime import datetime\ndef f(now=datetime.now): ...", "datetime.datetime.now"),
        ("from datetime import datetime\ndatetime.now()  # noqa: TID251", "datetime.datetime.now"),
    ],
)
def test_reading_the_clock_is_banned(code: str, name: str) -> None:
    assert banned(code) == [name]


@pytest.mark.parametrize(
    "code",
    [
        "from datetime import datetime, timedelta\ndatetime.fromisoformat(text) + timedelta(seconds=1)",
        "from datetime import time\ntime(12)",
        "def f(now):\n    return now.now",
    ],
)
def test_working_with_times_is_not(code: str) -> None:
    assert banned(code) == []


def test_the_clock_is_banned_wherever_import_linter_forbids_its_module() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    pure = [
        module
        for contract in contracts
        if "time" in contract.get("forbidden_modules", ())
        for module in contract["source_modules"]
    ]
    assert "torchrun_operator.core" in pure
    assert [module for module in pure if not banned("import time", _file_of(module))] == []


def _file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/deep/x.py" if (SOURCE / path).is_dir() else f"{path}.py"


@pytest.mark.parametrize("file", ["torchrun_operator/reconcile/x.py", "torchrun_operator/telemetry/x.py"])
def test_the_clock_may_be_read_elsewhere(file: str) -> None:
    assert banned("import time", file) == []
