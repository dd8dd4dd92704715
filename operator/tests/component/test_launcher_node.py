"""The launcher as the first process of a container: the agent behaves like the command, and shares its torch."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launching import ABOUT, TORCH, UNFIT, WAITS, Node, gone, launching, wait_for
from torchrun_launcher.server import REST_SECONDS

# A torchrun that starts one worker, as the real one does, and tells about itself.
TORCHRUN = """
import json, os, subprocess, sys, torch
python = os.environ.get("PYTHON_EXEC", sys.executable)
about = {
    "argv": sys.argv, "name": __name__, "path": sys.path[0], "orig": sys.orig_argv[-2:], "directory": os.getcwd(),
    "program": open("/proc/self/comm").read().strip(), "environment": {**os.environ, "PYTHON_EXEC": ""},
    "main": sys.modules["__main__"].__dict__ is globals(),
}
print(json.dumps({**about, "pid": os.getpid(), "loaded_by": torch.loaded_by}), flush=True)
worker = subprocess.run([python, "-u", sys.argv[1]])
sys.exit(worker.returncode if worker.returncode >= 0 else 128 - worker.returncode)
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with launching(tmp_path) as made:
        program = tmp_path / "bin/torchrun"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\n{TORCHRUN}")
        program.chmod(0o755)
        made.environment["PATH"] = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield made


def start(node: Node, *command: str) -> subprocess.Popen[str]:
    """Start a container with that command."""
    return subprocess.Popen(
        [sys.executable, str(node.program), "--first", *command],
        cwd=node.directory,
        env=node.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(node: Node, *command: str) -> tuple[int, list[str], str]:
    """Run a container to its end. Returns exit code, the lines of its output, and what it says about itself."""
    with start(node, *command) as first:
        out, err = first.communicate(timeout=60)
    return first.returncode, out.splitlines(), err


def plain(node: Node, *command: str) -> tuple[int, list[str], str]:
    """Run the command itself."""
    environment = {name: value for name, value in node.environment.items() if name != "PYTHON_EXEC"}
    done = subprocess.run(
        command, cwd=node.directory, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def about(line: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(line)
    return {name: value for name, value in told.items() if name not in ("pid", "loaded_by", "environment")}


@pytest.mark.parametrize(
    "command", [("torchrun",), (sys.executable, "-m", "torch.distributed.run")], ids=["program", "module"]
)
def test_agent_and_worker_share_one_torch(node: Node, command: tuple[str, ...]) -> None:
    node.modules(torch__distributed____init__="", torch__distributed__run=TORCHRUN)
    (node.directory / "site/torch/distributed.py").unlink()
    script = node.script(ABOUT)
    code, lines, err = run(node, *command, script)
    plain_code, plain_lines, _ = plain(node, *command, script)
    assert (code, plain_code) == (0, 0), err
    agent, worker = json.loads(lines[0]), json.loads(lines[1])
    assert about(lines[0]) == about(plain_lines[0])
    assert agent["environment"] == {**json.loads(plain_lines[0])["environment"], "PYTHON_EXEC": ""}
    assert agent["loaded_by"] != agent["pid"], "the first process has loaded it"
    assert worker == {**json.loads(plain_lines[1]), "warm": True, "alone": True}
    assert "torchrun-operator: workers start warm: torch, torch.distributed, " in err


def test_a_process_that_torch_runs_while_it_is_loaded_delays_nothing(node: Node) -> None:
    more = "import subprocess, time\nsubprocess.run(['true'])\nloaded_at = time.time()\n"
    (node.directory / "site/torch/__init__.py").write_text(TORCH + more)
    (node.directory / "bin/torchrun").write_text(
        f"#!{sys.executable}\nimport time, torch; print(time.time() - torch.loaded_at)"
    )
    code, lines, err = run(node, "torchrun")
    assert code == 0, err
    assert float(lines[0]) < REST_SECONDS


@pytest.mark.parametrize(
    ("script", "code"),
    [("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 11)", 128 + 11)],
)
def test_the_container_ends_as_the_agent_ends(node: Node, script: str, code: int) -> None:
    assert run(node, "torchrun", node.script(script))[0] == code


def test_a_killed_agent_ends_the_container_and_its_workers(node: Node) -> None:
    with start(node, "torchrun", node.script(WAITS)) as first:
        assert first.stdout is not None
        agent = json.loads(first.stdout.readline())["pid"]
        worker = next(
            int(line) for line in (first.stdout.readline(), first.stdout.readline()) if line.strip().isdigit()
        )
        os.kill(agent, signal.SIGKILL)
        first.communicate(timeout=60)
        assert first.returncode == -signal.SIGKILL
    wait_for(lambda: gone(worker), "the worker has ended")


def test_signals_reach_the_agent(node: Node) -> None:
    (node.directory / "bin/torchrun").write_text(f"#!{sys.executable}\n{WAITS}")
    with start(node, "torchrun") as first:
        assert first.stdout is not None
        assert "child" in {first.stdout.readline().strip(), first.stdout.readline().strip()}
        first.terminate()
        assert first.stdout.readline() == "got 15\n"
        assert first.wait(60) == 7
        os.killpg(first.pid, signal.SIGKILL)  # the child of the agent, which outlives it outside a container


def test_a_process_of_the_shell_before_does_not_forbid_forks(node: Node) -> None:
    first = f"exec {sys.executable} {node.program} --first torchrun {node.script(ABOUT)}"
    text = f"sleep 60 >/dev/null 2>&1 & echo $!; {first}"
    shell = subprocess.run(
        ["bash", "-c", text], cwd=node.directory, env=node.environment, capture_output=True, text=True, check=True
    )
    before, _, worker, _ = shell.stdout.splitlines()
    os.kill(int(before), signal.SIGKILL)
    assert json.loads(worker)["warm"] is True
    assert "start cold" not in shell.stderr


TOLD = """
import os, signal, time
got = []
signal.signal(signal.SIGUSR1, lambda *_: got.append("a checkpoint"))
assert os.getppid() == 1, "the first process has forked it"
os.kill(1, signal.SIGUSR1)
os.system("pkill -USR1 -f train[.]py")
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.3)
print(*set(got), flush=True)
"""


def test_a_signal_for_workers_does_not_end_the_agent(node: Node) -> None:
    command = [sys.executable, str(node.program), "--first", "torchrun", node.script(TOLD)]
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command],
        cwd=node.directory,
        env=node.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[1:]) == (0, ["a checkpoint"]), done.stderr


SLOW = "import os, time; os.write(1, b'loading\\n')\nwhile True: time.sleep(0.01)"


def test_a_signal_before_the_agent_ends_the_container_at_once(node: Node) -> None:
    (node.directory / "site/torch/__init__.py").write_text(SLOW)
    with start(node, "torchrun", "train.py") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "loading\n"
        first.terminate()
        assert first.wait(60) == -signal.SIGTERM


NOT_PYTHON = "#!/bin/sh\nexec python3 -c 'print(1)'\n"


@pytest.mark.parametrize(
    ("program", "torch", "why"),
    [
        ("", "raise ImportError('no torch here')", "torch cannot be loaded: ImportError('no torch here')"),
        *(("", TORCH + text, why) for why, text in UNFIT.items()),
        (NOT_PYTHON, TORCH, "bin/torchrun does not begin with #! and the path of a Python"),
    ],
)
def test_what_cannot_be_forked_starts_as_without_a_launcher(node: Node, program: str, torch: str, why: str) -> None:
    (node.directory / "site/torch/__init__.py").write_text(torch)
    if program:
        (node.directory / "bin/torchrun").write_text(program)
    script = node.script("import os, torch; print(torch.loaded_by == os.getpid(), flush=True); os._exit(0)")
    code, lines, err = run(node, "torchrun", script)
    plain_code, plain_lines, plain_err = plain(node, "torchrun", script)
    assert (code, lines[1:]) == (plain_code, plain_lines[1:])
    cold = [line for line in err.splitlines() if line.startswith("torchrun-operator: this node starts cold: ")]
    assert len(cold) == 1
    assert why in cold[0]
    own = [line for line in err.splitlines() if not line.startswith("torchrun-operator: ")]
    assert own == plain_err.splitlines()


@pytest.mark.parametrize(
    "beginning",
    [
        f"#!/usr/bin/env {Path(sys.executable).name}\n",
        f"#!/usr/bin/env -S {sys.executable} -E\n",
        f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_the_python_of_a_program_is_found(node: Node, beginning: str) -> None:
    program = node.directory / "bin/torchrun"
    program.write_text(beginning + program.read_text().partition("\n")[2])
    script = node.script(ABOUT)
    code, lines, err = run(node, "torchrun", script)
    assert (code, "cold" in err) == (0, False)
    assert json.loads(lines[1])["warm"] is True


def test_a_missing_program_is_named(node: Node) -> None:
    (node.directory / "bin/torchrun").unlink()
    node.environment["PATH"] = str(node.directory / "bin")
    code, lines, err = run(node, "torchrun", "train.py")
    assert (code, lines) == (127, [])
    assert err.splitlines()[-1] == 'torchrun-operator: exec: "torchrun": executable file not found in $PATH'
