"""The commands that look: ``methods``, ``studies``, ``show``, ``report``, ``export`` and ``sample``."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from luthier.cli.options import (
    DEFAULT_STORE,
    NameArgument,
    StoreOption,
    existing,
    failure,
    options,
    screen,
    told,
    usage,
)
from luthier.files import write_whole
from luthier.limits import described
from luthier.tables import add_row, best_table, front_table, jobs_table, new_table, trials_table
from luthier.text import plain, public_url


class Format(enum.StrEnum):
    """File formats that ``export`` writes."""

    csv = "csv"
    json = "json"
    schedule = "schedule"


def methods(
    name: Annotated[str | None, typer.Argument(help="One of them: its settings, with defaults and meanings.")] = None,
) -> None:
    """List the methods, what [bold]tune --method[/bold] takes; or one's settings, what [bold]--set[/bold] takes.

    [bold]Example[/bold]

    luthier methods pbt
    """
    from luthier.study.methods import METHODS, settings_of
    from luthier.study.resolve import resolve

    if name is not None:
        with told():
            if name not in METHODS:
                resolve(name)  # raises, with the names that there are
            row, found = METHODS[name], settings_of(name)
            table = new_table(f"{name}: {row.summary} ({row.paper})", "--set", "default", "meaning")
            for setting, (default, meaning) in found.items():
                add_row(table, setting, default, meaning.replace("``", ""))
            if not found:
                add_row(table, "it has no settings", "", "")
            screen().print(table)
        return
    headings = ("method", "changes hyperparameters", "what it is", "source", "file", "example")
    table = new_table("Methods", *headings)
    for row in METHODS.values():
        add_row(table, row.name, f"{row.kind} trainings", row.summary, row.paper, row.file, row.example)
    with told():
        screen().print(table)


def studies(store: StoreOption = DEFAULT_STORE) -> None:
    """List the studies in a store.

    [bold]Example[/bold]

    luthier studies --store fashion.db
    """
    import datetime

    with told():
        headings = ("study", "jobs", "ended", "objective", "best", "job", "last written")
        table = new_table(f"Studies in {public_url(store)}", *headings, right=("jobs", "ended", "best", "job"))
        with existing(store) as opened:
            for row in opened.studies():
                best = ("", "") if row.best_value is None else (f"{row.best_value:.6g}", str(row.best))
                if row.damaged:
                    add_row(table, row.name, "", "", f"damaged: {row.damaged}", "", "", "", style="red")
                    continue
                when = datetime.datetime.fromtimestamp(row.updated).strftime("%Y-%m-%d %H:%M")
                add_row(table, row.name, row.jobs, row.done, row.objective or "", *best, when)
        screen().print(table)


def show(
    name: NameArgument,
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[int, typer.Option(min=0, help="How many of the latest trials to list.")] = 10,
    diverse: Annotated[
        int, typer.Option(min=0, help="Also up to so many jobs that are nearly as good as the best, and differ.")
    ] = 0,
    within: Annotated[float, typer.Option(help="How nearly, as a part of the best value: 0.01 is 1 %.")] = 0.01,
) -> None:
    """Show one study: its best configuration, its counts and its latest trials.

    [bold]Examples[/bold]

    luthier show fashion_mnist-random --store fashion.db --last 20

    luthier show fashion_mnist-gflownet --store fashion.db --diverse 5 --within 0.02
    """
    from collections import Counter

    from luthier.study.study import Study
    from luthier.study.succession import methods_said

    with told(), existing(store) as opened:
        study = Study.load(name, opened)
        console = screen()
        records = study.trials
        counts = ", ".join(f"{count} {status}" for status, count in Counter(row.status for row in records).items())
        objectives = ", ".join(f"{metric} ({mode})" for metric, mode in study.history.objectives.items())
        limits = f"{described(study.history.limits)}, " if study.history.limits else ""
        budget = ", ".join(f"{key} {value:g}" for key, value in study.settings["budget"].items() if value is not None)
        console.print(
            Text.assemble(
                (plain(study.name), "bold"),
                plain(f": {methods_said(study.history, study.settings)}, {objectives}, {limits}"),
                plain(f"seed {study.settings['seed']}, {budget or 'no limit'}\n"),
                plain(f"{study.execution}\n" if study.execution else ""),
                f"{len(records)} trials: {counts or 'none'}",
                f"; {sum(row.feasible is False for row in records)} outside the limits" if limits else "",
            )
        )
        best = study.front
        if best:
            several = len(study.history.objectives) > 1
            console.print(front_table(best, "best") if several else best_table(best[0], "best"))
        if best and diverse:
            console.print(jobs_table(study.diverse(diverse, within), f"within {within:.3g} of the best, and different"))
        if records and last:
            console.print(trials_table(records[-last:], list(study.history.objectives)))


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

    with told(), existing(store) as opened:
        typer.echo(Study.load(name, opened).write_report(output or Path(f"{name.replace('/', '-')[:200]}.html")))


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
    from luthier.study.export import rows_to_csv, rows_to_json
    from luthier.study.study import Study

    with told(), existing(store) as opened:
        study = Study.load(name, opened)
        if format_ is Format.schedule:
            if not study.front:
                raise failure(study)
            text = json.dumps(study.front[0].schedule.to_json(), indent=1) + "\n"
        else:
            text = (rows_to_csv if format_ is Format.csv else rows_to_json)(study.to_records())
        _write(text, output)


def sample(
    name: NameArgument,
    count: Annotated[int, typer.Option(min=1, help="How many configurations.")] = 100,
    store: StoreOption = DEFAULT_STORE,
    temperature: Annotated[float, typer.Option(help="Divides the logits: 0.1 is greedy, 10 nearly uniform.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit and of the draws.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of gflownet; again for more.", metavar="KEY=VALUE")
    ] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The system as printed, for a metric that is maximised.")
    ] = False,
    format_: Annotated[Format, typer.Option("--format", "-f", help="csv or json.")] = Format.csv,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; else standard output.")] = None,
) -> None:
    """Draw good configurations that differ, in proportion to how good a study says they are (GFlowNet).

    Each row has a configuration, and the metric that is expected there with its standard deviation.

    [bold]Examples[/bold]

    luthier sample fashion_mnist-random --store fashion.db --count 100

    luthier sample fashion_mnist-random --store fashion.db --count 5 --set beta=20 --format json
    """
    from luthier.propose import GFlowNet
    from luthier.study.export import rows_to_csv, rows_to_json
    from luthier.study.resolve import resolve
    from luthier.study.study import Study

    if format_ is Format.schedule:
        raise usage("--format schedule is of a training; a sample is csv or json")
    with told(), existing(store) as opened:
        history, given = Study.load(name, opened).history, options(settings or [])
        method = resolve("gflownet", given).proposer
        fitted = (GFlowNet.paper(**given) if paper else method).fit(history, seed=seed)
        configs = fitted.sample(count, temperature, seed)
        objective, expected = next(iter(history.objectives)), zip(*fitted.predict(configs), strict=True)
        rows = [
            {f"config.{key}": value for key, value in config.items()}
            | {f"expected.{objective}": float(mean), f"deviation.{objective}": float(deviation)}
            for config, (mean, deviation) in zip(configs, expected, strict=True)
        ]
        _write(rows_to_json(rows) if format_ is Format.json else rows_to_csv(rows), output)


def _write(text: str, output: Path | None) -> None:
    """Write to a file, whole or not at all, or to standard output."""
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        write_whole(output, text)
    except OSError as error:
        raise usage(f"{output}: it cannot be written ({error.strerror})") from None


class Tracker(enum.StrEnum):
    """Trackers that ``follow`` writes to."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"
    wandb = "wandb"
    csv = "csv"


def follow(
    name: NameArgument,
    to: Annotated[Tracker, typer.Option(help="The tracker.")],
    store: StoreOption = DEFAULT_STORE,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder of tensorboard, URI of mlflow, project of wandb, file of csv. "
            "\\[default: runs, sqlite:///mlflow.db, luthier, NAME.csv]",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on with what comes, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, with --watch.")] = 2.0,
) -> None:
    """Write a study, finished or running, to a tracker. What is there already is not written again.

    [bold]Examples[/bold]

    luthier follow digits-pbt --store digits.db --to tensorboard --output runs

    luthier follow digits-pbt --store digits.db --to mlflow --output http://tracking:5000 --watch
    """
    from luthier import follow as trackers
    from luthier.study.study import Study

    kinds = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "WandB", "csv": "CSV"}
    with told(), existing(store) as opened:
        study = Study.load(name, opened)
        place = output or (f"{name.replace('/', '-')}.csv" if to is Tracker.csv else None)
        follower = getattr(trackers, kinds[to])(*([] if place is None else [place]))
        count = trackers.replay(study, follower, every if watch else None)
        typer.echo(plain(f"{name}: {count:,} events in {follower!r}"))


def serve(
    store: Annotated[
        str, typer.Argument(envvar="LUTHIER_STORE", help="SQLite file or postgresql:// URL.")
    ] = DEFAULT_STORE,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option(envvar="LUTHIER_TOKEN", help="What a browser must bring. \\[default: made where needed]"),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at a study.")] = 1.0,
) -> None:
    """Show a store in the browser, live: its studies, what runs now, a page for each trial. Nothing is written.

    [bold]Examples[/bold]

    luthier serve fashion.db

    luthier serve postgresql://me@host/studies --host 0.0.0.0 --port 9000
    """
    import threading

    from luthier.serve import Server

    with told(), Server(store, host, port, token, every) as server:
        typer.echo(f"{server.url}\nCtrl-C ends it.")
        threading.Event().wait()
