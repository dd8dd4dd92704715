"""Writes the reference of `kubectl torchrun` from its commands: their help texts, options and examples."""

from collections.abc import Iterator
from inspect import cleandoc

import click

from torchrun_cli.app import COMMANDS, PROGRAM, app
from torchrun_cli.options import Command

_HEAD = """\
<!-- Generated from operator/src/torchrun_cli by operator/codegen/generate.py; do not edit. -->
# kubectl torchrun

Install it with `pip install ".[cli]"` in this repository, or from a wheel of it with
`pip install "torchrun-operator[cli] @ file:///path/to/wheel"`. The program `kubectl-torchrun` is then a plugin of
kubectl, and also runs without kubectl. It talks to the cluster of the kubeconfig, as kubectl does.

Output that goes to a pipe or a file has no colors; `NO_COLOR=1` turns them off everywhere.

## Exit codes

| Code | Meaning |
|---|---|
| 0 | the command did what it should |
| 1 | the request failed, or the job that the command waited for failed |
| 2 | wrong options, or a wrong manifest |
| 3 | there is no such object |
| 4 | the API server refused the request: forbidden, invalid, or in conflict with another one |
| 124 | the time of `--timeout` is over |
| 130 | interrupted by Ctrl+C |

## Completion

kubectl 1.26 or newer completes `kubectl torchrun` without further steps, if its own completion is set up: it runs the
program `kubectl_complete-torchrun`, which is installed with the other. For `kubectl-torchrun`, with the hyphen, add a
line to the start file of your shell:

```sh
eval "$(_KUBECTL_TORCHRUN_COMPLETE=bash_source kubectl-torchrun)"          # ~/.bashrc; bash 4.4 or newer
eval "$(_KUBECTL_TORCHRUN_COMPLETE=zsh_source kubectl-torchrun)"           # ~/.zshrc
_KUBECTL_TORCHRUN_COMPLETE=fish_source kubectl-torchrun | source           # ~/.config/fish/config.fish
```

## Options of all commands

They may stand before or after the name of a command. A command that needs no cluster takes them only before its name.

"""


def cli_reference() -> str:
    """Return the page."""
    context = click.Context(app, info_name=PROGRAM)
    parts = [_HEAD, _options(app, context)]
    for name in COMMANDS:
        command = app.get_command(context, name)
        assert command is not None
        parts += _command(command, click.Context(command, info_name=name, parent=context))
    return "".join(parts).rstrip("\n") + "\n"


def _command(command: click.Command, context: click.Context, level: str = "##") -> Iterator[str]:
    path = context.command_path.removeprefix(f"{PROGRAM} ")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"\n{level} {path}\n\n"
    yield f"{_prose(command.help or '')}\n\n```sh\n{usage}\n```\n"
    if options := _options(command, context):
        yield f"\n{options}"
    if isinstance(command, Command) and command.examples:
        yield f"\n```sh\n{cleandoc(command.examples)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, info_name=name, parent=context), level + "#")


def _options(command: click.Command, context: click.Context) -> str:
    records = [
        record
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        and "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
    ]
    if not records:
        return ""
    rows = "".join(f"| `{_cell(names)}` | {_cell(words)} |\n" for names, words in records)
    return f"| Option | |\n|---|---|\n{rows}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Return a docstring as Markdown: its paragraphs, without the marks of click."""
    return cleandoc(text.replace("\b", ""))
