"""The error that ends a command with a message, and the exit codes."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of all commands."""

    OK = 0
    FAILED = 1
    """The request failed, or the job that the command waited for."""
    USAGE = 2
    """Wrong options or wrong input."""
    NOT_FOUND = 3
    REFUSED = 4
    """The API server refused the request: forbidden, invalid, or in conflict with another one."""
    TIMEOUT = 124
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: the message goes to stderr, after `error: `."""

    def __init__(self, message: str, exit_code: int = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = int(exit_code)
