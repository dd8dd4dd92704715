#!/usr/bin/env python3
"""Stands in for Python where torchrun starts workers, and forks them from a process that has torch loaded.

Runs inside the job's image (standard library, Python >= 3.10, Linux) as a single file, which PYTHON_EXEC names:
torchrun starts each worker with that instead of its own interpreter. Three roles:

    --start     at the start of a container that runs torchrun: leaves a server behind, which has torch loaded when the
                first worker is started, in a spare node too
    server      loads modules, then forks a worker for each request; it never touches a GPU itself
    stand-in    what torchrun starts and watches: asks the server for a worker that has its environment, files,
                directory and CPUs, passes signals on to the worker, and ends as it ends

A worker is what `python -u script` would be: the script is __main__, and the interpreter ends in the ordinary way.
Where anything is out of the ordinary, the stand-in becomes the plain interpreter: a slower start, and the same worker.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import resource
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from types import FrameType, ModuleType
from typing import Any, NoReturn

PRELOADED = ("torch", "torch.distributed", "torch.nn.parallel", "torch._dynamo")  # the last: every optimizer imports it
MODULES_VARIABLE = "TORCHRUN_PRELOAD"
ANSWER_SECONDS = 120.0  # for the server to load torch, on a machine that is busy starting
CONNECT_SECONDS = 10.0
WATCH_SECONDS = 2.0
REST_SECONDS = 10.0  # a worker that came between two modules loads what it needs itself: it is not to be slowed down
REQUEST_BYTES = 8 << 20
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# What differs from worker to worker, or between the shells that started them, and means nothing to an import.
# fmt: off
OWN_VARIABLES = frozenset((
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT",
    "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
    "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES",
    "PWD", "OLDPWD", "SHLVL", "HOME", "HOSTNAME", "TERM", "LINES", "COLUMNS", "_",
))
# fmt: on
OWN_PREFIX = "TORCHELASTIC_"
FIRST_PROCESS = 1  # of the container: it writes to the container's log, and all others end with it
PR_SET_PDEATHSIG = 1
CUDA_NOT_INITIALIZED = 3


class ColdError(Exception):
    """A reason to start the worker without the server."""


def say(message: str, process: int | None = None) -> None:
    """Write one line to stderr, or to that of another process: who reads a stand-in's is not to wait for the server."""
    with suppress(OSError):
        file = os.open(f"/proc/{process}/fd/2", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC) if process else os.dup(2)
        try:
            os.write(file, f"torchrun-operator: {message}\n".encode())
        finally:
            os.close(file)


# --- which server -----------------------------------------------------------------------------------------------------


def shared(environment: dict[str, str]) -> dict[str, str]:
    """Return what a server and its workers must have in common: imports may depend on it."""
    return {k: v for k, v in environment.items() if k not in OWN_VARIABLES and not k.startswith(OWN_PREFIX)}


def address_of(interpreter: str, environment: dict[str, str]) -> bytes:
    """Name the server for workers of that interpreter and environment, in this container, as this user.

    In Linux' abstract namespace, which needs no writable directory and which the containers of a pod share.
    """
    python = [os.path.dirname(interpreter), os.path.realpath(interpreter)]  # python and python3 in one place are one
    identity = [python, os.getuid(), os.stat("/proc/self/ns/pid").st_ino, sorted(shared(environment).items())]
    return b"\0torchrun-operator-" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32].encode()


def interpreter_of(agent: int) -> str:
    """Return the Python that runs the agent, as it was called: a resolved link would leave a virtual environment."""
    with open(f"/proc/{agent}/cmdline", "rb") as file:
        name = os.fsdecode(file.read().split(b"\0")[0])
    found = os.path.join(os.readlink(f"/proc/{agent}/cwd"), name) if "/" in name else shutil.which(name)
    if not found or "python" not in os.path.basename(found) or not os.access(found, os.X_OK):
        raise ColdError(f"process {agent}, which starts this worker, is no Python: {name}")
    return found


def interpreter_for(program: str) -> str:
    """Return the Python that the program will run with, before it does: itself, or the one that the script names."""
    found = shutil.which(program)
    if found is None:
        raise ColdError(f"{program} is not in PATH")
    if os.path.basename(found).startswith("python"):
        return found
    with open(found, "rb") as file:
        words = file.readline(4096).split()
    if not words or not words[0].startswith(b"#!/") or b"python" not in os.path.basename(words[0]):
        raise ColdError(f"{found} does not begin with #! and the path of a Python")
    return os.fsdecode(words[0][2:])


def launch(interpreter: str, address: bytes, watched: int, environment: dict[str, str]) -> None:
    """Start a server that is nobody's child and ends with the watched process. Where one is there, it ends at once."""
    environment = dict(environment)
    if environment.get("PET_NPROC_PER_NODE", "").isdecimal() and environment["PET_NPROC_PER_NODE"] != "1":
        environment.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does
    # So that asking whether there are GPUs initializes nothing: the driver does not survive a fork.
    environment["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    command = [interpreter, "-u", os.path.abspath(__file__), "--serve", address[1:].decode(), str(watched)]
    child = os.fork()
    if child == 0:
        try:
            quiet = subprocess.DEVNULL
            subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def start(program: str) -> None:
    """Leave a server behind; whatever goes wrong must not end the container."""
    try:
        interpreter = interpreter_for(program)
        launch(interpreter, address_of(interpreter, dict(os.environ)), FIRST_PROCESS, dict(os.environ))
    except Exception as error:
        say(f"torch is not loaded ahead: {error}", FIRST_PROCESS)  # the hook's own output goes nowhere


# --- the stand-in -----------------------------------------------------------------------------------------------------


class StandIn:
    """The process that torchrun takes for the worker."""

    def __init__(self) -> None:
        self.worker = 0
        self.pending: list[int] = []

    def catch(self, number: int, _: FrameType | None) -> None:
        """Pass a signal on to the worker and what it has started; keep it until there is one."""
        if not self.worker:
            self.pending.append(number)
            return
        with suppress(ProcessLookupError):
            os.killpg(self.worker, number)

    def run(self, arguments: list[str]) -> NoReturn:
        """Run the worker, warm if possible; never returns."""
        interpreter = sys.executable
        try:
            interpreter = interpreter_of(os.getppid())
            check(arguments)
            for number in FORWARDED:
                signal.signal(number, self.catch)
            connection = self.ask(interpreter, arguments)
        except (OSError, ValueError, ColdError) as error:
            say(f"this worker starts cold: {error}")
            self.become(interpreter, arguments)
        self.wait(connection)

    def ask(self, interpreter: str, arguments: list[str]) -> socket.socket:
        """Have the server fork the worker; return the connection, which says when it ends."""
        address = address_of(interpreter, dict(os.environ))
        connection = connect(address)
        if connection is None:
            launch(interpreter, address, os.getppid(), dict(os.environ))
            deadline = time.monotonic() + CONNECT_SECONDS
            while connection is None:
                if time.monotonic() > deadline:
                    raise ColdError("the server of warm starts does not come up")
                time.sleep(0.02)
                connection = connect(address)
        request = {
            "arguments": arguments,
            "environment": dict(os.environ),
            "directory": os.getcwd(),
            "cpus": sorted(os.sched_getaffinity(0)),
        }
        body = json.dumps(request).encode()
        connection.settimeout(ANSWER_SECONDS)
        socket.send_fds(connection, [len(body).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(body)
        kind, value = read_line(connection)
        if kind != "worker":
            connection.close()
            raise ColdError(value or "the server of warm starts has ended")
        connection.settimeout(None)
        self.worker = int(value)
        for pending in self.pending:
            self.catch(pending, None)
        return connection

    def wait(self, connection: socket.socket) -> NoReturn:
        """End as the worker ends."""
        kind, value = read_line(connection)
        if kind != "status":
            say("the server of warm starts has ended, and its workers with it")
            die_of(signal.SIGKILL)
        status = int(value)
        if os.WIFSIGNALED(status):
            die_of(os.WTERMSIG(status))
        os._exit(os.WEXITSTATUS(status))

    def become(self, interpreter: str, arguments: list[str]) -> NoReturn:
        """Turn into the plain interpreter; signals that came meanwhile do what they would have done."""
        for number in FORWARDED:
            signal.signal(number, signal.SIG_DFL)
        for pending in self.pending:
            die_of(pending)
        os.environ.pop("PYTHON_EXEC", None)
        os.execv(interpreter, [interpreter, *arguments])  # noqa: S606


def check(arguments: list[str]) -> None:
    """Refuse what the server does not run in the way that Python itself would."""
    if arguments[:1] != ["-u"] or len(arguments) < 2 or (arguments[1].startswith("-") and arguments[1] != "-m"):
        raise ColdError(f"it is not started as torchrun starts scripts: {arguments[:3]}")
    if arguments[1] == "-m" and len(arguments) < 3:
        raise ColdError("the module is missing")
    if arguments[1] != "-m" and not os.path.isfile(arguments[1]):
        raise ColdError(f"{arguments[1]} is no file")


def connect(address: bytes) -> socket.socket | None:
    """Return a connection to the server; None if there is none. Nobody else's server is talked to."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(address)
    except ConnectionRefusedError:
        connection.close()
        return None
    if not trusted(connection):
        connection.close()
        raise ColdError("the server of warm starts belongs to another user")
    return connection


def trusted(connection: socket.socket) -> bool:
    """Whether the other end is a process of the same user in the same container: only its processes have a number."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, user = (int.from_bytes(credentials[i : i + 4], sys.byteorder) for i in (0, 4))
    return pid > 0 and user == os.getuid()


def read_line(connection: socket.socket) -> tuple[str, str]:
    """Read a line of two words; both are empty at the end of the connection. Waits again when a signal came."""
    line = b""
    while not line.endswith(b"\n"):
        received = connection.recv(1)
        if not received:
            return "", ""
        line += received
    kind, _, value = line.decode().strip().partition(" ")
    return kind, value


def die_of(number: int) -> NoReturn:
    """End by a signal, as the worker did, without a second core file."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """What a worker is to be."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    cpus: list[int]
    files: list[int] = field(default_factory=list)


class Server:
    """Listens before it loads anything, so that nobody starts a second one, and serves between two modules."""

    def __init__(self, address: bytes, watched: int) -> None:
        self.watched = watched
        self.refusal = ""
        self.workers: dict[int, socket.socket] = {}
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(256)
        self.wake, wakes = os.pipe()
        for end in (self.wake, wakes):
            os.set_blocking(end, False)
        self.wakes = wakes
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def run(self) -> Job:
        """Serve until the watched process has ended; returns in each worker, with what it is to be."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakes)
        began = time.monotonic()
        loaded = []
        for name in (*PRELOADED, *filter(None, os.environ.get(MODULES_VARIABLE, "").split(","))):
            try:
                __import__(name)
                loaded.append(name)
            except Exception as error:
                self.say(f"cannot load {name} for warm starts: {error!r}")
                if name == "torch":
                    self.refusal = f"torch cannot be loaded: {error!r}"
            self.refusal = self.refusal or unfit(set(self.workers))
            if self.refusal:
                self.say(f"workers start cold: {self.refusal} after loading {name}")
                break
            gc.freeze()  # what is loaded stays, so that workers need not copy it to count references in cycles
            rest = 0.0
            while self.is_wanted(rest):
                job = self.turn(0.0)
                if job:
                    return job
                rest = REST_SECONDS
        else:
            self.say(f"workers start warm: {', '.join(loaded)} loaded in {time.monotonic() - began:.1f} s")
        while os.path.exists(f"/proc/{self.watched}"):
            job = self.turn(WATCH_SECONDS)
            if job:
                return job
        for worker in self.workers:
            kill_group(worker)
        sys.exit(0)

    def say(self, message: str) -> None:
        """Write one line to the log of the node."""
        say(message, self.watched)

    def is_wanted(self, seconds: float) -> bool:
        """Wait for an event at most so long."""
        return bool(self.selector.select(seconds))

    def turn(self, seconds: float) -> Job | None:
        """Wait for events at most so long, and handle them; a worker returns what it is to be."""
        for key, _ in self.selector.select(seconds):
            if key.fileobj is self.listener:
                job = self.accept()
                if job:
                    return job
            elif key.fileobj == self.wake:
                with suppress(BlockingIOError):
                    os.read(self.wake, 65536)
            else:
                self.abandoned(key.data)
        self.reap()
        return None

    def accept(self) -> Job | None:
        """Fork a worker; returns in the worker only."""
        connection, _ = self.listener.accept()
        try:
            if not trusted(connection):
                raise ColdError("the request comes from another user")
            connection.settimeout(CONNECT_SECONDS)
            job = receive(connection)
        except (OSError, ValueError, TypeError, ColdError) as error:
            self.say(f"bad request for a warm start: {error!r}")
            connection.close()
            return None
        if self.refusal:
            with suppress(OSError):
                connection.sendall(f"cold {self.refusal}\n".encode())
            connection.close()
        else:
            worker = os.fork()
            if worker == 0:
                self.leave()
                become_worker(connection, job)
                return job
            self.workers[worker] = connection
            self.selector.register(connection, selectors.EVENT_READ, worker)
        for number in job.files:
            os.close(number)
        return None

    def leave(self) -> None:
        """In a new worker: drop everything that is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for connection in self.workers.values():
            connection.close()
        self.listener.close()
        self.selector.close()
        os.close(self.wake)
        os.close(self.wakes)

    def abandoned(self, worker: int) -> None:
        """The stand-in was killed: so is the worker, as it would have been in its place."""
        kill_group(worker)
        self.selector.unregister(self.workers[worker])

    def reap(self) -> None:
        """Tell the stand-ins of the workers that have ended how they did."""
        while self.workers:
            try:
                worker, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if worker == 0:
                return
            connection = self.workers.pop(worker, None)
            if connection is None:
                continue
            with suppress(KeyError, ValueError):
                self.selector.unregister(connection)
            with suppress(OSError):
                connection.sendall(f"status {status}\n".encode())
            connection.close()


def unfit(workers: set[int]) -> str:
    """Say what makes this process one that cannot be forked; empty if nothing does."""
    if threading.active_count() > 1:
        return "there are threads, which a worker would not have,"
    with suppress(FileNotFoundError), open(f"/proc/self/task/{os.getpid()}/children") as file:
        if set(map(int, file.read().split())) - workers:
            return "there are processes, which workers would share,"
    if cuda_is_initialized():
        return "the GPU driver is initialized, which a worker could not use,"
    return ""


def cuda_is_initialized() -> bool:
    """Ask the driver itself, where it is loaded: any call but cuInit answers so before cuInit."""
    with open("/proc/self/maps") as file:
        if "libcuda.so" not in file.read():
            return False
    import ctypes  # noqa: PLC0415 - torch has loaded it

    count = ctypes.c_int()
    answer: int = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
    return answer != CUDA_NOT_INITIALIZED


def receive(connection: socket.socket) -> Job:
    """Read a request; raises ColdError, OSError, TypeError and ValueError for what is none."""
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    length = int.from_bytes(head, "big")
    if len(head) != 4 or len(files) != 3 or length > REQUEST_BYTES:
        raise ColdError("three open files and a length are needed")
    body = bytearray()
    while len(body) < length:
        received = connection.recv(min(65536, length - len(body)))
        if not received:
            raise ColdError("it ends early")
        body += received
    document: dict[str, Any] = json.loads(body)
    return Job(**document, files=list(files))


def kill_group(worker: int) -> None:
    """End a worker and what it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)


# --- the worker -------------------------------------------------------------------------------------------------------


def become_worker(connection: socket.socket, job: Job) -> None:
    """Turn a fork of the server into a process of its own, like one that torchrun had started."""
    os.setsid()
    import ctypes  # noqa: PLC0415 - torch has loaded it

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, file in enumerate(job.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(job.directory)
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].ORIGINAL_DIR = job.directory  # type: ignore[attr-defined]
    os.sched_setaffinity(0, job.cpus)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update({k: v for k, v in job.environment.items() if k != "PYTHON_EXEC"})
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads != before and threads.isdecimal():
        sys.modules["torch"].set_num_threads(int(threads))  # it was read when torch was loaded
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # or all workers of the node, and the next ones, would draw the same
    connection.setblocking(True)
    connection.sendall(f"worker {os.getpid()}\n".encode())
    connection.close()


def work(job: Job) -> None:
    """Run the script or module as Python does, and let the interpreter end."""
    sys.orig_argv = [sys.executable, *job.arguments]
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    is_module = job.arguments[1] == "-m"
    sys.argv = job.arguments[2 if is_module else 1 :]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.getcwd() if is_module else os.path.dirname(os.path.realpath(sys.argv[0]))
    try:
        if is_module:
            runpy._run_module_as_main(sys.argv[0])  # type: ignore[attr-defined]  # noqa: SLF001 - what python -m calls
        else:
            run_script(os.path.abspath(sys.argv[0]), main)
    except Exception as error:
        report(error)
        sys.exit(1)


def run_script(path: str, main: ModuleType) -> None:
    """Run a file as the module __main__."""
    main.__dict__.update(__file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path))
    with open(path, "rb") as file:
        source = file.read()
    exec(compile(source, path, "exec"), main.__dict__)  # noqa: S102


def report(error: Exception) -> None:
    """Show an exception as Python does, without the frames of this program at its top."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def main(arguments: list[str]) -> None:
    """Play the role that the arguments say."""
    if arguments[:1] == ["--start"]:
        start(arguments[1])
    elif arguments[:1] == ["--serve"]:
        try:
            server = Server(b"\0" + arguments[1].encode(), int(arguments[2]))
        except OSError:
            return  # there is one
        try:
            job = server.run()
        except Exception:
            server.say(f"the server of warm starts has failed: {traceback.format_exc()}")
            os._exit(1)
        work(job)
    else:
        StandIn().run(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
