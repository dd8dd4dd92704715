"""The worker: a fork of the server that turns into the process that torchrun would have started."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from types import ModuleType

from torchrun_launcher import ARCHIVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from torchrun_launcher.protocol import Request

PR_SET_PDEATHSIG = 1
OPENBLAS = tuple(f"{scipy}openblas_set_num_threads{wide}" for scipy in ("", "scipy_") for wide in ("", "64_"))


def become_worker(connection: socket.socket, request: Request, imported: dict[str, str]) -> None:
    """Turn a fork of the server into a process of its own, and report its number to the shim.

    ``imported``: the variables that modules of the server have set while they were loaded.
    """
    os.setsid()
    import ctypes  # noqa: PLC0415 - torch has loaded it

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number, file in enumerate(request.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.directory)
    if "multiprocessing.process" in sys.modules:
        sys.modules["multiprocessing.process"].ORIGINAL_DIR = request.directory  # type: ignore[attr-defined]
    os.sched_setaffinity(0, request.cpus)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update({**imported, **{k: v for k, v in request.environment.items() if k != "PYTHON_EXEC"}})
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads != before and threads.isdecimal():
        set_threads(int(threads))  # torch and numpy read the variable when they were loaded
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # otherwise all workers of the node would draw the same numbers
    if "lightning_utilities.core.rank_zero" in sys.modules:
        set_rank(sys.modules["lightning_utilities.core.rank_zero"])
    connection.setblocking(True)
    connection.sendall(f"worker {os.getpid()}\n".encode())
    connection.close()


def set_threads(number: int) -> None:
    """Set the number of threads of torch, and that of the OpenBLAS of numpy, under any name of the function."""
    sys.modules["torch"].set_num_threads(number)
    import ctypes  # noqa: PLC0415 - torch has loaded it

    with open("/proc/self/maps") as file:
        libraries = {line.split(maxsplit=5)[5].strip() for line in file if "openblas" in line}
    for library in libraries:
        with suppress(OSError):  # it has been replaced since
            loaded = ctypes.CDLL(library)
            for name in OPENBLAS:
                if hasattr(loaded, name):
                    getattr(loaded, name)(number)


def set_rank(lightning: ModuleType) -> None:
    """Correct the rank that Lightning reads when it is loaded."""
    rank = os.environ.get("RANK", "")
    if rank.isdecimal() and hasattr(lightning, "rank_zero_only"):
        lightning.rank_zero_only.rank = int(rank)


def work(arguments: list[str]) -> None:
    """Run the script or module as Python does. Then the interpreter exits in the ordinary way."""
    sys.orig_argv = [sys.executable, *arguments]
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    is_module = arguments[1] == "-m"
    sys.argv = arguments[2 if is_module else 1 :]
    if sys.path[:1] == [ARCHIVE]:
        del sys.path[0]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd() if is_module else os.path.dirname(os.path.realpath(sys.argv[0])))
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
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102


def report(error: Exception) -> None:
    """Print an exception as Python does, without the frames of this package at the top."""
    own = os.path.join(os.path.dirname(__file__), "")
    trace = error.__traceback__
    while trace and (
        trace.tb_frame.f_code.co_filename.startswith(own) or trace.tb_frame.f_code.co_filename == runpy.__file__
    ):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
