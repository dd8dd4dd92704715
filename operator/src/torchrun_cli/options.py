"""What commands share: options with the names that they have in kubectl, and examples in their help texts."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from inspect import cleandoc
from typing import Any, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


class Command(click.Command):
    """A command whose help text has examples."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:  # noqa: ANN401 click's own
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, one per line."""
        write_examples(self.examples, formatter)
        super().format_epilog(ctx, formatter)


def write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    """Write lines below the heading `Examples`, without wrapping them."""
    if examples:
        with formatter.section("Examples"):
            lines = cleandoc(examples).splitlines()
            formatter.write("".join(f"{' ' * formatter.current_indent}{line}".rstrip() + "\n" for line in lines))


def command(name: str | None = None, *, examples: str = "") -> Callable[[Callable[..., Any]], Command]:
    """Return the decorator that makes a command of a function. `examples`: lines for its help text."""
    return click.command(name, cls=Command, examples=examples)


@dataclass(frozen=True)
class Target:
    """The cluster and namespace that a command talks to. None: what the kubeconfig says."""

    context: str | None = None
    namespace: str | None = None
    kubeconfig: str | None = None

    def over(self, other: "Target") -> "Target":
        """Return this target, with the fields of another one where this one says nothing."""
        return replace(other, **{name: value for name, value in vars(self).items() if value is not None})


def target_options(command: Callable[P, R]) -> Callable[..., R]:
    """Give a command the options that choose the cluster. It receives them as `target`.

    They may stand before the name of the command as well as after it; those after it win.
    """

    @click.option("--context", metavar="NAME", help="The context of the kubeconfig to use.")
    @click.option("-n", "--namespace", metavar="NAME", help="The namespace of the job.")
    @click.option("--kubeconfig", metavar="FILE", help="The kubeconfig file to use.")
    @click.pass_context
    @wraps(command)
    def wrapped(
        context_of_click: click.Context,
        /,
        *,
        context: str | None,
        namespace: str | None,
        kubeconfig: str | None,
        **options: Any,  # noqa: ANN401 what click read for the command
    ) -> R:
        before = context_of_click.find_object(Target) or Target()
        options["target"] = Target(context, namespace, kubeconfig).over(before)
        context_of_click.obj = options["target"]
        return context_of_click.invoke(command, **options)

    return wrapped


def output_option(*choices: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option `-o`; the command receives it as `output`, None if it is not given."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(choices or ("json", "yaml", "name")),
        help="Print the objects in this format.",
    )
