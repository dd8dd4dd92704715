"""The entry point of `kubectl-torchrun`."""

import sys


def main() -> None:
    """Run the program, and exit. Exit with 1 and a message if the packages of the extra `cli` are not installed."""
    try:
        from torchrun_cli.app import app  # noqa: PLC0415 the message below needs a failure here
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed: run pip install 'torchrun-operator[cli]'")
    app()


if __name__ == "__main__":
    main()
