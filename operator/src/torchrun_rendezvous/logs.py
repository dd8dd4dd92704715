"""The log: one line of JSON per event, on stdout."""

from __future__ import annotations

import json
import sys

from torchrun_rendezvous import clock
from torchrun_rendezvous.documents import time_of, write_time
from torchrun_rendezvous.memory import LogLine


def log(line: LogLine) -> None:
    """Write a line with the time in front."""
    sys.stdout.write(json.dumps({"time": write_time(time_of(clock.now())), **line}) + "\n")
    sys.stdout.flush()
