"""The command line: tune a file, and look at what a store holds.

May import: public (luthier itself and all that is below it).
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from luthier import __version__
from luthier.cli import keeping, looking, tuning
from luthier.text import plain, without_secrets


class _Commands(TyperGroup):
    """The commands. What was typed wrong is told without the passwords in it."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        with _without_secrets():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        with _without_secrets():
            return super().invoke(ctx)


@contextlib.contextmanager
def _without_secrets() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):  # of a wrong use
            error.message = without_secrets(message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="luthier",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tune neural networks: [bold]luthier tune FILE[/bold], then look at the study.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.",
)


@app.callback(invoke_without_command=True)
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options that come before any command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or a pipe that is not UTF-8 gets escapes, not an error
        sys.stdout.reconfigure(errors="backslashreplace")
    if show_version:
        typer.echo(f"luthier {__version__}")
        raise typer.Exit


for command in (
    tuning.tune,
    tuning.compare,
    looking.methods,
    looking.studies,
    looking.show,
    looking.report,
    looking.export,
    looking.sample,
    looking.follow,
    looking.serve,
    keeping.copy,
    keeping.backup,
    keeping.rename,
    keeping.delete,
    keeping.weights,
):
    app.command()(command)


def main() -> None:
    """The ``luthier`` command."""
    with_place, commands = warnings.formatwarning, str(Path(typer.__file__).parent)

    def formatted(message: Any, category: type[Warning], filename: str, *more: Any) -> str:
        """A warning of luthier's is of no line of a program that the user has written."""
        ours = filename.startswith(commands)
        return plain(f"{message}") + "\n" if ours else with_place(message, category, filename, *more)

    warnings.formatwarning = formatted
    app()
