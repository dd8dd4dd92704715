"""The server as the first process of a container: it also forks the agent, and ends as the agent ends."""

from __future__ import annotations

import os
import shutil
import signal
import sys

from torchrun_launcher import OLDEST_PYTHON
from torchrun_launcher.first import become
from torchrun_launcher.log import log
from torchrun_launcher.prestart import prepare
from torchrun_launcher.process import FORWARDED, die_of, end_as
from torchrun_launcher.protocol import Request, address_of
from torchrun_launcher.server import PRELOADED, Server, serve
from torchrun_launcher.worker import work

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from types import FrameType

AGENT_MODULES = PRELOADED[:2]  # torchrun needs no more; the server loads the rest while the agents find each other
FIRST_PROCESS = 1
PR_SET_NAME = 15
# Linux keeps signals from the first process of a container that it does not handle. These are meant for the workers,
# and without a launcher torchrun is that process.
USERS = (signal.SIGUSR1, signal.SIGUSR2) if os.getpid() == FIRST_PROCESS else ()


class Node(Server):
    """Forks the agent as soon as that can run, then serves workers."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        """Listen where the workers of this command and environment look. Raises OSError if another server does."""
        super().__init__(address_of(sys.executable, environment), os.getpid())
        self.command = command
        self.environment = environment
        self.agent = 0
        self.handlers = {number: signal.signal(number, self.forward) for number in FORWARDED}

    def run(self) -> Request:
        """Serve until the agent has ended, and end as it does. Returns in the agent and in each worker."""
        self.notice_ends()
        request = self.load(AGENT_MODULES)
        if not request and self.refusal:
            become(self.command, self.environment, self.refusal)
        return request or self.start_agent() or self.load(PRELOADED[len(AGENT_MODULES) :]) or self.serve()

    def forward(self, number: int, _: FrameType | None) -> None:
        """Send a signal to the agent, which passes it on to its workers. Without an agent, end at once."""
        if not self.agent:
            die_of(number)
        os.kill(self.agent, number)  # it exists: an agent that has ended is kept until reap() asks for it

    def start_agent(self) -> Request | None:
        """Fork the agent. Returns what it must run in the agent, None in the server."""
        agent = os.fork()
        if agent:
            self.agent = agent
            return None
        self.leave()
        os.environ.clear()
        os.environ.update(self.environment)
        for number in USERS:
            signal.signal(number, ignore)
        _adapt(self.environment)
        program, *arguments = self.command
        path = program if arguments[:1] == ["-m"] else shutil.which(program) or program
        _be_called(os.path.basename(path))
        command = ["-u", *arguments] if arguments[:1] == ["-m"] else ["-u", path, *arguments]
        return Request(command, self.environment, os.getcwd(), [])

    def leave(self) -> None:
        """In a new agent or worker: close all that belongs to the server, and react to signals as Python does."""
        super().leave()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def children(self) -> set[int]:
        """Return the processes that this one has forked."""
        return {*super().children(), self.agent}

    def ended(self, child: int, status: int) -> None:
        """End with the agent, and with everything that runs in the container."""
        if child != self.agent:
            super().ended(child, status)
            return
        if os.getpid() == FIRST_PROCESS:
            end_as(status)  # and Linux kills the other processes
        self.kill_workers()
        end_as(status)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, this ends with an exec: what the agent starts reacts as usual."""


def run(command: list[str]) -> None:
    """Run a torchrun command. Returns in the agent and in workers, at their end."""
    environment = dict(os.environ)
    if sys.version_info < OLDEST_PYTHON:
        become(command, environment, f"Python is older than {'.'.join(map(str, OLDEST_PYTHON))}")
    try:
        node = Node(command, environment)
    except OSError as error:
        become(command, environment, f"the server of warm starts cannot listen: {error}")
    prepare(os.environ)
    work(serve(node).arguments)


def _adapt(environment: dict[str, str]) -> None:
    """Adapt torchrun in a new agent, which goes on without what this torch does not know."""
    try:
        from torchrun_launcher import shims  # noqa: PLC0415 the server does not need it

        shims.install()
    except Exception as error:
        log(f"workers start by the first line of the launcher: {error!r}")
    if environment.get("TORCHRUN_FAULT_TOLERANCE") == "PerStep":
        from torchrun_launcher import groups  # noqa: PLC0415 the server does not need it

        groups.install()
    if environment.get("PET_RDZV_BACKEND") != "c10d":
        return
    try:
        from torchrun_launcher import lasting  # noqa: PLC0415 the server does not need it

        lasting.install()
    except Exception as error:
        log(f"the agent ends if it loses the store of the rendezvous: {error!r}")


def _be_called(name: str) -> None:
    """Let tools that list processes show the agent under the name of its program, as without a launcher."""
    import ctypes  # noqa: PLC0415 - torch has loaded it

    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())
