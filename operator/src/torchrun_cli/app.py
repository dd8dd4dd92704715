"""`kubectl torchrun`: a table of commands. A command is imported when it runs, so that each one starts fast."""

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

import click

from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, target_options

PROGRAM = "kubectl torchrun"
_FILE = "kubectl-torchrun"
COMPLETE = "_KUBECTL_TORCHRUN_COMPLETE"
"""The environment variable by which a shell asks for completions."""


class Entry(NamedTuple):
    """One command of the table."""

    group: str
    """The heading in the help text."""
    target: str
    """Where it is: `module:function`, below `torchrun_cli.commands`."""
    help: str
    """Its one line in the help text: the first sentence of its own help."""


SUBMIT, WATCH, CHANGE, FIND_OUT, OTHER = (
    "Write and submit jobs",
    "Watch jobs",
    "Change jobs",
    "Find out why",
    "Other commands",
)

COMMANDS = {
    "submit": Entry(SUBMIT, "submit:submit", "Create the job that a manifest describes."),
    "render": Entry(SUBMIT, "render:render", "Print the job that a manifest describes."),
    "validate": Entry(SUBMIT, "validate:validate", "Check a manifest by all rules, without a cluster."),
    "samples": Entry(SUBMIT, "samples:samples", "List and show the sample jobs of this program."),
    "list": Entry(WATCH, "list:list_jobs", "List jobs: their states, nodes, workers and steps."),
    "status": Entry(WATCH, "status:status", "Show a job on one screen: progress, nodes, conditions, last failure."),
    "logs": Entry(WATCH, "logs:logs", "Show the logs of all nodes of a job in one stream."),
    "events": Entry(WATCH, "events:events", "Show the events of a job and its pods, the newest last."),
    "timeline": Entry(WATCH, "timeline:timeline", "Show the life of a job as a picture: training, losses, pauses."),
    "wait": Entry(WATCH, "wait:wait", "Wait until a job is complete, runs, or has a condition."),
    "tensorboard": Entry(
        WATCH, "tensorboard:tensorboard", "Show TensorBoard for the snapshots of a job, also of one that has ended."
    ),
    "outputs": Entry(
        WATCH,
        "outputs:outputs",
        "Show the outputs of a job and how far their upload is, download them, or upload them again.",
    ),
    "scale": Entry(CHANGE, "scale:scale", "Change the number of nodes that a job wants."),
    "suspend": Entry(CHANGE, "suspend:suspend", "Suspend a job: all its pods end, and it keeps its snapshots."),
    "resume": Entry(CHANGE, "suspend:resume", "Resume a suspended job from its last snapshot."),
    "restart": Entry(CHANGE, "restart:restart", "Restart a job with new pods, from its last snapshot."),
    "cancel": Entry(CHANGE, "cancel:cancel", "End a job for good, and keep its record and its logs."),
    "delete": Entry(CHANGE, "delete:delete", "Delete jobs, with all that the operator created for them."),
    "doctor": Entry(
        FIND_OUT, "doctor:doctor", "Check a job, or the cluster: what keeps it from working, and what to do."
    ),
    "exec": Entry(FIND_OUT, "exec:exec_", "Run a command in a node of a job, or in all of them."),
    "port-forward": Entry(FIND_OUT, "port_forward:port_forward", "Forward ports of this computer to a node of a job."),
    "convert": Entry(
        SUBMIT, "convert:convert", "Convert an OSMO workflow, a PyTorchJob or a TrainJob to a TorchrunJob."
    ),
    "version": Entry(OTHER, "version:version", "Print the version of this program."),
}


class App(click.Group):
    """The group of all commands: it reports errors as kubectl does."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].target.partition(":")
        command = getattr(import_module(f"torchrun_cli.commands.{module}"), function)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises UsageError with the nearest name if there is none."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(f"unknown command {args[0]!r}{_nearest(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, from the table alone."""
        del ctx
        width = max(map(len, COMMANDS))
        for heading in dict.fromkeys(entry.group for entry in COMMANDS.values()):
            rows = [(name.ljust(width), entry.help) for name, entry in COMMANDS.items() if entry.group == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,  # noqa: ANN401 click's own
    ) -> Any:  # noqa: ANN401 click's own
        """Run the program and exit. Errors go to stderr; the exit codes are those of `errors.Exit`."""
        # A shell completes the program that it runs; kubectl has its own way, see completion.py.
        prog_name, complete_var = prog_name or (_FILE if COMPLETE in os.environ else PROGRAM), complete_var or COMPLETE
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except CliError as error:
            _fail(error.message, error.exit_code)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else PROGRAM
            _fail(f"{error.format_message()}\nSee '{path} --help' for usage.", Exit.USAGE)
        except click.ClickException as error:
            _fail(error.format_message(), Exit.FAILED)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(Exit.INTERRUPTED)
        sys.exit(code if isinstance(code, int) else Exit.OK)


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 only a wrong name needs it

    matches = get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _fail(message: str, code: int) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"error: {message}", err=True)
    sys.exit(int(code))


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@target_options
def app(target: Target) -> None:
    """Write, submit and watch elastic torchrun jobs."""
    del target
