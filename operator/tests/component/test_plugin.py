"""The archive of the krew plugin: what it has, its manifest, and its program in a plain Python without our packages."""

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from krew_archive import PROGRAM, TARGETS, build, here, manifest, version
from torchrun_cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
URL = "https://example.com/v0"


def _uv() -> str:
    pinned = next(line for line in (ROOT / "tools" / "uv.txt").read_text().splitlines() if line.startswith("uv=="))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torchrun-operator" / "tools"
    found = cache / pinned.split()[0].replace("==", "-") / "bin" / "uv"
    if not found.exists():
        pytest.skip(f"no {found}: make lint installs it")
    return str(found)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the archive for this computer and this Python. Return its directory."""
    directory = tmp_path_factory.mktemp("plugin")
    build(_uv(), directory, [here()], [PYTHON], URL)
    return directory


@pytest.fixture(scope="module")
def plugin(built: Path) -> Path:
    """Unpack the archive, and link to its program as krew does. Return the link."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(built / "store", filter="data")
    (built / "bin").mkdir()
    link = built / "bin" / "kubectl-torchrun"
    link.symlink_to(built / "store" / PROGRAM)
    return link


def run(plugin: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the program with the plain Python below the virtual environment, which has none of the libraries."""
    python = Path(sys.base_prefix) / "bin" / f"python{PYTHON}"
    env = {"PATH": os.environ["PATH"], "HOME": str(plugin.parent)}
    command = [str(python), "-I", "-S", str(plugin), *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_manifest_names_the_archive(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    found: dict[str, Any] = yaml.safe_load((built / "torchrun.yaml").read_text())
    assert found["metadata"] == {"name": "torchrun"}
    assert found["spec"]["version"] == f"v{version()}"
    assert found["spec"]["platforms"] == [
        {
            "selector": {"matchLabels": {"os": here().os, "arch": here().arch}},
            "uri": f"{URL}/{archive.name}",
            "sha256": digest,
            "bin": PROGRAM,
        }
    ]
    assert (built / f"{archive.name}.sha256").read_text() == f"{digest}  {archive.name}\n"


def test_each_platform_is_in_the_manifest_once() -> None:
    spec: Any = manifest(dict.fromkeys(TARGETS, ("u", "s")))["spec"]
    selected = [each["selector"]["matchLabels"] for each in spec["platforms"]]
    assert selected == [{"os": os_, "arch": arch} for os_ in ("linux", "darwin") for arch in ("amd64", "arm64")]


def test_native_code_is_only_where_its_python_finds_it(plugin: Path) -> None:
    lib = plugin.resolve().parent / "lib"
    assert sorted(each.name for each in lib.iterdir()) == ["any", f"cpython-{PYTHON.replace('.', '')}"]
    assert list((lib / "any").rglob("*.so")) == []
    native = {path.relative_to(lib).parts[1] for path in lib.rglob("*.so")}
    assert native == {"markupsafe", "pydantic_core", "yaml"}


def test_help(plugin: Path) -> None:
    done = run(plugin, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: kubectl torchrun ")
    assert run(plugin, "version").stdout == f"{version()}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_be_imported(plugin: Path, command: str) -> None:
    done = run(plugin, command, "--help")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_render(plugin: Path) -> None:
    done = run(plugin, "render", "sample:elastic-torchrun", "--set", "max_nodes=3", "min_nodes=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["spec"]["nnodes"] == "2:3"
    wrong = run(plugin, "validate", "sample:plain-ddp", "--set", "max_nodes=1")
    assert (wrong.returncode, 'MIN is greater than MAX; write "1:2"' in wrong.stderr) == (2, True)


def test_another_python_is_named(plugin: Path) -> None:
    lib = plugin.resolve().parent / "lib"
    own = lib / f"cpython-{PYTHON.replace('.', '')}"
    own.rename(lib / "cpython-399")
    try:
        done = run(plugin, "--help")
    finally:
        (lib / "cpython-399").rename(own)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: python3 is Python {PYTHON} (")
    assert done.stderr.endswith("this plugin runs with 3.99\n")
