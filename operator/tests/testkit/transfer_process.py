"""Uploads in processes that can be killed. Each is a copy of one that has loaded the packages already."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from torchrun_transfer.run import Runner
from torchrun_transfer.task import task_of

_LONGEST_PAUSE: Final = 0.05
"""Seconds between two attempts, instead of up to a minute: the store recovers at once here."""
_SECONDS: Final = 300.0
_MODULES: Final = ["s3fs", "torchrun_transfer.run"]
"""What takes a second to load. None of them starts a thread before it is used."""


def upload_or_kill(task: dict[str, object], environment: dict[str, str], due: Callable[[], bool]) -> int:
    """Upload in a process, and kill it once ``due``. Return its exit code, 0 only if the upload was complete."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    process = context.Process(target=_upload, args=(json.dumps(task), environment), daemon=True)
    process.start()
    until = time.monotonic() + _SECONDS
    try:
        while process.is_alive() and not due() and time.monotonic() < until:
            process.join(0.02)
    finally:
        process.kill()
        process.join()
    assert time.monotonic() < until, "the upload neither ended nor came to the request at which it is killed"
    assert process.exitcode is not None
    return process.exitcode


def _upload(task: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    runner = Runner(pause=lambda seconds: time.sleep(min(seconds, _LONGEST_PAUSE)))
    sys.exit(1 if runner.upload(task_of(task)).error else 0)
