"""The fork server: loads torch once, then forks a worker for each request.

It lives as long as the process that it watches, and the archive may be replaced meanwhile. So it imports all of this
package that a worker needs before it listens.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress

from torchrun_launcher import ColdStartError
from torchrun_launcher.fork_safety import children, obstacle, threads
from torchrun_launcher.log import log
from torchrun_launcher.protocol import CONNECT_SECONDS, Request, receive, trusted
from torchrun_launcher.worker import become_worker, work

PRELOADED = ("torch", "torch.distributed", "torch.nn.parallel")
# Most optimizers import it, some scripts do without. It takes as long as torch: the first workers must not wait for it.
LATER = ("torch._dynamo",)
MODULES_VARIABLE = "TORCHRUN_PRELOAD"
WATCH_SECONDS = 2.0
REST_SECONDS = 10.0  # a worker that starts between two modules loads the rest itself: loading here would slow it down


class Server:
    """Listens before it loads anything, so that no second server starts, and serves between two modules."""

    def __init__(self, address: bytes, watched: int) -> None:
        """Listen. Raises OSError if another server does."""
        self.watched = watched
        self.refusal = ""
        self.loaded: list[str] = []
        self.began = time.monotonic()
        self.workers: dict[int, socket.socket] = {}
        self.inherited = children()  # of a shell that has become this process: no fork shares what they do
        self.variables: dict[str, str] | None = None
        """The environment before anything was loaded."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(256)
        self.wake, self.wakes = os.pipe()
        for end in (self.wake, self.wakes):
            os.set_blocking(end, False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def run(self) -> Request:
        """Serve until the watched process has ended, then exit. Returns in each worker, with its request."""
        self.notice_ends()
        return self.load(PRELOADED) or self.serve()

    def notice_ends(self) -> None:
        """Wake up when a child ends."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wakes)

    def serve(self) -> Request:
        """Load the modules that the user names, then serve as `run` does."""
        before = threads()  # torch has some of its own, which fork well
        request = self.load(tuple(filter(None, os.environ.get(MODULES_VARIABLE, "").split(","))))
        if not request and not self.refusal and threads() > before:
            self.refuse("there are threads of a library, which a worker would not have,")
        if request:
            return request
        if not self.refusal:
            self.log(f"workers start warm: {', '.join(self.loaded)} loaded in {time.monotonic() - self.began:.1f} s")
        later: tuple[str, ...] = LATER
        idle_since = time.monotonic()
        while os.path.exists(f"/proc/{self.watched}"):
            workers = set(self.workers)
            request = self.turn(WATCH_SECONDS)
            if request:
                return request
            if set(self.workers) - workers:
                idle_since = time.monotonic()
            if later and time.monotonic() - idle_since >= REST_SECONDS:
                request, later = self.load(later), ()
                if request:
                    return request
        self.kill_workers()
        sys.exit(0)

    def load(self, names: tuple[str, ...]) -> Request | None:
        """Load modules, and serve requests in between. Returns a request in a worker, None in the server."""
        if self.variables is None:
            self.variables = dict(os.environ)
        for name in names if not self.refusal else ():
            there = children()  # a container's first process inherits what others leave behind
            try:
                __import__(name)
                self.loaded.append(name)
            except Exception as error:
                self.log(f"cannot load {name} for warm starts: {error!r}")
                if name == "torch":
                    self.refusal = f"torch cannot be loaded: {error!r}"
            self.refusal = self.refusal or obstacle({*there, *self.children()})
            if self.refusal:
                self.refuse(self.refusal)
                return None
            gc.freeze()  # what is loaded stays: garbage collection in a worker need not touch, and so copy, its pages
            rest = 0.0
            while self.is_wanted(rest):
                before = set(self.workers)
                request = self.turn(0.0)
                if request:
                    return request
                if set(self.workers) - before:  # not for the end of a child: loading a module may have started one
                    rest = REST_SECONDS
        return None

    def children(self) -> set[int]:
        """Return the processes that this one has forked."""
        return {*self.workers, *self.inherited}

    def refuse(self, why: str) -> None:
        """Let all workers start cold from now on."""
        self.refusal = why
        self.log(f"workers start cold: {why} after loading {', '.join(self.loaded)}")

    def imported(self) -> dict[str, str]:
        """Return the variables that modules have set while they were loaded."""
        before = self.variables or {}
        return {name: value for name, value in os.environ.items() if before.get(name) != value}

    def log(self, message: str) -> None:
        """Write one line to the log of the node."""
        log(message, self.watched)

    def is_wanted(self, seconds: float) -> bool:
        """Wait at most so long for an event."""
        return bool(self.selector.select(seconds))

    def turn(self, seconds: float) -> Request | None:
        """Wait at most so long for events, and handle them. Returns a request in a worker, None in the server."""
        for key, _ in self.selector.select(seconds):
            if key.fileobj is self.listener:
                request = self.accept()
                if request:
                    return request
            elif key.fileobj == self.wake:
                with suppress(BlockingIOError):
                    os.read(self.wake, 65536)
            else:
                self.abandoned(key.data)
        self.reap()
        return None

    def accept(self) -> Request | None:
        """Fork a worker. Returns the request in the worker, None in the server."""
        connection, _ = self.listener.accept()
        try:
            if not trusted(connection):
                raise ColdStartError("it comes from another user")
            connection.settimeout(CONNECT_SECONDS)
            request = receive(connection)
        except (OSError, ValueError, TypeError, ColdStartError) as error:
            self.log(f"bad request for a warm start: {error!r}")
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
                become_worker(connection, request, self.imported())
                return request
            self.workers[worker] = connection
            self.selector.register(connection, selectors.EVENT_READ, worker)
        for number in request.files:
            os.close(number)
        return None

    def leave(self) -> None:
        """In a new worker: close everything that belongs to the server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for connection in self.workers.values():
            connection.close()
        self.listener.close()
        self.selector.close()
        os.close(self.wake)
        os.close(self.wakes)

    def abandoned(self, worker: int) -> None:
        """Kill the worker whose shim was killed: the signal was meant for the worker."""
        kill_group(worker)
        self.selector.unregister(self.workers[worker])

    def reap(self) -> None:
        """Notice which children have ended."""
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if child == 0:
                return
            self.ended(child, status)

    def ended(self, child: int, status: int) -> None:
        """Report a worker that has ended to its shim."""
        connection = self.workers.pop(child, None)
        if connection is None:
            return
        with suppress(KeyError, ValueError):
            self.selector.unregister(connection)
        with suppress(OSError):
            connection.sendall(f"status {status}\n".encode())
        connection.close()

    def kill_workers(self) -> None:
        """Kill all workers and the processes that they have started."""
        for worker in self.workers:
            kill_group(worker)


def kill_group(worker: int) -> None:
    """Kill a worker and the processes that it has started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)


def run(address: str, watched: int) -> None:
    """Serve at the address until the watched process has ended. Returns if another server is there, and in workers."""
    try:
        server = Server(b"\0" + address.encode(), watched)
    except OSError:
        return
    work(serve(server).arguments)


def serve(server: Server) -> Request:
    """Return in a forked process, with what it must do. A defect ends the server with its traceback in the log."""
    try:
        return server.run()
    except Exception:
        import traceback  # noqa: PLC0415 - slow, and needed for a defect only

        server.log(f"the server of warm starts has failed: {traceback.format_exc()}")
        os._exit(1)
