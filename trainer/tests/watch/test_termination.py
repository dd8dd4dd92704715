"""SIGTERM is deferred to the end of a step, never swallowed, and a stuck step does not outlive it for long."""

import signal
import subprocess
import sys

import pytest

PRELUDE = """
import atexit, ctypes, os, signal, threading, time
from torchrun_trainer.watch.process import prepare
from torchrun_trainer.watch.termination import Termination
prepare()  # as taking a name from the package does
atexit.register(print, "cleaned up", flush=True)
"""

STEP_THAT_ENDS = """
with Termination() as termination:
    print("ready", flush=True)
    while not termination.requested: pass
    termination.step_done()
    with termination.saving():
        assert termination.wait(10)
        print("saved", flush=True)
    raise SystemExit(143)
"""

# As in a collective whose peer is gone: Python's signal handlers never run.
STEP_THAT_NEVER_ENDS = """
mutex = ctypes.create_string_buffer(64)
lock = ctypes.CDLL(None).pthread_mutex_lock
with Termination():
    print("ready", flush=True)
    lock(mutex)
    lock(mutex)
"""

ERROR_IN_THE_BODY = """
def steps():
    with Termination() as termination:
        yield termination
for termination in steps():
    print("ready", flush=True)
    while not termination.requested: pass
    raise RuntimeError("the peer has gone")
"""

# As with a snapshot that is being written when the peers are gone.
STUCK_STEP_BESIDE_WORK = """
from torchrun_trainer.watch import termination as module
module._PATIENCE_SECONDS = 0.1
done = threading.Event()
def write(termination):
    assert termination.wait(10)
    threading.Event().wait(1)  # much longer than its patience
    print("written", flush=True)
    done.set()
with Termination(lambda: not done.is_set()) as termination:
    threading.Thread(target=write, args=(termination,)).start()
    print("ready", flush=True)
    lock = threading.Lock()
    lock.acquire()
    while True: lock.acquire(timeout=10)
"""

STEP_THAT_SAYS_THAT_IT_LIVES = """
with Termination() as termination:
    termination.step_done()
    print("ready", flush=True)
    for _ in range(40):
        time.sleep(0.1)
        termination.alive()
    print("saved", flush=True)
"""

LOOP_THAT_IS_OVER = """
with Termination():
    pass
print("ready", flush=True)
while True: signal.pause()
"""

SIGNAL_AFTER_THE_LAST_AGREEMENT = """
with Termination() as termination:
    print("ready", flush=True)
    while not termination.requested: pass
print("not reached")
"""

EARLIER_HANDLER = """
signal.signal(signal.SIGTERM, lambda number, frame: print("told", flush=True))
with Termination() as termination:
    print("ready", flush=True)
    while not termination.requested: pass
    raise SystemExit(143)
"""


def run(script: str) -> tuple[int, str]:
    """Run a script, send it SIGTERM once it is ready, and return its exit code and further output."""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output = process.stdout.read()
        return process.wait(), output


@pytest.mark.torch
@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        (STEP_THAT_ENDS, -signal.SIGTERM, "saved\ncleaned up\n"),
        (STEP_THAT_NEVER_ENDS, 143, ""),
        (STEP_THAT_SAYS_THAT_IT_LIVES, -signal.SIGTERM, "saved\n"),
        (STUCK_STEP_BESIDE_WORK, 143, "written\n"),
        (ERROR_IN_THE_BODY, -signal.SIGTERM, "cleaned up\n"),
        (LOOP_THAT_IS_OVER, -signal.SIGTERM, ""),
        (SIGNAL_AFTER_THE_LAST_AGREEMENT, -signal.SIGTERM, ""),
        (EARLIER_HANDLER, 143, "told\ncleaned up\n"),
    ],
    ids=[
        "ends",
        "never ends",
        "says that it lives",
        "never ends, beside work",
        "error in the body",
        "loop is over",
        "after the last agreement",
        "earlier handler",
    ],
)
def test_sigterm(script: str, code: int, output: str) -> None:
    assert run(script) == (code, output)


FORKED = """
ready, tell = os.pipe()
with Termination() as termination:
    child = os.fork()
    if child == 0:
        os.write(tell, b"1")
        while True: signal.pause()
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), termination.requested, termination.wait(0.1))
"""


@pytest.mark.torch
def test_a_forked_process_dies_of_sigterm_alone() -> None:
    script = PRELUDE + FORKED
    output = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert output == f"{-signal.SIGTERM} False False\ncleaned up\n"
