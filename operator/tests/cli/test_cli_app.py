"""The program around the commands: help, errors, exit codes, and the options that all commands share."""

from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner, Result

from torchrun_cli import app as module
from torchrun_cli.app import COMMANDS, PROGRAM, Entry, app
from torchrun_cli.errors import CliError, Exit
from torchrun_cli.options import Target, target_options


def run(*args: str) -> Result:
    return CliRunner().invoke(app, args, prog_name=PROGRAM)


@click.command()
@target_options
@click.argument("how", required=False)
def probe(target: Target, how: str | None) -> None:
    """Print the target."""
    if how == "fail":
        raise CliError("no job named digits", Exit.NOT_FOUND)
    if how == "abort":
        raise click.Abort
    click.echo(f"{target.context} {target.namespace} {target.kubeconfig}")


@pytest.fixture
def with_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "probe", Entry("Tests", "version:probe", "Print the target."))
    monkeypatch.setattr("torchrun_cli.commands.version.probe", probe, raising=False)
    assert module.COMMANDS is COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_each_command_says_of_itself(name: str) -> None:
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert (command.name, (command.help or "").partition("\n")[0]) == (name, COMMANDS[name].help)
    assert f"kubectl torchrun {name} " in f"{run(name, '--help').output.partition('Examples:')[2]} ".replace("\n", " ")


def test_the_help_text_lists_every_command() -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    assert [name for name in COMMANDS if f"\n  {name}" not in shown.output] == []
    assert run("-h").output == shown.output


def test_the_version_is_that_of_the_package() -> None:
    assert run("version").output == f"{version('torchrun-operator')}\n"


@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (["verrsion"], 2, f"unknown command 'verrsion'; did you mean 'version'?\nSee '{PROGRAM} --help' for usage."),
        (["zzz"], 2, f"unknown command 'zzz'\nSee '{PROGRAM} --help' for usage."),
        (["version", "--frob"], 2, f"No such option '--frob'.\nSee '{PROGRAM} version --help' for usage."),
        (["probe", "fail"], 3, "no job named digits"),
    ],
)
@pytest.mark.usefixtures("with_probe")
def test_errors(args: list[str], code: int, error: str) -> None:
    result = run(*args)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"error: {error}\n")


@pytest.mark.usefixtures("with_probe")
def test_an_interrupted_command_says_nothing() -> None:
    result = run("probe", "abort")
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize(
    ("args", "target"),
    [
        (["probe"], "None None None"),
        (["probe", "-n", "ml", "--context", "here", "--kubeconfig", "f"], "here ml f"),
        (["-n", "ml", "--context=here", "--kubeconfig", "f", "probe"], "here ml f"),
        (["-n", "ml", "--context", "there", "probe", "--context", "here"], "here ml None"),
    ],
)
@pytest.mark.usefixtures("with_probe")
def test_the_cluster_is_chosen_before_or_after_the_command(args: list[str], target: str) -> None:
    assert run(*args).output == f"{target}\n"
