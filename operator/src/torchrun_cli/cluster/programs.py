"""kubectl, for what needs its own protocols: commands in pods, and ports of pods."""

import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence

from torchrun_cli.errors import CliError
from torchrun_cli.options import Target


def kubectl(target: Target, namespace: str, *words: str) -> list[str]:
    """Return the command line of kubectl for the same cluster. Raises CliError if there is no kubectl on PATH."""
    program = shutil.which("kubectl")
    if program is None:
        where = "https://kubernetes.io/docs/tasks/tools/"
        raise CliError(f"kubectl is not on PATH, and this command needs it: install it from {where}")
    options = [f"--kubeconfig={target.kubeconfig}"] if target.kubeconfig else []
    options += [f"--context={target.context}"] if target.context else []
    return [program, *options, f"--namespace={namespace}", *words]


def run(command: Sequence[str]) -> int:
    """Run a program on this terminal, and return its exit code. SIGINT is for the program."""
    with subprocess.Popen(command) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the terminal has sent it to the program as well


def run_all(commands: Sequence[Sequence[str]], say: Callable[[int, bytes, bool], None]) -> list[int]:
    """Run programs at the same time, and return their exit codes.

    ``say`` gets each line as it comes: the number of its program, the line, and whether it is from stderr.
    """
    codes = [0] * len(commands)
    lock = threading.Lock()

    def pump(number: int, stream: object, of_stderr: bool) -> None:
        for line in stream:  # type: ignore[attr-defined]
            with lock:
                say(number, line.rstrip(b"\n"), of_stderr)

    def one(number: int) -> None:
        with subprocess.Popen(
            commands[number], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            errors = threading.Thread(target=pump, args=(number, process.stderr, True))
            errors.start()
            pump(number, process.stdout, False)
            errors.join()
            codes[number] = process.wait()

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(len(commands))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes
