"""tune(): a task, a method and a budget become a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from luthier.arguments import answered
from luthier.checks import checked, maybe, one_of, real, whole
from luthier.errors import MethodError, StudyError
from luthier.execute import Executor, Local
from luthier.jobs import Budget, History
from luthier.limits import check_limits
from luthier.machine import environment
from luthier.optional import optional
from luthier.propose import Replay
from luthier.schedule import as_schedule
from luthier.space import Config, Space
from luthier.stop import check_conditions, met
from luthier.store import Store
from luthier.study import settings
from luthier.study.first import check_first, how_it_runs
from luthier.study.following import Followers, Unjudged, check_callbacks
from luthier.study.kept import trial_files
from luthier.study.knowing import OnChange, check_code, check_known, check_on_change, reopen_failed, tell_known
from luthier.study.ledger import Ledger
from luthier.study.loop import Loop
from luthier.study.opening import open_ledger
from luthier.study.refusals import check_device, check_fit, check_success, warn_infeasible
from luthier.study.resolve import AnyMethod, Resolved, for_task, resolve
from luthier.study.spending import budget_for
from luthier.study.starting import check_start, enqueue_new
from luthier.study.study import Study
from luthier.task import AnyTask, FunctionTask, Task, as_task, epoch_steps, is_torch, level, load_task
from luthier.task.fingerprint import fingerprint
from luthier.train import Work


@answered
def tune(
    task: AnyTask,
    method: AnyMethod | None = None,
    *,
    schedule: Any = None,
    space: Space | None = None,
    trials: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    trial_seconds: float | None = None,
    total_steps: int | None = None,
    metric: str | Sequence[str] | None = None,
    mode: str | Sequence[str] | None = None,
    limits: Mapping[str, tuple[float | None, float | None]] | None = None,
    store: str | Path | Store | None = None,
    name: str | None = None,
    seed: int | None = None,
    start: str | Mapping[str, Any] | Sequence[Mapping[str, Any] | str] = (),
    known: Any = None,
    fresh: bool = False,
    retry_failed: bool = False,
    on_change: OnChange = "warn",
    stop: Callable[[Study], bool] | Sequence[Callable[[Study], bool]] = (),
    callbacks: Any = (),  # objects with some of a follower's methods
    workers: int | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
    checkpoints: bool | None = None,
    max_failures: int = 20,
) -> Study:
    """Tune a task; return the study that it creates or resumes.

    With a store, the same call again resumes: what has ended is kept, what a killed process left is rerun with
    the same seeds, and ``trials`` may grow where the method allows it. Several processes may make the same call at
    once and share the work. Ctrl-C stops cleanly: what has ended is recorded.

    Args:
        task: A TorchTask, a Trainable, a function ``f(config)`` or ``f(config, trial)``, or the path of a Python file
            that defines ``task``.
        method: A name (``luthier methods`` lists them), a proposer, an adapter, or a pair (proposer, adapter);
            ``"random"`` by default.
        schedule: Used instead of a method: train once with these values over time, ``study.best.schedule`` of another
            study (it replays to the same weights, see :class:`luthier.propose.Replay`), the file or JSON that it was
            saved as, or rows (step, {name: value}) with ``steps``. It brings its own trials, steps and seed.
        space: The search space, where the task does not carry it.
        trials: Configurations to start.
        epochs: Passes over the training data of each trial.
        steps: Training steps of each trial; excludes ``epochs``.
        seconds: Wall time of this call. At its end what is running is given back with the state that it has reached;
            the same call goes on with it.
        trial_seconds: Time that each trial may take; of a stack of trainings, its share. One that has reported by
            then is recorded as pruned, one that has not as failed.
        total_steps: Training steps of all trials together: no job is begun that would go beyond it.
        metric: The objective by name, ``"loss"`` by default, or several.
        mode: ``"min"`` or ``"max"``, for all of them or one for each.
        limits: Bounds (low, high) of metrics, ``{"latency": (None, 10)}``. A result outside them, without such a
            metric, or whose training ran out of memory is infeasible: it is never the best, and the method ranks it
            below every feasible one.
        store: A path (SQLite), a URL (``postgresql://…``) or a store; None keeps the study in memory.
        name: The study's name in the store; by default task and method.
        seed: Seed for all randomness; 0 by default, or that of the schedule.
        start: Configurations to try first, counted among the trials; ``"default"`` is that of the space's defaults.
            Names without a value are drawn from the space;
            what the study has tried already is skipped, so that a script may be run again.
        known: Results from elsewhere that a method with a model learns from: a study, pairs (configuration, metrics)
            or a DataFrame. They are not trials; what lies outside the space is ignored and counted.
        fresh: Begin anew under the same name; the earlier study is kept under another, which is reported.
        retry_failed: Try the failed trials of a stored study again, under their numbers and seeds.
        on_change: Reaction to task code that has changed since the stored study was begun, and to another method,
            which learns from all that was tried before: ``"warn"`` and go on, or ``"error"``.
        stop: Conditions under which to end before the budget is spent: :class:`luthier.stop.Target`,
            :class:`luthier.stop.NoImprovement` or any function of the study. What is running then is stopped at its
            next report and recorded as pruned.
        callbacks: Followers, told of all that happens: see :class:`luthier.follow.Follower`.
        workers: Processes that train at once on this machine; 1, this process, by default. Excludes ``executor``.
        executor: Executor to train with; ``lt.execute.Local()``, this process, by default.
        progress: False is silent; otherwise a live line on a terminal and plain lines elsewhere.
        checkpoints: True to keep the state of the best training. The default is True for a TorchTask, and where the
            method continues trainings.
        max_failures: Failed trials in a row that stop the study.

    Raises:
        TaskError, SpaceError, MethodError: If the arguments make no sense.
        ArgumentError: If there is no such argument; for names from other tools, the message gives the name used here.
        StudyError: If the stored study has other settings, too many trials failed in a row, or none succeeded. After
            the first trial its ``study`` is there, with all that is recorded.
        StoreError, CheckpointError, ExecutionError: If the store or the workers cannot do their part.
        KeyboardInterrupt: After Ctrl-C, when everything is recorded.

    Examples:
        >>> from luthier import Float, Space, tune
        >>> space = Space(x=Float(-1.0, 1.0), y=Float(-1.0, 1.0))
        >>> study = tune(lambda c: c["x"] ** 2 + c["y"] ** 2, space=space, trials=50, seed=1, progress=False)
        >>> len(study.trials), study.best.metrics["loss"] < 0.05
        (50, True)
    """
    asked = settings.asked(trials, epochs, steps, seconds, 0 if seed is None else seed, total_steps)
    trials, epochs, steps, seconds, _, total_steps = asked
    seed = None if seed is None else asked.seed
    max_failures = checked("max_failures", max_failures, whole(1), where="tune", error=StudyError)
    trial_seconds = checked("trial_seconds", trial_seconds, maybe(real(above=0)), where="tune")
    _check_switches(progress=progress, checkpoints=checkpoints, fresh=fresh, retry_failed=retry_failed)
    progress = None if progress is None else bool(progress)
    goals, kept = settings.objectives(metric, mode), check_limits(limits)
    given = load_task(task) if isinstance(task, str | Path) else as_task(task, space)
    if schedule is not None:
        method, trials, steps, seed = _replay(schedule, method, trials, epochs, steps, seed)
    method, seed = "random" if method is None else method, seed or 0
    resolved = for_task(resolve(method, objectives=len(goals)), given)
    if trials is None and seconds is None and resolved.alone:
        trials = 1  # an adapter alone tunes one training while it runs
    budget = budget_for(given, resolved.adapter, trials, epochs, steps, seconds, total_steps)
    check_fit(given, resolved, goals, kept, budget, checkpoints)
    executor = _executor(workers, executor)
    check_device(given, executor)
    conditions, followers = check_conditions(stop), check_callbacks(callbacks)
    name = name if name is not None else f"{task_name(task)}-{label_of(method, resolved)}"
    elsewhere, on_change = check_known(known, given.space, goals), check_on_change(on_change)
    first = check_start(start, given.space, resolved.proposer, trials, seed)
    built = check_first(given, resolved, executor, seed, first)
    history = History(given.space, goals, kept)
    ledger = open_ledger(name, history, resolved, budget, seed, store, task_name(task), fresh, on_change)
    _bring_up(ledger, given, on_change, elsewhere, retry_failed, first)
    work = _work(given, ledger, ledger.adapter, goals, checkpoints, trial_seconds)
    study = Study.of(ledger, work)
    unjudged = Unjudged(ledger.proposer, level(given) == "function")
    told, alone = Followers([unjudged, *followers], history), not conditions and not followers
    loop = Loop(ledger, work, executor, budget, max_failures, progress, told, lambda: met(conditions, study), alone)
    _run(loop, study, built, budget)
    return study


def _bring_up(
    ledger: Ledger, task: Task, on_change: OnChange, known: Any, retry_failed: bool, first: Sequence[Config]
) -> None:
    """Bring an open study up to this call: its task's code, known results, trials to try again, first configurations.

    Raises:
        StudyError: If the code has changed and ``on_change="error"``.
    """
    if "environment" not in ledger.settings:
        rule = {"rule": task.rule} if is_torch(task) else {}  # type: ignore[union-attr]
        ledger.update_settings(environment=environment_now(), **rule)
    check_code(ledger, fingerprint(task), on_change)
    tell_known(ledger, *known)
    if retry_failed:
        reopen_failed(ledger)
    enqueue_new(ledger, first)


def _run(loop: Loop, study: Study, built: Config | None, budget: Budget) -> None:
    """Run a study to its end, with the messages before and after."""
    ledger, execution = loop.ledger, "" if built is None else _execution(loop, built, budget)
    loop.followers.started(study)
    try:
        if ledger.kept_as:
            loop.shown.say(f"the study that was here is kept as {ledger.kept_as!r}")
        if execution:
            loop.shown.say(execution)
        loop.run()
        if built is not None:
            _execution(loop, built, budget)  # again, with what fell back in this process
        check_success(study)
        warn_infeasible(study)
    except StudyError as error:
        error.study = study
        raise
    finally:
        loop.followers.finished(study)


def _work(
    task: Task,
    ledger: Ledger,
    adapter: Any,
    goals: Mapping[str, str],
    checkpoints: bool | None,
    trial_seconds: float | None,
) -> Work:
    """The work that workers get, with a folder for states unless a function keeps none."""
    save = checkpoints if checkpoints is not None else is_torch(task) or bool(optional(ledger.proposer, "parents"))
    keep = ledger.checkpoints if save or not isinstance(task, FunctionTask) else None
    limits = ledger.history.limits
    if is_torch(task):
        task = task.under(ledger.settings.get("rule", 1))  # type: ignore[union-attr]  # a study that an earlier version began has none
    work = Work(task, ledger.seeds, adapter, keep, goals, save, trial_seconds=trial_seconds, limits=limits)
    work = replace(work, begun_earlier=True) if ledger.begun_earlier else work
    if isinstance(task, FunctionTask) and task.takes_trial:
        work = replace(work, study=ledger.name, files=trial_files(ledger))
    return work


def _execution(loop: Loop, built: Config, budget: Budget) -> str:
    """Describe how the trainings run, and have the study remember it; "" where there is nothing to say."""
    ledger, task, each = loop.ledger, loop.work.task, budget.steps
    if each is None and budget.epochs is not None:
        each = round(budget.epochs * epoch_steps(task, built))
    execution = how_it_runs(task, loop.work.adapter, loop.executor, built, budget.trials, each)
    if execution and execution != ledger.settings.get("execution"):
        ledger.update_settings(execution=execution)
    return execution


@cache
def environment_now() -> dict[str, str | int]:
    """Versions, processor and commit, found once a process: asking git for the commit starts a program."""
    return environment()


def _check_switches(**given: Any) -> None:
    """Refuse an argument that must be True or False, or None where that is its default.

    Raises:
        StudyError: Naming it.
    """
    for name, value in given.items():
        rule = one_of(True, False)
        rule = maybe(rule) if name in ("progress", "checkpoints") else rule
        checked(name, value, rule, where="tune", error=StudyError)


def _executor(workers: int | None, executor: Executor | None) -> Executor:
    """Return the executor to train with.

    Raises:
        MethodError: If both are given, there can be no such workers, or what was given is no executor.
    """
    if executor is not None and not all(callable(getattr(executor, name, None)) for name in ("submit", "collect")):
        remedy = "Give workers=4, or executor=lt.execute.Local(workers=4) or lt.execute.Ray()."
        raise MethodError(f"executor={executor!r} trains nothing", where="executor", remedy=remedy)
    if workers is not None and executor is not None:
        raise MethodError(
            f"workers={workers!r} and executor={executor!r} were both given",
            where="workers, executor",
            remedy="Say it once: workers=4, or executor=lt.execute.Local(workers=4).",
        )
    return executor or Local(workers=1 if workers is None else workers)


def _replay(
    schedule: Any, method: Any, trials: int | None, epochs: float | None, steps: int | None, seed: int | None
) -> tuple[Replay, int, int | None, int | None]:
    """The method, trials, steps and seed that train under a schedule; Replay checks arguments given beside it.

    Raises:
        MethodError: If there is a method too, or the schedule cannot be read.
    """
    if method is not None:
        raise MethodError(
            f"method={method!r} and a schedule were both given",
            where="method, schedule",
            remedy="A schedule says all that a method decides: leave method out to replay it, or schedule to tune.",
        )
    replay = Replay(as_schedule(schedule, steps))
    seed = replay.schedule.seed if seed is None else seed
    return replay, 1 if trials is None else trials, steps if steps or epochs else replay.steps, seed


def task_name(task: Any) -> str:
    """Return the name of a study of ``task`` where the user gives none."""
    if isinstance(task, str | Path):
        return Path(task).stem
    inner = getattr(task, "function", getattr(task, "trainable", task))
    return str(getattr(inner, "__name__", type(inner).__name__)).strip("<>").lower()


def label_of(method: Any, resolved: Resolved) -> str:
    """Return the label of ``method`` in that name: its own name, or those of its parts."""
    if isinstance(method, str):
        return method
    parts = (resolved.adapter,) if resolved.alone else (resolved.proposer, resolved.adapter)
    return "+".join(type(part).__name__.lower() for part in parts if part is not None)
