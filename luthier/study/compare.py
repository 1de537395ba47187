"""compare(): several methods on one task, each with the same total of training, on the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.arguments import answered
from luthier.errors import MethodError, StudyError
from luthier.execute import Executor, Local
from luthier.jobs import FAILED, Budget
from luthier.limits import check_limits
from luthier.optional import optional
from luthier.report.standings import Band, Run, Standing, bands, standings
from luthier.space import Space
from luthier.store import Store, open_store
from luthier.study import settings
from luthier.study.first import check_first
from luthier.study.refusals import check_fit
from luthier.study.resolve import AnyMethod, Resolved, for_task, resolve
from luthier.study.spending import budget_for, check_room
from luthier.study.study import Study
from luthier.study.tuning import label_of, task_name, tune
from luthier.task import AnyTask, Task, as_task, epoch_steps, level, load_task
from luthier.text import warn


@dataclass(frozen=True)
class Comparison:
    """Outcome of :func:`compare`.

    Args:
        name: Name of the comparison; its studies are ``name/method/seed``.
        objective: The metric that was compared.
        mode: ``"min"`` or ``"max"``.
        total: Budget of each method on each seed, in training steps (evaluations of a function).
        runs: One for each method and seed.
        studies: The studies behind them, by (method, seed).

    Examples:
        >>> import luthier as lt
        >>> space = lt.Space(x=lt.Float(-1, 1))
        >>> found = lt.compare(lambda c: c["x"] ** 2, ["random", "gp"], space=space, trials=4, seeds=2, progress=False)
        >>> found.objective, found.mode, sorted(found.studies)
        ('loss', 'min', [('gp', 0), ('gp', 1), ('random', 0), ('random', 1)])
    """

    name: str
    objective: str
    mode: str
    total: int
    runs: tuple[Run, ...]
    studies: Mapping[tuple[str, int], Study] = field(repr=False)

    def table(self, level: float | None = None) -> list[Standing]:
        """One row a method, best mean rank first; ``level`` is what "until" columns count to."""
        return standings(self.runs, level)

    def curves(self) -> dict[str, Band]:
        """Best so far of each method against training steps: mean, lowest and highest seed."""
        return bands(self.runs)

    def records(self) -> list[dict[str, Any]]:
        """One plain row for each method and seed, for ``pandas.DataFrame`` or a CSV file."""
        return [
            {
                "method": run.label,
                "seed": run.seed,
                self.objective: float(row.valid[0]),
                f"test_{self.objective}": float(row.test[0]),
                "steps": int(row.steps),
                "trials": int(row.trials),
                "wall_seconds": run.wall_seconds,
                "method_seconds": run.method_seconds,
            }
            for run in self.runs
            for row in standings([run])
        ]

    def report(self, path: str | Path, level: float | None = None) -> Path:
        """Write the comparison as one HTML page that needs no network; returns its absolute path.

        Raises:
            StudyError: If the file cannot be written.
        """
        from luthier.report.comparison import write  # here, for it loads Plotly

        return write(self.name, self.runs, self.total, path, level)


@answered
def compare(
    task: AnyTask,
    methods: Sequence[AnyMethod] | Mapping[str, AnyMethod],
    *,
    space: Space | None = None,
    trials: int = 20,
    epochs: float | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] = 3,
    metric: str | None = None,
    mode: str | None = None,
    limits: Mapping[str, tuple[float | None, float | None]] | None = None,
    store: str | Path | Store | None = None,
    name: str | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Tune a task by several methods, each with the same total of training steps, on the same splits and seeds.

    The total is that of ``trials`` trainings of ``epochs`` (or ``steps``) each. A method that stops trainings early
    (``hyperband``, ``asha``, ``median``, ``freeze_thaw``) begins new ones while the steps that are left cover them, so
    that less than a whole training is left over; PBT trains ``trials`` members; an adapter given alone adapts in each
    of ``trials`` trainings that random search has started, in whole windows: a warning names one that trains less by
    them. What a method spends itself, such as fitting a model, is timed and shown. Every method and seed is a study of
    its own: with a store, the same call again goes on where it was interrupted.

    Args:
        task: A task, as for :func:`luthier.tune`.
        methods: Names, proposers, adapters or pairs; or a mapping that gives each a label of one's own.
        space: The search space, where the task does not carry it.
        trials: Whole trainings that each method may spend.
        epochs: Passes over the training data of a whole training.
        steps: Its training steps instead.
        seeds: Number of seeds (0, 1, …), or the seeds themselves.
        metric: The one objective; ``"loss"`` by default.
        mode: ``"min"`` or ``"max"``.
        limits: Bounds of metrics, as for :func:`luthier.tune`: the best of a method is the best within them.
        store: A path (SQLite), a URL or a store; None keeps the studies in memory.
        name: Name of the comparison; by default the task's with ``-compare``.
        executor: Executor to train with; this process by default.
        progress: Same as for :func:`luthier.tune`, for each study.

    Returns:
        The comparison; ``.table()`` has the numbers, ``.report("compare.html")`` the picture.

    Raises:
        TaskError, SpaceError, MethodError, StudyError, StoreError: See :func:`luthier.tune`; all methods are looked at
            before the first is run.

    Examples:
        >>> from luthier import Float, Space, compare
        >>> space = Space(x=Float(-1.0, 1.0), y=Float(-1.0, 1.0))
        >>> bowl = lambda c: c["x"] ** 2 + c["y"] ** 2
        >>> found = compare(bowl, ["random", "genetic"], space=space, trials=60, seeds=3, progress=False)
        >>> [row.label for row in found.table()], found.total
        (['genetic', 'random'], 60)
    """
    asked = settings.asked(trials, epochs, steps, None, 0, where="compare")
    trials, epochs, steps = asked.trials or 1, asked.epochs, asked.steps
    goals, limits = settings.objectives(metric, mode), check_limits(limits)
    if len(goals) != 1:
        raise StudyError(f"metric={metric!r} names several", where="compare", remedy="Compare by one objective.")
    given = load_task(task) if isinstance(task, str | Path) else as_task(task, space)
    entries = {label: for_task(method, given) for label, method in _entries(methods).items()}
    chosen = _seeds(seeds)
    name = name if name is not None else f"{task_name(task)}-compare"
    total = trials * _whole(given, epochs, steps)
    for method in entries.values():
        budget = budget_for(given, method.adapter, trials, epochs, steps)
        check_fit(given, method, goals, limits, budget)
        check_first(given, method, executor or Local())
    opened: Any = store if hasattr(store, "attach") else open_store(store)  # type: ignore[arg-type]
    begun = {one.name for one in opened.studies()}
    for label, method in entries.items():
        early = optional(method.proposer, "stops_early")
        budget = budget_for(given, method.adapter, None if early else trials, epochs, steps)
        if all(f"{name}/{label}/{seed}" not in begun for seed in chosen):  # an earlier version may have begun it
            check_room(method, budget)
        if not optional(method.adapter, "phase"):
            _warn_of_less(label, budget, total // trials)
    studies: dict[tuple[str, int], Study] = {}
    for seed in chosen:  # seed by seed: an interrupted comparison has compared all methods on those that are done
        for label, method in entries.items():
            early = optional(method.proposer, "stops_early")
            studies[label, seed] = _tuned(
                task,
                method,
                space=space,
                trials=None if early else trials,
                epochs=epochs,
                steps=steps,
                total_steps=total if level(given) != "function" or early else None,
                metric=metric,
                mode=mode,
                limits=limits,
                store=opened,
                name=f"{name}/{label}/{seed}",
                seed=seed,
                executor=executor,
                progress=progress,
            )
    (objective, direction) = next(iter(goals.items()))
    runs = tuple(_run(label, seed, study) for (label, seed), study in studies.items())
    return Comparison(name, objective, direction, total, runs, studies)


def _warn_of_less(label: str, budget: Budget, whole: int) -> None:
    """Warn of a method whose trainings are shorter than the others', by more than 1 %: they have whole windows."""
    less = whole - whole % budget.window
    if 0 < less < 0.99 * whole:
        warn(
            f"compare: each training of {label!r} has {less} of the {whole} steps, whole windows of {budget.window}; "
            f"give a multiple of {budget.window} steps for equal totals"
        )


def _tuned(task: Any, method: Resolved, **settings: Any) -> Study:
    """A study; one in which every training diverged says something of its method, and failures are an error."""
    try:
        return tune(task, method, **settings)
    except StudyError as error:
        if error.study is None or (error.study.history.status == FAILED).any():
            raise
        return error.study


def _run(label: str, seed: int, study: Study) -> Run:
    best, known = study.best, study.settings
    test = {} if best is None else best.test
    return Run(label, seed, study.history, test, known.get("wall_seconds", 0.0), known.get("method_seconds", 0.0))


def _entries(methods: Sequence[Any] | Mapping[str, Any]) -> dict[str, Resolved]:
    """Each method under its label.

    Raises:
        MethodError: If there are fewer than two, or two have one label.
    """
    if isinstance(methods, str) or not isinstance(methods, Sequence | Mapping) or len(methods) < 2:
        raise MethodError(
            f"methods={methods!r} are not several methods",
            where="compare",
            remedy='Give a list of two or more, ["random", "gp"], or a mapping of labels to methods.',
        )
    pairs = list(methods.items()) if isinstance(methods, Mapping) else [(None, method) for method in methods]
    entries: dict[str, Resolved] = {}
    for label, method in pairs:
        resolved = resolve(method)
        label = str(label) if label is not None else label_of(method, resolved)
        if label in entries or "/" in label:
            raise MethodError(
                f"the label {label!r} {'has a slash' if '/' in label else 'comes twice'}",
                where="compare",
                remedy='Name each method: methods={"pbt": lt.propose.PBT(), "pbt-8": lt.propose.PBT(rounds=8)}.',
            )
        entries[label] = resolved
    return entries


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    chosen = list(range(seeds)) if isinstance(seeds, int) and not isinstance(seeds, bool) else seeds
    good = isinstance(chosen, Sequence) and not isinstance(chosen, str) and len(chosen) > 0
    if not good or len(set(chosen)) < len(chosen) or any(type(seed) is not int for seed in chosen):  # type: ignore[arg-type]
        raise StudyError(
            f"seeds={seeds!r} are not seeds", where="compare", remedy="Give how many, 5, or different ones: [0, 1, 2]."
        )
    return list(chosen)  # type: ignore[arg-type]


def _whole(task: Task, epochs: float | None, steps: int | None) -> int:
    """Training steps of one whole training.

    Raises:
        MethodError: If nobody has said how long it is, or epochs have different lengths.
    """
    if level(task) == "function" and epochs is None and steps is None:
        return 1
    if epochs is None:
        return 1 if steps is None else steps  # tune() asks for one of them
    drawn = task.space.sample(np.random.default_rng(0), 64)
    lengths = [epoch_steps(task, config) for config in drawn]
    if len(set(lengths)) > 1:
        raise MethodError(
            f"an epoch has {min(lengths)} to {max(lengths)} steps, as the batch size is searched, so that trainings of "
            f"{epochs:g} epochs differ in length",
            where="compare(epochs=…)",
            remedy="Give steps=, the training steps of a whole training.",
        )
    return max(1, round(epochs * lengths[0]))
