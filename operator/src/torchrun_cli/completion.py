"""Completion by kubectl: it runs `kubectl_complete-torchrun` with the words of the line, the last one unfinished."""

import sys

import click
from click.shell_completion import ShellComplete

from torchrun_cli.app import COMPLETE, PROGRAM, app

_NO_FILES, _FILES = 4, 0
"""What kubectl does if there is no proposal: nothing, or it proposes files."""


def complete() -> None:
    """Print the proposals, one per line, and the directive for kubectl."""
    words = sys.argv[1:] or [""]
    proposals = ShellComplete(app, {}, PROGRAM, COMPLETE).get_completions(words[:-1], words[-1])
    plain = [proposal for proposal in proposals if proposal.type == "plain"]
    for proposal in plain:
        click.echo(f"{proposal.value}\t{proposal.help}" if proposal.help else proposal.value)
    click.echo(f":{_NO_FILES if len(plain) == len(proposals) else _FILES}")
