"""The commands that train: ``tune`` and ``compare``."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from luthier.cli.options import (
    DEFAULT_STORE,
    LimitOption,
    Mode,
    StoreOption,
    bounds,
    directions,
    failure,
    named_method,
    options,
    quoted,
    screen,
    several,
    told,
)
from luthier.errors import MethodError
from luthier.tables import best_table, front_table, standings_table

if TYPE_CHECKING:
    from luthier.execute import Executor
    from luthier.study.study import Study


class Where(enum.StrEnum):
    """Executors of the command line."""

    local = "local"
    ray = "ray"


FileArgument = Annotated[
    Path,
    typer.Argument(
        help="A file that defines [bold]task[/bold], or [bold]space[/bold] and a function [bold]objective[/bold].",
        show_default=False,
    ),
]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        help="A name of [bold]luthier methods[/bold], or two: random+hypergradient. \\[default: random]",
    ),
]
ScheduleOption = Annotated[
    Path | None,
    typer.Option(help="Instead of a method: train once under this file of [bold]export --format schedule[/bold]."),
]
SeedOption = Annotated[
    int | None, typer.Option(help="Of everything that is random. \\[default: 0, or that of the schedule]")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", "-w", min=1, help="Workers at once. \\[default: 1; on Ray as many as fit]")
]
StartOption = Annotated[
    list[str] | None,
    typer.Option(help="A configuration to try first, as JSON, or the word default; again for more.", metavar="JSON"),
]
PatienceOption = Annotated[
    int | None, typer.Option(min=1, help="End after so many trials without a better one.", metavar="TRIALS")
]
MetricsOption = Annotated[
    str | None, typer.Option(help="The objective, or several with commas between. \\[default: loss]")
]
ModesOption = Annotated[
    str | None, typer.Option(help="min or max, for all of them or one for each: min,max. \\[default: min]")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the method; again for more.", metavar="KEY=VALUE")
]


def tune(
    file: FileArgument,
    method: MethodOption = None,
    schedule: ScheduleOption = None,
    trials: Annotated[int | None, typer.Option("--trials", "-n", min=1, help="Configurations to start.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", "-e", help="Passes over the data of each trial.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each trial, instead of epochs.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Wall time of this call.")] = None,
    trial_seconds: Annotated[float | None, typer.Option(help="Wall time of each trial.")] = None,
    store: StoreOption = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="Name of the study. \\[default: FILE-METHOD]")] = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    executor: Annotated[Where, typer.Option(help="Where they train: here, or on a Ray cluster.")] = Where.local,
    address: Annotated[str | None, typer.Option(help="Address of the Ray cluster.")] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs of each worker on the cluster.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each worker on the cluster; 0.5 shares one.")] = 0,
    start: StartOption = None,
    target: Annotated[float | None, typer.Option(help="End once a trial is as good as this value.")] = None,
    patience: PatienceOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train failed trials again.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew; what was there is kept by another name.")] = False,
    metric: MetricsOption = None,
    mode: ModesOption = None,
    limit: LimitOption = None,
    set_: SetOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")] = False,
) -> None:
    """Tune the task that a Python file defines; the same command again resumes.

    [bold]Examples[/bold]

    luthier tune examples/fashion_mnist.py --trials 16 --epochs 5

    luthier tune mine.py --method grid --set points=3 --metric accuracy --mode max --workers 2

    luthier tune mine.py --method random+hypergradient --trials 8 --epochs 20

    luthier tune mine.py --seconds 600 --store sqlite:///studies/mine.db

    luthier tune mine.py --trials 500 --start '{"lr": 0.001, "layers": 2}' --target 0.05 --patience 50

    luthier tune mine.py --method gp --trials 100 --limit latency=:10 --limit accuracy=0.9:

    luthier tune mine.py --schedule schedule.json

    luthier tune mine.py --trials 200 --executor ray --gpus 0.5 --store postgresql://me@host/studies
    """
    with told():
        from luthier import stop
        from luthier.study.tuning import tune as run

        goals = several(metric)
        study = run(
            file,
            _method(method, options(set_ or []), goals),
            schedule=schedule,
            trials=trials,
            epochs=epochs,
            steps=steps,
            seconds=seconds,
            trial_seconds=trial_seconds,
            metric=goals,
            mode=directions(mode),
            limits=bounds(limit or []),
            store=store,
            name=name or f"{file.stem}-{method or ('random' if schedule is None else 'replay')}",
            seed=seed,
            start=[_configuration(text) for text in start or []],
            stop=[
                *([] if target is None else [stop.Target(target)]),
                *([] if patience is None else [stop.NoImprovement(patience)]),
            ],
            retry_failed=retry_failed,
            fresh=fresh,
            executor=_executor(executor, workers, address, cpus, gpus),
            progress=False if quiet else None,
        )
        _show(study, store, quiet)


def _method(name: str | None, settings: dict[str, Any], goals: str | list[str] | None) -> Any:
    """The method of a name and settings; None, which leaves it to tune(), where neither is given."""
    if not name and not settings:
        return None
    return named_method(name or "random", settings, 1 if isinstance(goals, str | None) else len(goals))


def _show(study: Study, store: str, quiet: bool) -> None:
    """Print the best trial, or those that no other beats, and the command that tells more."""
    best = study.front
    if not best:
        raise failure(study)
    front = len(study.history.objectives) > 1
    screen().print(front_table(best, study.name) if front else best_table(best[0], study.name))
    if not quiet and study.in_store:
        asked = f"{quoted(study.name)} --store {quoted(store)}"
        screen().print(f"luthier report {asked}", style="dim", soft_wrap=True, highlight=False, markup=False)


def _configuration(text: str) -> Any:
    """A configuration of the user's: JSON, or a word that tune() knows."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        remedy = """Write --start '{"lr": 0.001}'."""
        raise MethodError(f"{text!r} is not JSON ({error})", where="--start", remedy=remedy) from error


def _executor(where: Where, workers: int | None, address: str | None, cpus: float, gpus: float) -> Executor:
    from luthier import execute

    if where is Where.ray:
        return execute.Ray(workers, cpus=cpus, gpus=gpus, address=address)
    if address is not None or gpus or cpus != 1:
        raise MethodError(
            "--address, --cpus and --gpus belong to a cluster",
            where="luthier tune",
            remedy="Add --executor ray, or leave them out.",
        )
    return execute.Local(workers=workers or 1)


def compare(
    file: FileArgument,
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
    limit: LimitOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page. \\[default: NAME.html]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the table only.")] = False,
) -> None:
    """Tune a task by several methods, each with the same total of training; the same command again resumes.

    [bold]Example[/bold]

    luthier compare examples/fashion_mnist.py --methods random,gp,pbt --trials 16 --epochs 3 --seeds 3
    """
    with told():
        from luthier import execute
        from luthier.study.compare import compare as run

        found = run(
            file,
            cast("Any", [part.strip() for part in methods.split(",") if part.strip()]),
            trials=trials,
            epochs=epochs,
            steps=steps,
            seeds=seeds,
            metric=metric,
            mode=mode and mode.value,
            limits=bounds(limit or []),
            store=store,
            name=name,
            executor=execute.Local(workers=workers),
            progress=False if quiet else None,
        )
        console = screen()
        title = f"{found.name}: {found.total:,} training steps for each method and seed"
        console.print(standings_table(found.table(), found.objective, title))
        page = found.report(output or Path(f"{found.name.replace('/', '-')}.html"))
        if not quiet:
            console.print(str(page), style="dim", soft_wrap=True, highlight=False, markup=False)
