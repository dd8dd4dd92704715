"""The operator's process: it reads the settings, sets up the logs, and runs the operator."""

import asyncio
import sys

from pydantic import ValidationError

from torchrun_operator.process.app import run
from torchrun_operator.settings import Settings
from torchrun_operator.telemetry.logs import configure_logging


def main() -> None:
    """Run the operator, and exit with its status. Exit with 1 and a message if a setting is invalid."""
    try:
        settings = Settings()
        settings.read_key()
    except (ValidationError, ValueError, OSError) as error:
        sys.exit(f"torchrun-operator: invalid setting: {error}")
    configure_logging(settings.log_level, settings.log_format)
    sys.exit(asyncio.run(run(settings)))


if __name__ == "__main__":
    main()
