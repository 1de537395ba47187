"""The command line: tune a file, and look at what a store holds."""

from __future__ import annotations

import contextlib
import enum
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from luthier import __version__
from luthier.errors import ConfigError, DataError, LuthierError, MethodError, SpaceError, TaskError
from luthier.tables import best_table, front_table, standings_table, trials_table

WRONG_USE = (MethodError, TaskError, SpaceError, ConfigError, DataError)

app = typer.Typer(
    name="luthier",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tune neural networks: [bold]luthier tune FILE[/bold], then look at the study.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.",
)


class Mode(enum.StrEnum):
    """The direction in which a metric is better."""

    min = "min"
    max = "max"


class Format(enum.StrEnum):
    """What ``export`` writes."""

    csv = "csv"
    json = "json"
    schedule = "schedule"


StoreOption = Annotated[
    str, typer.Option("--store", "-s", envvar="LUTHIER_STORE", help="SQLite file or postgresql:// URL.")
]
NameArgument = Annotated[str, typer.Argument(help="The study, as [bold]luthier studies[/bold] lists it.")]
DEFAULT_STORE = "luthier.db"


@app.callback(invoke_without_command=True)
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if show_version:
        typer.echo(f"luthier {__version__}")
        raise typer.Exit


@app.command()
def tune(
    file: Annotated[Path, typer.Argument(help="A Python file that defines [bold]task[/bold].", show_default=False)],
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", help="A name of [bold]luthier methods[/bold]. \\[default: random]"),
    ] = None,
    schedule: Annotated[
        Path | None,
        typer.Option(help="Instead of a method: train once under this file of [bold]export --format schedule[/bold]."),
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", "-n", min=1, help="Configurations to start.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", "-e", help="Passes over the data of each trial.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each trial, instead of epochs.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Wall time of this call.")] = None,
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="Name of the study. \\[default: FILE-METHOD]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything that is random. \\[default: 0, or that of the schedule]")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes that train at once.")] = 1,
    metric: Annotated[
        str | None, typer.Option(help="The objective, or several with commas between. \\[default: loss]")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="min or max, for all of them or one for each: min,max. \\[default: min]")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method; again for more.", metavar="KEY=VALUE")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
) -> None:
    """Tune the task that a Python file defines; the same command again resumes.

    [bold]Examples[/bold]

    luthier tune examples/fashion_mnist.py --trials 16 --epochs 5

    luthier tune mine.py --method grid --set points=3 --metric accuracy --mode max --workers 2

    luthier tune mine.py --seconds 600 --store sqlite:///studies/mine.db

    luthier tune mine.py --schedule schedule.json
    """
    with _told():
        from luthier import execute
        from luthier.study.methods import resolve
        from luthier.study.tuning import tune as run

        settings, goals = _options(set_ or []), _several(metric)
        study_name = name or f"{file.stem}-{method or ('random' if schedule is None else 'replay')}"
        study = run(
            file,
            resolve(method or "random", settings, 1 if isinstance(goals, str | None) else len(goals))
            if settings
            else method,
            schedule=schedule,
            trials=trials,
            epochs=epochs,
            steps=steps,
            seconds=seconds,
            metric=goals,
            mode=_directions(mode),
            store=store,
            name=study_name,
            seed=seed,
            executor=execute.Local(workers=workers),
            progress=False if quiet else None,
        )
        console = _console()
        best = study.best
        if not best:
            raise _failure(study)
        console.print(front_table(best, study.name) if isinstance(best, list) else best_table(best, study.name))
        if not quiet and study.in_store:
            asked = f"{_quoted(study.name)} --store {_quoted(store)}"
            console.print(f"luthier report {asked}", style="dim", soft_wrap=True, highlight=False, markup=False)


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(help="A Python file that defines [bold]task[/bold].", show_default=False)],
    methods: Annotated[str, typer.Option("--methods", "-m", help="Names, with commas between.")] = "random,gp,genetic",
    trials: Annotated[int, typer.Option("--trials", "-n", min=1, help="Whole trainings that each may spend.")] = 20,
    epochs: Annotated[float | None, typer.Option("--epochs", "-e", help="Passes over the data of each.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each, instead of epochs.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Studies of each method.")] = 3,
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="Name of the comparison. \\[default: FILE-compare]")] = None,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes that train at once.")] = 1,
    metric: Annotated[str | None, typer.Option(help="The objective. \\[default: loss]")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Which direction is better. \\[default: min]")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page. \\[default: NAME.html]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the table only.")] = False,
) -> None:
    """Tune a task by several methods, each with the same total of training; the same command again resumes.

    [bold]Example[/bold]

    luthier compare examples/fashion_mnist.py --methods random,gp,pbt --trials 16 --epochs 3 --seeds 3
    """
    with _told():
        from luthier import execute
        from luthier.study.compare import compare as run

        found = run(
            file,
            [part.strip() for part in methods.split(",") if part.strip()],
            trials=trials,
            epochs=epochs,
            steps=steps,
            seeds=seeds,
            metric=metric,
            mode=mode and mode.value,
            store=store,
            name=name,
            executor=execute.Local(workers=workers),
            progress=False if quiet else None,
        )
        console = _console()
        title = f"{found.name}: {found.total:,} training steps for each method and seed"
        console.print(standings_table(found.table(), found.objective, title))
        page = found.report(output or Path(f"{found.name.replace('/', '-')}.html"))
        if not quiet:
            console.print(str(page), style="dim", soft_wrap=True, highlight=False, markup=False)


@app.command()
def methods() -> None:
    """List the methods: what [bold]tune --method[/bold] takes."""
    from luthier.study.methods import METHODS

    table = Table(title="Methods", title_justify="left")
    for heading in ("method", "changes hyperparameters", "what it is", "source", "file", "example"):
        table.add_column(heading, overflow="fold")
    for row in METHODS.values():
        table.add_row(row.name, f"{row.kind} trainings", row.summary, row.paper, row.file, row.example)
    _console().print(table)


@app.command()
def studies(store: StoreOption = DEFAULT_STORE) -> None:
    """List the studies in a store.

    [bold]Example[/bold]

    luthier studies --store fashion.db
    """
    import datetime

    with _told():
        table = Table(title=f"Studies in {_shown(store)}", title_justify="left")
        for heading in ("study", "jobs", "ended", "objective", "best", "job", "last written"):
            table.add_column(heading, justify="right" if heading in ("jobs", "ended", "best", "job") else "left")
        with _existing(store) as opened:
            for row in opened.studies():
                best = ("", "") if row.best_value is None else (f"{row.best_value:.6g}", str(row.best))
                when = datetime.datetime.fromtimestamp(row.updated).strftime("%Y-%m-%d %H:%M")
                table.add_row(row.name, str(row.jobs), str(row.done), row.objective or "", *best, when)
        _console().print(table)


@app.command()
def show(
    name: NameArgument,
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[int, typer.Option(min=0, help="How many of the latest trials to list.")] = 10,
) -> None:
    """Show one study: its best configuration, its counts and its latest trials.

    [bold]Example[/bold]

    luthier show fashion_mnist-random --store fashion.db --last 20
    """
    from collections import Counter

    from luthier.study.settings import method_name
    from luthier.study.study import Study

    with _told(), _existing(store) as opened:
        study = Study.load(name, opened)
        console = _console()
        records = study.trials
        counts = ", ".join(f"{count} {status}" for status, count in Counter(row.status for row in records).items())
        objectives = ", ".join(f"{metric} ({mode})" for metric, mode in study.history.objectives.items())
        budget = ", ".join(f"{key} {value:g}" for key, value in study.settings["budget"].items() if value is not None)
        console.print(
            Text.assemble(
                (study.name, "bold"),
                f": {method_name(study.settings)}, {objectives}, ",
                f"seed {study.settings['seed']}, {budget or 'no limit'}\n",
                f"{len(records)} trials: {counts or 'none'}",
            )
        )
        best = study.best
        if best:
            console.print(front_table(best, "best") if isinstance(best, list) else best_table(best, "best"))
        if records and last:
            console.print(trials_table(records[-last:], list(study.history.objectives)))


@app.command()
def report(
    name: NameArgument,
    store: StoreOption = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file. \\[default: NAME.html]")] = None,
) -> None:
    """Write a study as one HTML page that needs no network.

    [bold]Example[/bold]

    luthier report fashion_mnist-random --store fashion.db --output fashion.html
    """
    from luthier.study.study import Study

    with _told(), _existing(store) as opened:
        typer.echo(Study.load(name, opened).report(output or Path(f"{name.replace('/', '-')}.html")))


@app.command()
def export(
    name: NameArgument,
    store: StoreOption = DEFAULT_STORE,
    format_: Annotated[Format, typer.Option("--format", "-f", help="What to write.")] = Format.csv,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; else standard output.")] = None,
) -> None:
    """Write every job of a study, one row each; or, as [bold]schedule[/bold], the hyperparameters over its steps of the
    training that is best by the first objective, which [bold]tune --schedule[/bold] replays.

    [bold]Examples[/bold]

    luthier export fashion_mnist-random --store fashion.db --output trials.csv

    luthier export fashion_mnist-random --store fashion.db --format json | jq '.[0]'

    luthier export digits-pbt --store digits.db --format schedule --output schedule.json
    """
    from luthier.study.export import to_csv, to_json
    from luthier.study.study import Study

    with _told(), _existing(store) as opened:
        study = Study.load(name, opened)
        if format_ is Format.schedule:
            if not study.front:
                raise _failure(study)
            text = json.dumps(study.front[0].schedule.to_json(), indent=1) + "\n"
        else:
            text = to_csv(study.history) if format_ is Format.csv else to_json(study.history)
        if output is None:
            sys.stdout.write(text)
            return
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise _usage(f"{output}: it cannot be written ({error.strerror})") from None


def main() -> None:
    """The ``luthier`` command."""
    app()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """luthier's own errors as one red line, with the exit code that they call for."""
    try:
        yield
    except LuthierError as error:
        Console(stderr=True).print(Text(str(error), style="red"), soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, WRONG_USE) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _existing(store: str) -> Iterator[Any]:
    """A store that is there already."""
    from luthier.store import open_store
    from luthier.study.settings import check_exists

    try:
        check_exists(store)
    except LuthierError as error:
        raise _usage(str(error)) from None
    with open_store(store) as opened:
        yield opened


def _usage(message: str) -> typer.Exit:
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)
    return typer.Exit(2)


def _failure(study: Any) -> typer.Exit:
    errors = [record.error for record in study.trials if record.error]
    last = f"; the last failed with: {errors[-1]}" if errors else ""
    text = f"{study.name}: none of {len(study.trials)} trials ended well{last}"
    Console(stderr=True).print(Text(text, style="red"), soft_wrap=True)
    return typer.Exit(1)


def _several(text: str | None) -> str | list[str] | None:
    """``"loss,latency"`` as two names; one name as it is."""
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    return names if len(names) > 1 else text


def _directions(text: str | None) -> str | list[str] | None:
    """``"min,max"`` as two directions."""
    found = _several(text)
    for one in [found] if isinstance(found, str) else found or []:
        if one not in tuple(Mode):
            raise _usage(f"--mode {one}: it is min or max, for all objectives or one for each")
    return found


def _options(pairs: list[str]) -> dict[str, Any]:
    """``["points=3", "shuffle=true"]`` as settings: JSON where it is JSON, else text."""
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise MethodError(f"{pair!r} is not KEY=VALUE", where="--set", remedy="Write --set points=5.")
        try:
            options[key] = json.loads(text)
        except json.JSONDecodeError:
            options[key] = text
    return options


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=160)  # a pipe has no width to respect


def _shown(store: str) -> str:
    from luthier.study.settings import public_url

    return public_url(store)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(_shown(text))
