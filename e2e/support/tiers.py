"""Runs all tests, tier by tier, fast ones first: `python3 -m support.tiers`, which `make test` runs.

The local cluster takes longest, so it is built in parallel with the fast tiers, which go first. It is stopped at the
end if it did not run before. If KUBECONFIG is set, the cluster tier uses that cluster instead.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.clusters import ROOT, local_command, local_environment, local_programs

LOG = ROOT / ".work" / "cluster-up.log"
_REPORT_SECONDS = 15.0
_TIERS = ("lint", "verify", "test-unit", "test-integration", "test-cluster")


class Background:
    """The local cluster, with its output in a file. It is built while tests run, and started when it is waited for."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        # In the session of the tests: between sessions, Linux shares the processors whatever the niceness.
        self._process = self._start(["nice", "-n", "5", *local_command("build")], process_group=0)

    def wait(self) -> bool:
        """Wait until the cluster runs, and print its progress at intervals. Returns whether it runs."""
        if not self._ends_well():
            return False
        self._process = self._start(local_command("up"), start_new_session=True)
        return self._ends_well()

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - those of Popen
        with self._log.open("a") as output:
            return subprocess.Popen(
                command,
                env=local_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **options,
            )

    def _ends_well(self) -> bool:
        began = reported = time.monotonic()
        while self._process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                _say(f"waiting for the cluster, {reported - began:.0f} s: {self._last_line()}")
        return self._process.returncode == 0

    def stop(self) -> None:
        """Stop it if it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
            self._process.wait()

    def tail(self) -> str:
        """Return the end of its output."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip()[:140] for line in reversed(lines) if line.strip()), "")


def main() -> int:
    """Run every tier. Returns the exit code of the first one that fails."""
    own = bool(os.environ.get("KUBECONFIG"))
    was_up = not own and _is_up()
    cluster = None if own else Background(LOG)
    durations: list[tuple[str, float]] = []
    try:
        return _run(cluster, durations)
    except KeyboardInterrupt:
        return 130
    finally:
        if cluster is not None:
            cluster.stop()
        if cluster is not None and not was_up:
            subprocess.run(local_command("down"), env=local_environment(), check=False)
        _say("durations: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in durations))


def _run(cluster: Background | None, durations: list[tuple[str, float]]) -> int:
    for tier in _TIERS:
        if tier == "test-integration" and cluster is not None:
            began = time.monotonic()
            if not cluster.wait():
                _say(f"the local cluster did not start; the end of {LOG}:\n{cluster.tail()}")
                return 1
            durations.append(("waiting for the cluster", time.monotonic() - began))
        if tier == "test-integration" and local_programs() is None:
            _say("test-integration is skipped: it needs programs that `make cluster-up` builds")
            continue
        began = time.monotonic()
        _say(f"make {tier}")
        code = subprocess.run(["make", "--no-print-directory", tier], cwd=ROOT, check=False).returncode
        durations.append((tier, time.monotonic() - began))
        if code:
            _say(f"make {tier} failed")
            return code
    return 0


def _is_up() -> bool:
    done = subprocess.run(local_command("status"), env=local_environment(), capture_output=True, check=False)
    return done.returncode == 0


def _say(text: str) -> None:
    sys.stdout.write(f"=== {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
