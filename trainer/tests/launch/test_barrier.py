"""The barrier with real processes: which nodes it holds, which pass, and how it names the missing ones."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from torchrun_trainer.launch.barrier import PORT, node_options
from torchrun_trainer.launch.barrier_protocol import BarrierError, BarrierTimeoutError, NodeOptions, listed

COMMAND = [sys.executable, "-m", "torchrun_trainer.barrier"]
OPERATOR = {"TORCHRUN_JOB_NAME": "digits", "TORCHRUN_NODE_INDEX": "2", "PET_NNODES": "2:1048576"}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ((3, "master", 1), {}, NodeOptions(3, 1, "master", PORT)),
        ((3, "master:5000", 1), OPERATOR, NodeOptions(3, 1, "master", 5000)),
        ((3, "[fd00::1]:5000", 0), {}, NodeOptions(3, 0, "fd00::1", 5000)),
        ((3, "[fd00::1]", 0), {}, NodeOptions(3, 0, "fd00::1", PORT)),
        ((3, "fd00::1", 0), {}, NodeOptions(3, 0, "fd00::1", PORT)),
        ((None, None, None), OPERATOR, NodeOptions(2, 2, "digits-0.digits", PORT)),
        ((None, "a", None), {"PET_NNODES": "4", "PET_NODE_RANK": "3"}, NodeOptions(4, 3, "a", PORT)),
        ((2, "a", None), {"NODE_RANK": "1"}, NodeOptions(2, 1, "a", PORT)),
    ],
)
def test_arguments(arguments: tuple[Any, Any, Any], environment: dict[str, str], expected: NodeOptions) -> None:
    assert node_options(*arguments, environment) == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((None, "a", 0), {}, "--num-nodes is required: the environment does not set it"),
        ((2, None, 0), {}, "--connect is required: the environment does not set it"),
        ((2, "a", None), {}, "--rank is required: the environment does not set it"),
        ((0, "a", 0), {}, "--num-nodes is 0; it must be at least 1"),
        ((2, "a", 2), {}, "--rank is 2; with --num-nodes 2 it must be from 0 to 1"),
        ((2, "a", -1), {}, "--rank is -1; with --num-nodes 2 it must be from 0 to 1"),
        ((2, "a:b", 0), {}, "--connect is 'a:b'; it must be HOST or HOST:PORT"),
        ((2, "a:70000", 0), {}, "--connect is 'a:70000'; it must be HOST or HOST:PORT"),
        ((2, "", 0), {}, "--connect is ''; it must be HOST or HOST:PORT"),
        ((None, "a", 0), {"PET_NNODES": "x"}, "PET_NNODES is 'x' in the environment; it should be a number"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, Any, Any], environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        node_options(*arguments, environment)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [([4], "node 4"), ([1, 2], "nodes 1, 2"), (list(range(22)), f"nodes {', '.join(map(str, range(20)))} and 2 more")],
)
def test_listed(ranks: list[int], words: str) -> None:
    assert listed("node", ranks) == words


class Nodes:
    """Starts the command as nodes of one job, and ends the nodes that still run."""

    def __init__(self, stack: ExitStack) -> None:
        with socket.create_server(("", 0)) as free:
            self.port = free.getsockname()[1]
        self._stack = stack

    def start(
        self, rank: int, num_nodes: int = 3, *options: str, shell: bool = False, timeout: str = "60"
    ) -> subprocess.Popen[str]:
        """Start a node; with ``shell`` as the child of a shell that runs until its standard input is closed."""
        command = [*COMMAND, f"--num-nodes={num_nodes}", f"--rank={rank}", f"--connect=localhost:{self.port}"]
        command += [f"--timeout={timeout}", *options]
        if shell:
            command = ["sh", "-c", '"$@"; echo "passed: $?"; read line; :', "sh", *command]
        process = self._stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        self._stack.callback(process.kill)
        return process

    def hello(self, rank: int, num_nodes: int = 3, **more: object) -> "Line":
        """Connect as a hand-made node as soon as node 0 listens."""
        connection: list[socket.socket] = []

        def connected() -> bool:
            try:
                connection.append(socket.create_connection(("localhost", self.port), timeout=60))
            except OSError:
                return False
            return True

        until(connected)
        self._stack.enter_context(connection[0])
        line = Line(connection[0], self._stack.enter_context(connection[0].makefile("rw")))
        hello = {"protocol": "torchrun_trainer.barrier/1", "rank": rank, "num_nodes": num_nodes, "host": "test"}
        line.say(**{**hello, "open": False, **more})
        return line

    def processes(self) -> list[str]:
        """Return the process ids that belong to these nodes."""
        return [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if self._is_node(path)]

    def _is_node(self, path: Path) -> bool:
        try:
            return f"--connect=localhost:{self.port}\0".encode() in path.read_bytes()
        except OSError:
            return False  # it has just exited


class Line:
    """A connection to node 0."""

    def __init__(self, connection: socket.socket, file: IO[str]) -> None:
        self._connection = connection
        self._file = file

    def say(self, **message: object) -> None:
        self._file.write(json.dumps(message) + "\n")
        self._file.flush()

    def hear(self) -> Any:
        return json.loads(self._file.readline() or "null")

    def hear_until(self, message: dict[str, object]) -> None:
        while (heard := self.hear()) != message:
            assert heard is not None, f"never heard {message}"

    def hang_up(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not condition():
        pause.wait(0.05)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(stack)


def test_all_pass_once_all_have_come_in_whatever_order(nodes: Nodes) -> None:
    waiting = [nodes.start(1), nodes.start(0)]
    observer = nodes.hello(7)
    observer.hear_until({"missing": [2]})
    assert [process.poll() for process in waiting] == [None, None]
    last = nodes.start(2)
    observer.hear_until({"open": True})
    observer.hang_up()
    assert [outcome(process) for process in (*waiting, last)] == [(0, "")] * 3


def test_a_node_that_restarts_may_come_again(nodes: Nodes) -> None:
    first, others = nodes.start(1), [nodes.start(0)]
    observer = nodes.hello(7)
    observer.hear_until({"missing": [2]})
    first.send_signal(signal.SIGKILL)
    observer.hear_until({"missing": [1, 2]})
    others += [nodes.start(1), nodes.start(2)]
    observer.hear_until({"open": True})
    observer.hang_up()
    assert [outcome(process) for process in others] == [(0, "")] * 3


def test_the_time_out_names_who_is_missing(nodes: Nodes) -> None:
    long, short = nodes.start(0, 4), nodes.start(2, 4, timeout="0")
    observer = nodes.hello(7, 4)
    assert outcome(short)[0] == 124
    processes = [long, nodes.start(1, 4, timeout="2")]
    observer.hear_until({"missing": [2, 3]})
    missing = f"barrier: timed out after 2 s: nodes 2, 3 of 4 did not come to localhost:{nodes.port}\n"
    assert outcome(processes[1]) == (124, missing)
    assert processes[0].poll() is None


def test_node_0_names_them_too(nodes: Nodes) -> None:
    said = f"barrier: timed out after 1 s: node 1 of 2 did not come to localhost:{nodes.port}\n"
    assert outcome(nodes.start(0, 2, timeout="1")) == (124, said)


def test_node_0_that_cannot_be_reached(nodes: Nodes) -> None:
    code, said = outcome(nodes.start(1, 2, timeout="1"))
    assert code == 124
    assert f"timed out after 1 s: node 0 cannot be reached at localhost:{nodes.port}: " in said
    assert "Connect call failed" in said


def test_two_nodes_with_one_rank(nodes: Nodes) -> None:
    zero, twins = nodes.start(0), [nodes.start(1), nodes.start(1)]
    until(lambda: any(process.poll() is not None for process in twins))
    refused, waiting = sorted(twins, key=lambda process: process.poll() is None)
    code, said = outcome(refused)
    host = re.escape(socket.gethostname())
    pattern = rf"barrier: rank 1 is taken by {host}, process {waiting.pid}, and {host}, process {refused.pid} "
    pattern += "has the same rank: each node needs a --rank of its own\n"
    assert re.match(pattern, said), said
    assert code == 1
    assert [process.poll() for process in (zero, waiting)] == [None, None]


def test_a_node_that_no_longer_answers_gives_way(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = nodes.start(0)
    silent = nodes.hello(1)
    silent.hear_until({"missing": [2]})
    second = nodes.start(1)  # passes after five seconds without an answer from the silent node
    silent.hear_until({"ping": True})
    third = nodes.start(2)
    assert [outcome(process)[0] for process in (second, third)] == [0, 0]
    silent.hang_up()
    assert outcome(zero) == (0, "")


@pytest.mark.parametrize(
    ("hello", "answer"),
    [
        (
            {"num_nodes": 5},
            "node 1 (test) waits for 5 nodes, node 0 for 3: --num-nodes must be the same everywhere",
        ),
        ({"protocol": "torchrun_trainer.barrier/9"}, "this is a barrier of another version"),
    ],
)
def test_a_node_that_does_not_fit_is_refused(nodes: Nodes, hello: dict[str, object], answer: str) -> None:
    zero = nodes.start(0)
    assert nodes.hello(1, **{"num_nodes": 3, **hello}).hear() == {"refused": answer}  # type: ignore[arg-type]
    assert zero.poll() is None


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"", b"\xff\n"])
def test_noise_on_the_port_does_no_harm(nodes: Nodes, noise: bytes) -> None:
    zero = nodes.start(0, 2)
    nodes.hello(7, 2).hear_until({"missing": [1]})
    with socket.create_connection(("localhost", nodes.port), timeout=60) as stranger:
        stranger.sendall(noise)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
    assert outcome(nodes.start(1, 2)) == (0, "")
    zero.kill()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_port_of_another_program(nodes: Nodes, rank: int) -> None:
    with socket.create_server(("localhost", nodes.port), family=socket.AF_INET) as other:
        node = nodes.start(rank, 2)
        connection, _ = other.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            code, said = outcome(node)
    assert code == 1
    assert f"barrier: localhost:{nodes.port} is no barrier: Expecting value" in said


def test_a_node_that_is_replaced_later_passes_at_once(nodes: Nodes) -> None:
    shells = [nodes.start(rank, 2, "--stay-open", shell=True) for rank in (0, 1)]
    assert [shell.stdout.readline() for shell in shells if shell.stdout] == ["passed: 0\n"] * 2
    assert len(nodes.processes()) == 4
    assert outcome(nodes.start(1, 2)) == (0, "")
    assert outcome(nodes.start(0, 2)) == (0, "")  # it has arrived before, and its earlier process still listens

    shells[0].communicate(timeout=60)
    until(lambda: not listens(nodes.port))
    assert outcome(nodes.start(0, 2)) == (0, "")  # node 1, which stays, reports that the barrier was open

    shells[1].communicate(timeout=60)
    until(lambda: not nodes.processes())


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_command_takes_its_defaults_from_the_operators_environment(tmp_path: Path) -> None:
    environment = {**os.environ, **OPERATOR, "TORCHRUN_JOB_NAME": "nowhere"}
    done = subprocess.run([*COMMAND, "--timeout=0.5"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 124
    assert "node 0 cannot be reached at nowhere-0.nowhere:29402: " in done.stderr


def test_bad_arguments_of_the_command() -> None:
    done = subprocess.run(
        [*COMMAND, "--num-nodes=2", "--rank=2", "--connect=a"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.endswith("error: --rank is 2; with --num-nodes 2 it must be from 0 to 1\n")


def test_the_command_does_not_load_torch() -> None:
    script = "import sys, torchrun_trainer.barrier; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
        == "False\n"
    )


RANKS = """
import sys, torch.distributed as dist
from torchrun_trainer.barrier import BarrierTimeoutError, rank_barrier
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=rank, world_size=3)
for _ in range(2):
    rank_barrier(60)
print("passed")
try:
    if rank == 0:
        rank_barrier(0.5, "alone")
except BarrierTimeoutError as error:
    print(error, error.missing)
rank_barrier(60, "end")
dist.destroy_process_group()
"""


@pytest.mark.torch
def test_ranks_wait_for_one_another_and_name_who_is_missing(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", RANKS, str(tmp_path / "store"), str(rank)] for rank in range(3)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert said[0] == "passed\ntimed out after 0.5 s: ranks 1, 2 of 3 did not come [1, 2]\n"
    assert said[1:] == ["passed\n"] * 2


def test_without_a_process_group_ranks_cannot_wait() -> None:
    from torchrun_trainer.barrier import rank_barrier

    with pytest.raises(ValueError, match="init_process_group"):
        rank_barrier()


def test_the_function_says_now_and_then_who_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchrun_trainer import barrier
    from torchrun_trainer.launch import barrier_protocol

    monkeypatch.setattr(barrier_protocol, "_NOTICE_SECONDS", 0.2)
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    said: list[str] = []
    with pytest.raises(BarrierTimeoutError) as caught:
        barrier.barrier(2, f"localhost:{port}", 0, timeout=1, notice=said.append)
    assert caught.value.missing == [1]
    assert isinstance(caught.value, BarrierError)
    assert said[-1] == f"waiting: node 1 of 2 did not come to localhost:{port}"
