"""Error file: lets torchrun's agent name the rank that failed first, and why, without a decorator in the script.

torchrun gives each worker a file, ``TORCHELASTIC_ERROR_FILE``, for the exceptions of functions under ``@record``. Here
the interpreter's hook for uncaught exceptions writes it. The format is that of
``torch.distributed.elastic.multiprocessing.errors.ErrorHandler`` (torch 2.6 to 2.15), with the rank added.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType

VARIABLE = "TORCHELASTIC_ERROR_FILE"
_ECHOES = re.compile(
    r"DistNetworkError\b|closed by peer|reset by peer|remote process exited|Broken pipe|Connection refused"
)
"""Errors of a rank that has lost another one: they follow from the failure of that rank."""


def record_errors() -> None:
    """Write uncaught exceptions of this process into torchrun's error file; the previous hook is called too.

    Nothing is written without ``TORCHELASTIC_ERROR_FILE``, or if ``@record`` has written the file already.
    """
    before = sys.excepthook
    if getattr(before, "records_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            _record(error)
        finally:
            before(kind, error, trace)

    vars(hook)["records_errors"] = True
    sys.excepthook = hook


def _record(error: BaseException) -> None:
    name = os.environ.get(VARIABLE)
    if not name or not isinstance(error, Exception):
        return
    path = Path(name)
    if path.is_file() and path.stat().st_size:
        return
    message = f"{type(error).__name__}: {error}"
    # The agent takes the earliest error for the cause, and compares whole seconds. An error that follows from another
    # one must come later, however fast it was.
    second = int(time.time()) + bool(_ECHOES.search(message))
    extra = {
        "py_callstack": "".join(traceback.format_exception(error)),
        "timestamp": str(second),
        "rank": os.environ.get("RANK"),
    }
    try:
        path.write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}))
    except OSError as problem:
        sys.stderr.write(f"{path} cannot be written: {problem}\n")
