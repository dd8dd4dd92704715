"""What a process does that stands for another one: forward signals, and end as that one has ended."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False  # the module typing is slow to import
if TYPE_CHECKING:
    from typing import NoReturn

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def end_as(status: int) -> NoReturn:
    """End as a process with that wait status has ended, at once."""
    if os.WIFSIGNALED(status):
        die_of(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def die_of(number: int) -> NoReturn:
    """End by that signal, without a second core file. The first process of a container exits with 128 + number."""
    import resource  # noqa: PLC0415

    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError):
        pass
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
