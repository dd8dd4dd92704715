"""Runs commands: quietly, or with their progress."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

REPORT_EVERY = 15.0  # Seconds between two lines of progress if the output is not a terminal.
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_streams: dict[subprocess.Popen[str], str] = {}  # Running commands of `stream`, with what each one shows.


class ClusterError(Exception):
    """An error for the user. The message says what to do."""


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command and return its output. Raises ClusterError with its output."""
    done = subprocess.run(
        [str(part) for part in argv], input=stdin, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ClusterError(f"{' '.join(str(part) for part in argv)[:300]}: exit code {done.returncode}\n{said}")
    return done.stdout


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Whether a command exits with 0. Its output is dropped."""
    return not subprocess.run(
        [str(part) for part in argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode


def contained(argv: Sequence[str | Path]) -> list[str]:
    """The same command with its own mounts and processes, which all end with this program."""
    leash = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [*leash, *(str(part) for part in argv)]


def say(text: str) -> None:
    """Print a message for the user on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Print what happens, and afterwards how long it took."""
    start = time.monotonic()
    yield
    say(f"{title}: {time.monotonic() - start:.1f} s")


class _LastLine:
    """Copies a stream to a file and remembers its last line."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.text = ""
        self._process = process
        self._log = log
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        assert self._process.stdout is not None
        with self._log.open("a") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self.text = line.strip() or self.text

    def join(self) -> None:
        self._thread.join(timeout=5)


def stream(
    title: str, argv: Sequence[str | Path], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a long command, and show its time and last line. `log` gets all output. Raises ClusterError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = reported = time.monotonic()
    say(f"{title} …")
    with subprocess.Popen(
        [str(part) for part in argv],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        _streams[process] = title
        last = _LastLine(process, log)
        terminal = sys.stderr.isatty()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.5)
            now = time.monotonic()
            _streams[process] = f"{title}: {now - start:.0f} s: {last.text}"
            if terminal:
                width = os.get_terminal_size(sys.stderr.fileno()).columns
                shown = " | ".join(text[: width // len(_streams) - 3] for text in _streams.copy().values())
                print(f"\r\033[K{shown}", end="", file=sys.stderr, flush=True)
            elif now - reported >= REPORT_EVERY:
                reported = now
                say(f"  {_streams[process][:160]}")
        _streams.pop(process, None)
        last.join()
        if terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise ClusterError(f"{title} failed (exit code {process.returncode}); all its output: {log}\n{tail(log)}")
    say(f"{title}: {time.monotonic() - start:.1f} s")


def together(*tasks: Callable[[], None]) -> None:
    """Run these tasks at the same time. The first error ends the commands of the others, and is raised."""
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            done, running = wait(futures, return_when=FIRST_EXCEPTION)
            failed = [future for future in futures if future in done and future.exception()]
        except BaseException:
            failed, running = [], set(futures)
            raise
        finally:
            if running:
                for process in list(_streams):
                    process.kill()
    if failed:
        failed[0].result()


def tail(log: Path, lines: int = 15) -> str:
    """Last lines of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(what: str, seconds: float, ready: Callable[[], bool], *, every: float = 0.1, hint: str = "") -> None:
    """Call `ready` until it returns True. Raises ClusterError after that many seconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not within {seconds:.0f} s{'; ' + hint if hint else ''}")
        time.sleep(every)
