"""Process: what a process that uses the library is set up for, before the first run begins."""

from torchrun_trainer.launch.errorfile import record_errors
from torchrun_trainer.watch.termination import die_at_exit


def prepare() -> None:
    """Let this process record its uncaught errors for torchrun, and end by a deferred SIGTERM.

    Taking a public name from ``torchrun_trainer`` calls this, so that failures before the first ``Run`` count too.
    Repeated calls change nothing. Needs the standard library only.
    """
    record_errors()
    die_at_exit()
