"""The launcher: workers forked from its server behave like `python -u script`."""

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchrun_launcher
from launching import ABOUT, TORCH, UNFIT, WAITS, Node, gone, launching, servers, wait_for
from torchrun_launcher import ARCHIVE, shim


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with launching(tmp_path) as made:
        yield made


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_a_worker_behaves_like_plain_python(node: Node, safe_path: str) -> None:
    script = node.script(ABOUT)
    node.environment["PYTHONSAFEPATH"] = safe_path
    arguments = [script, "--lr", "0.1", "ä"]
    plain = subprocess.run(
        [sys.executable, "-u", *arguments],
        cwd=node.directory,
        env={**node.environment, "RANK": "3"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    expected = json.loads(plain.stdout.splitlines()[0])
    assert expected["warm"] is False
    expected |= {"warm": True, "python_exec": None}
    assert node.about(*arguments, RANK="3") == expected
    assert node.about(*arguments, RANK="3") == expected
    assert len(servers(os.getpid())) == 1


def test_a_module_is_run_as_python_does(node: Node) -> None:
    node.script(ABOUT, "training.py")
    about = node.about("-m", "training", "x")
    assert about["argv"] == [str(node.directory / "training.py"), "x"]
    assert (about["name"], about["path"], about["main"], about["warm"]) == ("__main__", str(node.directory), True, True)
    assert node.run("-m", "missing")[::2] == (1, f"{sys.executable}: No module named missing\n")


def test_the_number_of_threads_is_the_workers_own(node: Node) -> None:
    script = node.script(ABOUT)
    assert [node.about(script, OMP_NUM_THREADS=count)["threads"] for count in ("4", "1", "2")] == [4, 1, 2]


def test_another_environment_has_another_server(node: Node) -> None:
    script = node.script("import os, torch; print(torch.loaded_by, os.environ['PATH'])")
    outputs = [node.run(script, PATH=f"{os.environ['PATH']}:{extra}")[1].split() for extra in ("/a", "/b", "/a")]
    assert outputs[0] == outputs[2] != outputs[1]
    assert [words[1][-2:] for words in outputs] == ["/a", "/b", "/a"]


@pytest.mark.parametrize(
    ("script", "code"),
    [("import sys; sys.exit(3)", 3), ("import os; os._exit(4)", 4), ("import os; os.kill(os.getpid(), 11)", -11)],
)
def test_it_ends_as_the_worker_ends(node: Node, script: str, code: int) -> None:
    assert node.run(node.script(script)) == (code, "", "")


@pytest.mark.parametrize(
    "text", ["def f():\n    raise ValueError('bad loss')\nf()\n", "x = (", "import sys; sys.exit('no')"]
)
def test_a_traceback_shows_the_script_alone(node: Node, text: str) -> None:
    script = node.script(text)
    plain = subprocess.run(
        [sys.executable, "-u", script], cwd=node.directory, stderr=subprocess.PIPE, text=True, check=False
    )
    assert node.run(script) == (1, "", plain.stderr)


def test_random_numbers_differ_between_workers(node: Node) -> None:
    script = node.script("import random, numpy; print(random.random(), numpy.random.rand())")
    drawn = [node.run(script, TORCHRUN_PRELOAD="numpy,random")[1].split() for _ in range(2)]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_signals_reach_the_worker_and_what_it_has_started(node: Node) -> None:
    worker = node.start(node.script(WAITS))
    assert worker.stdout is not None
    first = sorted([worker.stdout.readline().strip(), worker.stdout.readline().strip()])
    assert first[1] == "child", worker.communicate(timeout=60)
    os.killpg(worker.pid, signal.SIGTERM)
    assert worker.communicate(timeout=60)[0] == "got 15\n"
    assert worker.returncode == 7
    wait_for(lambda: gone(int(first[0])), "the worker has ended")


def test_killing_the_shim_kills_the_worker(node: Node) -> None:
    worker = node.start(node.script(WAITS))
    assert worker.stdout is not None
    pid = next(int(line) for line in (worker.stdout.readline(), worker.stdout.readline()) if line.strip().isdigit())
    worker.kill()
    worker.communicate(timeout=60)  # the worker's child has closed its output too
    wait_for(lambda: gone(pid), "the worker has ended")
    assert node.about(node.script(ABOUT))["warm"] is True


def test_a_worker_does_not_outlive_the_server(node: Node) -> None:
    worker = node.start(node.script(WAITS.replace("child = os.fork()", "child = 1")))
    assert worker.stdout is not None
    pid = int(worker.stdout.readline())
    for server in servers(os.getpid()):
        os.kill(server, signal.SIGKILL)
    err = worker.communicate(timeout=60)[1]
    assert worker.returncode == -signal.SIGKILL
    assert "the server of warm starts has ended" in err
    wait_for(lambda: gone(pid), "the worker has ended")
    assert node.about(node.script(ABOUT))["warm"] is True


@pytest.mark.parametrize("why", UNFIT)
def test_workers_that_must_not_be_forked_are_not(node: Node, why: str) -> None:
    (node.directory / "site/torch/__init__.py").write_text(TORCH + UNFIT[why])
    script = node.script("import os, torch; print(torch.loaded_by == os.getpid(), flush=True); os._exit(0)")
    for _ in range(2):
        code, out, err = node.run(script)
        assert (code, out) == (0, "True\n")
        assert f"this worker starts cold: {why}" in err


def test_without_torch_workers_start_cold_and_say_why(node: Node) -> None:
    (node.directory / "site/torch/__init__.py").write_text("raise ImportError('no torch here')")
    code, out, err = node.run(node.script("print('trained')"))
    assert (code, out) == (0, "trained\n")
    assert "this worker starts cold: torch cannot be loaded: ImportError('no torch here')" in err


@pytest.mark.parametrize("arguments", [("nothing.py",), ("-c", "print(1)"), ()])
def test_other_arguments_are_run_by_python_itself(node: Node, arguments: tuple[str, ...]) -> None:
    plain = subprocess.run(
        [sys.executable, "-u", *arguments],
        cwd=node.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    code, out, err = node.run(*arguments)
    assert (code, out) == (plain.returncode, plain.stdout)
    assert err.startswith("torchrun-operator: this worker starts cold: ")
    assert err.partition("\n")[2] == plain.stderr


def test_the_hook_leaves_a_server_that_loads_torch_before_any_worker(node: Node) -> None:
    command = ["python3", str(node.program), "--start", sys.executable]
    hook = subprocess.run(command, cwd=node.directory, env=node.environment, check=False)
    assert hook.returncode == 0
    (server,) = wait_for(lambda: servers(1), "the server is there")
    try:
        script = node.script("import torch; print(torch.loaded_by)")
        assert node.run(script)[1].split() == [str(server)]
        assert servers(os.getpid()) == []
    finally:
        os.kill(server, signal.SIGKILL)


def test_a_hook_that_finds_no_python_does_not_end_the_container(node: Node) -> None:
    command = [sys.executable, str(node.program), "--start", "no-such-program"]
    assert subprocess.run(command, env=node.environment, check=False).returncode == 0


AGENT = """
import subprocess, sys
print(subprocess.run(sys.argv[1:], check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)
input()
"""


def start_agent(node: Node, script: str, **environment: str) -> subprocess.Popen[str]:
    """Start a process that runs one worker and then waits for a line."""
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, str(node.program), "-u", script],
        cwd=node.directory,
        env={**node.environment, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_log_of_the_agent_names_a_module_that_cannot_be_loaded(node: Node) -> None:
    script = node.script("import json, torch, os; print(torch.loaded_by != os.getpid())")
    with start_agent(node, script, TORCHRUN_PRELOAD="missing,json") as agent:
        assert agent.stderr is not None
        logged = agent.stderr.readline(), agent.stderr.readline()
        out, _ = agent.communicate("\n")
    assert out == "True\n"
    assert logged[0].startswith("torchrun-operator: cannot load missing for warm starts: ModuleNotFoundError(")
    assert "torch.nn.parallel, json loaded in " in logged[1]


def test_what_only_some_workers_need_is_loaded_once_the_node_rests(node: Node) -> None:
    mark = node.directory / "loaded"
    (node.directory / "site/torch/_dynamo.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()")
    script = node.script("import sys, torch; print('torch._dynamo' in sys.modules)")
    assert node.run(script) == (0, "False\n", "")
    wait_for(mark.exists, "the server has loaded it")
    assert node.run(script) == (0, "True\n", "")


def test_what_a_worker_leaves_behind_forbids_no_fork(node: Node) -> None:
    # As the first process of a container, the server inherits it; here it asks Linux for that.
    inherits = "import ctypes; ctypes.CDLL(None).prctl(36, 1)\n"
    mark = node.directory / "loaded"
    (node.directory / "site/torch/__init__.py").write_text(TORCH + inherits)
    (node.directory / "site/torch/_dynamo.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()")
    leaves = node.script(
        f"import subprocess, torch; subprocess.run({'sleep 60 >&- 2>&- & echo $!'!r}, shell=True)", "a.py"
    )
    code, out, _ = node.run(leaves)
    assert code == 0
    try:
        wait_for(mark.exists, "the server has loaded more")
        script = node.script("import os, torch; print(torch.loaded_by != os.getpid())")
        assert node.run(script) == (0, "True\n", "")
    finally:
        os.kill(int(out), signal.SIGKILL)


def test_the_server_ends_with_the_agent(node: Node) -> None:
    script = node.script("import torch; print(torch.loaded_by)")
    with start_agent(node, script) as agent:
        assert agent.stdout is not None
        server = int(agent.stdout.readline())
        assert servers(agent.pid) == [server]
        agent.communicate("\n")
    wait_for(lambda: gone(server), "the server has ended")


def test_the_archive_may_be_replaced_while_the_server_lives(node: Node) -> None:
    script = node.script("import torch; print(torch.loaded_by); raise ValueError('bad loss')")
    first = node.run(script)
    shebang, _, archive = node.program.read_bytes().partition(b"\n")
    node.program.write_bytes(shebang + b"\n" + b"#" * 999 + archive)  # the files have moved
    assert node.run(script) == first


def test_a_python_that_is_too_old_becomes_that_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: became.append((path, arguments)))
    shim.Shim().become_newer("/opt/venv/bin/python3", ["-u", "train.py"])
    assert became == [("/opt/venv/bin/python3", ["/opt/venv/bin/python3", ARCHIVE, "-u", "train.py"])]


def test_an_agent_whose_python_is_too_old_starts_workers_cold(node: Node) -> None:
    node.modules(sitecustomize="import sys; sys.version_info = (3, 9, 0)")
    code, out, err = node.run(node.script("print('trained')"))
    assert (code, out) == (0, "trained\n")
    assert err == "torchrun-operator: this worker starts cold: Python is older than 3.10\n"


FOUND_BY_ANY_PYTHON = frozenset(("__init__", "__main__", "first", "interpreter", "log", "shim", "process", "protocol"))
"""What runs before it is known whether the Python in PATH is new enough: old ones must be able to read it."""


def test_it_is_python_3_10_and_old_pythons_find_a_newer_one() -> None:
    sources = sorted(Path(torchrun_launcher.__file__).parent.glob("*.py"))
    assert {source.stem for source in sources} > FOUND_BY_ANY_PYTHON
    for source in sources:
        ast.parse(source.read_text(), feature_version=(3, 7) if source.stem in FOUND_BY_ANY_PYTHON else (3, 10))
        assert "from __future__ import annotations\n" in source.read_text(), source
