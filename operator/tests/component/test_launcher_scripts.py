"""What a script sees and does warm is what it sees and does cold. Where that cannot be, it starts cold and says why."""

import os
import py_compile
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launching import Node, launching
from torchrun_launcher.protocol import address_of

SAME = {
    "annotations are values": """
        import torch
        def scale(by: float = 1.0): ...
        print(scale.__annotations__)
    """,
    "what an import sets in the environment": """
        import os, torch.distributed
        print(os.environ["SET_BY_AN_IMPORT"], os.environ["SET_BEFORE"])
    """,
    "the rank that Lightning has read": """
        import lightning_utilities.core.rank_zero as lightning
        print(lightning.rank_zero_only.rank)
    """,
    "a variable that is set after the import": """
        import os
        import torch
        os.environ["OMP_NUM_THREADS"] = "8"
        print(os.environ["OMP_NUM_THREADS"])
    """,
    "a variable that is read later": """
        import os
        os.environ["NCCL_DEBUG"] = os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        import torch
        print(os.environ.get("OMP_NUM_THREADS"), os.environ["TORCH_NCCL_BLOCKING_WAIT"])
    """,
}
EARLY = {
    "OMP_NUM_THREADS": "os.environ['OMP_NUM_THREADS'] = '8'",
    "TORCH_LOGS": 'os.environ.setdefault("TORCH_LOGS", "+dynamo")',
    "PYTORCH_CUDA_ALLOC_CONF": "os.environ.update({'PYTORCH_CUDA_ALLOC_CONF': 'backend:cudaMallocAsync'})",
    "MKL_NUM_THREADS": "os.putenv('MKL_NUM_THREADS', '1')",
}
LIGHTNING = """
import os
def rank_zero_only(): ...
rank_zero_only.rank = int(os.environ.get("RANK", 0))
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with launching(tmp_path) as made:
        set_by_import = "import os; os.environ.setdefault('SET_BEFORE', 'x'); os.environ['SET_BY_AN_IMPORT'] = '1'"
        made.modules(torch__distributed=set_by_import, lightning_utilities__core__rank_zero=LIGHTNING)
        (tmp_path / "site/lightning_utilities/__init__.py").write_text("")
        (tmp_path / "site/lightning_utilities/core/__init__.py").write_text("")
        made.environment |= {"SET_BEFORE": "by the container", "TORCHRUN_PRELOAD": "lightning_utilities.core.rank_zero"}
        yield made


def cold(node: Node, script: str, **environment: str) -> str:
    """Return what the script prints without the launcher."""
    done = subprocess.run(
        [sys.executable, "-u", script],
        cwd=node.directory,
        env={**node.environment, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_it_is_the_same(node: Node, text: str) -> None:
    told = "import os, sys, torch; print(torch.loaded_by == os.getpid(), file=sys.stderr)"
    script = node.script(f"{textwrap.dedent(text)}\n{told}\n")
    expected = cold(node, script, RANK="3")
    assert node.run(script, RANK="3") == (0, expected, "False\n")


@pytest.mark.parametrize(("name", "text"), EARLY.items(), ids=EARLY)
def test_a_script_that_prepares_the_import_of_torch_starts_cold(node: Node, name: str, text: str) -> None:
    script = node.script(f"import os\n{text}\nimport torch\nprint(torch.loaded_by == os.getpid())\n")
    code, out, err = node.run(script)
    assert (code, out) == (0, "True\n")
    assert err == (
        f"torchrun-operator: this worker starts cold: train.py sets {name} before it imports torch; "
        "set it in the env of the container\n"
    )


@pytest.mark.parametrize("name", ["train.pyc", "app.pyz"])
def test_a_program_that_is_no_text_starts_cold(node: Node, name: str) -> None:
    source = node.directory / node.script("print('trained')", "source.py")
    if name == "train.pyc":
        py_compile.compile(str(source), str(node.directory / name), doraise=True)
    else:
        with zipfile.ZipFile(node.directory / name, "w") as archive:
            archive.write(source, "__main__.py")
    code, out, err = node.run(name)
    assert (code, out) == (0, "trained\n")
    assert err == f"torchrun-operator: this worker starts cold: {name} is not a text\n"


def test_two_ways_to_the_same_python_lead_to_the_same_server() -> None:
    here, python = os.path.split(sys.executable)
    assert address_of(f"{here}/./{python}", {}) == address_of(sys.executable, {})


BLAS = """
import ctypes, sys, types
import numpy
from torchrun_launcher.worker import set_threads
told = []
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=told.append)
set_threads(3)
library = next(line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "openblas" in line)
blas = ctypes.CDLL(library)
names = [f"{scipy}openblas_get_num_threads{wide}" for scipy in ("", "scipy_") for wide in ("", "64_")]
print(told, *{getattr(blas, name)() for name in names if hasattr(blas, name)})
"""


def test_numpy_gets_as_many_threads_as_torch() -> None:
    done = subprocess.run([sys.executable, "-c", BLAS], capture_output=True, text=True, check=False)
    assert done.stdout == "[3] 3\n", done.stderr
