"""The entry point: `upload`, `fetch` or `serve`, with the task in an environment variable."""

import logging
import os
import signal
import sys

from torchrun_transfer.report import Result, tell
from torchrun_transfer.run import Runner
from torchrun_transfer.serve import Lazy, serve
from torchrun_transfer.stores.locate import store_of
from torchrun_transfer.task import VARIABLE, Task, task_of

logger = logging.getLogger("transfer")

_TERMINATED = 128 + signal.SIGTERM


def main(arguments: list[str]) -> int:
    """Carry out the task. Return 0, or 1 if it gave up; the termination message says why."""
    if arguments not in (["upload"], ["fetch"], ["serve"]):
        print("usage: transfer.pyz upload|fetch|serve", file=sys.stderr)  # noqa: T201
        return 2
    if arguments == ["serve"]:
        return _serve(task_of(os.environ.get(VARIABLE, "")))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    # The first process of a container ignores the signal otherwise. Whatever is half done is done again.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(_TERMINATED))
    result = _carried_out(arguments[0], task_of(os.environ.get(VARIABLE, "")))
    logger.info("%d files, %d bytes%s", result.files, result.bytes, f"; {result.error}" if result.error else "")
    try:
        tell(result)
    except OSError as error:
        logger.warning("cannot write the termination message: %s", error)
    return 1 if result.error else 0


def _carried_out(what: str, task: Task) -> Result:
    runner = Runner()
    if what == "fetch":
        return runner.fetch(task)
    return runner.upload_periodically(task) if task.every_seconds is not None else runner.upload(task)


def _serve(task: Task) -> int:
    """Give the files at the URL of the task to someone outside of the pod, over the standard streams."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints must not come between the answers
    serve(Lazy(lambda: store_of(task.url)), task.url, requests, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
