"""tune(): the loop that asks a method for jobs, has them trained, and records what comes back."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import MethodError, StudyError
from luthier.execute import Executor, Local
from luthier.jobs import DIVERGED, FAILED, Budget, Job, Report, Result
from luthier.propose import Replay
from luthier.schedule import as_schedule
from luthier.seeds import Seeds
from luthier.space import Space
from luthier.store import Store
from luthier.study import settings
from luthier.study.interrupt import Interrupts
from luthier.study.ledger import FLUSH, MEMORY, Ledger, open_ledger
from luthier.study.methods import Resolved, resolve
from luthier.study.progress import Tick, choose, moved
from luthier.study.study import Study
from luthier.task import Task, as_task, epoch_steps, is_torch, level, load_task, require_level
from luthier.train import Work
from luthier.trials import best_jobs, front, on_test

PROBE = 8  # jobs at once under a limit of wall time, before it is known how long one takes
WAIT = 0.1  # seconds between two looks at jobs that other processes are running
TIDY = 0.5  # seconds between two looks at which checkpoints can go


def tune(
    task: Any,
    method: Any = None,
    *,
    schedule: Any = None,
    space: Space | None = None,
    trials: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    total_steps: int | None = None,
    metric: str | Sequence[str] | None = None,
    mode: str | Sequence[str] | None = None,
    store: str | Path | Store | None = None,
    name: str | None = None,
    seed: int | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
    checkpoints: bool | None = None,
    max_failures: int = 20,
) -> Study:
    """Tune a task; the study it makes, or goes on with.

    With a store, the same call again resumes: what has ended is kept, what a killed process left is run again under
    the same seeds, and ``trials`` may grow where the method allows it. Several processes may make the same call at
    once and share the work. Ctrl-C stops cleanly: what has ended is recorded.

    Args:
        task: A TorchTask, a Trainable, a function ``f(config)`` or ``f(config, trial)``, or the path of a Python file
            that defines ``task``.
        method: A name (``luthier methods`` lists them), a proposer, an adapter, or a pair (proposer, adapter);
            ``"random"`` by default.
        schedule: Instead of a method: train once under these values over time, ``study.best.schedule`` of another study
            (it replays to the same weights, see :class:`luthier.propose.Replay`), the file or JSON that it was saved
            as, or rows (step, {name: value}) with ``steps``. It brings its own trials, steps and seed.
        space: The search space, where the task does not carry it.
        trials: Configurations to start.
        epochs: Passes over the training data of each trial.
        steps: Training steps of each trial; excludes ``epochs``.
        seconds: Wall time of this call. At its end what is running is stopped and recorded as pruned.
        total_steps: Training steps of all trials together: no job is begun that would go beyond it.
        metric: The objective by name, ``"loss"`` by default, or several.
        mode: ``"min"`` or ``"max"``, for all of them or one for each.
        store: A path (SQLite), a URL (``postgresql://…``) or a store; None keeps the study in memory.
        name: The study's name in the store; by default task and method.
        seed: Of everything that is random; 0 by default, or that of the schedule.
        executor: Where to train; ``lt.execute.Local()``, this process, by default.
        progress: False is silent; otherwise a live line on a terminal and plain lines elsewhere.
        checkpoints: Whether to keep the state of the best training. By default of a TorchTask, and where the method
            continues trainings.
        max_failures: Failed trials in a row that stop the study.

    Raises:
        TaskError, SpaceError, MethodError: For what cannot be meant.
        StudyError: If the stored study has other settings, or too many trials failed in a row.
        StoreError, CheckpointError, ExecutionError: If the store or the workers cannot do their part.
        KeyboardInterrupt: After Ctrl-C, when everything is recorded.

    Example:
        >>> from luthier import Float, Space, tune
        >>> space = Space(x=Float(-1.0, 1.0), y=Float(-1.0, 1.0))
        >>> study = tune(lambda c: c["x"] ** 2 + c["y"] ** 2, space=space, trials=50, seed=1, progress=False)
        >>> len(study.trials), study.best.metrics["loss"] < 0.05
        (50, True)
    """
    settings.check_budget(trials, epochs, steps, seconds, 0 if seed is None else seed, total_steps)
    _check_limit(max_failures)
    goals = settings.objectives(metric, mode)
    given = load_task(task) if isinstance(task, str | Path) else as_task(task, space)
    if schedule is not None:
        method, trials, steps, seed = _replay(schedule, method, trials, epochs, steps, seed)
    method, seed = "random" if method is None else method, seed or 0
    resolved = resolve(method, objectives=len(goals))
    if trials is None and seconds is None and resolved.alone:
        trials = 1  # an adapter alone tunes one training while it runs
    endless = trials is None and seconds is None and total_steps is None
    _check_fit(given, resolved, goals, endless, epochs, steps, checkpoints)
    budget = Budget(trials, steps, epochs, seconds, lambda config: epoch_steps(given, config), total_steps)
    name = name if name is not None else f"{task_name(task)}-{label_of(method, resolved)}"
    ledger = open_ledger(name, given.space, goals, resolved, budget, seed, store, task_name(task))
    save = checkpoints if checkpoints is not None else is_torch(given) or hasattr(ledger.proposer, "parents")
    keep = ledger.checkpoints if save or is_torch(given) else None
    work = Work(given, ledger.seeds, resolved.adapter, keep, goals, save)
    _Loop(ledger, work, executor or Local(), budget, max_failures, progress).run()
    return Study.of(ledger, work)


class _Loop:
    """One call of tune(), from its first job to its last."""

    def __init__(
        self, ledger: Ledger, work: Work, executor: Executor, budget: Budget, max_failures: int, progress: bool | None
    ) -> None:
        self.ledger, self.work, self.executor, self.max_failures = ledger, work, executor, max_failures
        self.total = _expected(ledger, budget.trials)
        self.begun = time.monotonic()
        self.deadline = None if budget.seconds is None else self.begun + budget.seconds
        self.running: set[int] = set()
        self.streak = 0  # failures in a row
        self.fresh = 0  # results of this call
        self.next_tidy = 0.0
        self.shown = choose(progress, ledger.name)
        self.loud = progress is not False
        self.interrupts = Interrupts()

    def run(self) -> None:
        """Until the study is over, the time is up, or something stops it; then everything is given back."""
        done = False
        with self.interrupts:
            try:
                self.executor.start(self.work, self.on_reports)
                while self.step():
                    self.interrupts.check()
                done = True
            except KeyboardInterrupt:
                self.say_how_to_resume()
                raise
            finally:
                self.shut(done)

    def step(self) -> bool:
        """Start what can be started, wait for what ends first, record it; False at the end."""
        over = self.timeup()
        if not over:
            over = not self.submit() and not self.running and not self.others()
        if self.running:
            with self.interrupts.allowed():
                results = self.executor.collect(self.patience())
            self.ledger.flush() if not results else self.record(results)
        elif not over:
            with self.interrupts.allowed():
                time.sleep(WAIT)
        self.tick()
        return bool(self.running) or not over

    def submit(self) -> bool:
        """Give the executor as many jobs as it takes; whether there were any."""
        room = min(self.executor.capacity, self.affordable()) - len(self.running)
        jobs = self.ledger.take(room) if room > 0 else []
        if jobs:
            self.running.update(job.number for job in jobs)
            self.executor.submit(jobs, self.parents(jobs))
        return bool(jobs)

    def affordable(self) -> int:
        """Jobs that will probably end before the time is up: few at first, then as the pace so far tells.

        A stack that is still training at the deadline is pruned as a whole, the more of it the wider it is.
        """
        if self.deadline is None:
            return sys.maxsize
        now = time.monotonic()
        return max(1, int((self.deadline - now) * self.fresh / (now - self.begun))) if self.fresh else PROBE

    def parents(self, jobs: Sequence[Job]) -> Mapping[int, Result]:
        """The results of the jobs that these continue."""
        results = self.ledger.history.results
        found = {job.parent: results[job.parent] for job in jobs if job.parent is not None}
        return {number: result for number, result in found.items() if result is not None}

    def others(self) -> bool:
        """Whether more may come: other processes are at work, or one of them is proposing."""
        return self.ledger.busy or bool(self.ledger.history.pending)

    def record(self, results: Sequence[Result]) -> None:
        """Write results; stop the study where too many failed in a row.

        Raises:
            StudyError: After ``max_failures`` failures in a row.
        """
        self.running.difference_update(result.number for result in results)
        results = [result for result in results if result.steps or result.status != "pruned"]  # others never began
        accepted = set(self.ledger.record(results))
        self.fresh += len(accepted)
        if self.work.save and time.monotonic() >= self.next_tidy:
            self.ledger.tidy()
            self.next_tidy = time.monotonic() + TIDY
        for result in results:
            if result.number in accepted:
                self.streak = self.streak + 1 if result.status == "failed" else 0
            if self.streak >= self.max_failures:
                raise StudyError(
                    f"{self.streak} trials failed in a row, the last with: {result.error}",
                    where=f"study {self.ledger.name!r}, job {result.number}",
                    remedy="Mend the task and run again: what is recorded stays. max_failures= sets the limit.",
                )

    def on_reports(self, reports: list[Report]) -> set[int]:
        """Take reports as they come; the numbers of the jobs that should stop."""
        stop = self.interrupts.deferred(lambda: self.ledger.report(reports))
        self.tick()
        if self.work.adapter is not None and reports:
            self.shown.say(moved(reports[0]))
        return set(self.ledger.mine) if self.timeup() else stop

    def timeup(self) -> bool:
        """Whether the wall time is spent."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def patience(self) -> float:
        """Seconds to wait for results before looking around."""
        left = FLUSH if self.deadline is None else max(0.05, min(FLUSH, self.deadline - time.monotonic()))
        return min(left, 0.25) if sys.stderr.isatty() else left

    def tick(self) -> None:
        """Show where the study is, if it is time to."""
        if self.shown.wants(time.monotonic()):
            self.shown.show(self.state())

    def state(self) -> Tick:
        """What there is to show."""
        history = self.ledger.history
        metric = next(iter(history.objectives))
        best = None if history.best is None else history.results[history.best]
        return Tick(
            done=len(history.arrival),
            running=len(history.pending),
            total=self.total,
            fresh=self.fresh,
            best=None if best is None else best.metrics[metric],
            metric=metric,
            front=len(front(history)) if len(history.objectives) > 1 else None,
            troubled=int(((history.status == FAILED) | (history.status == DIVERGED)).sum()),
            deadline=None if self.deadline is None else self.deadline - time.monotonic(),
        )

    def shut(self, done: bool) -> None:
        """End the workers and give back what is left; at a good end, read the test split."""
        keep_first = contextlib.nullcontext() if done else contextlib.suppress(Exception)
        with keep_first:  # an error on the way out must not hide the one that led here
            try:
                self.executor.close(wait=done)
            finally:
                self.ledger.release()
                self.shown.close(self.state())
            if done:
                self.finish()
            if self.fresh:
                self.book()

    def finish(self) -> None:
        """Measure what is best on the test split, once, and clear away what nobody needs."""
        ledger, history = self.ledger, self.ledger.history
        if self.work.save:
            ledger.tidy_all()
        if not is_torch(self.work.task):
            return
        known, tests = ledger.settings.get("test"), []
        for number in best_jobs(history):
            result, metrics = history.results[number], on_test(known, number)
            if not metrics and result is not None and result.checkpoint is not None:
                from luthier.train.stack import final_test  # imports torch

                metrics = final_test(self.work, history.jobs[number], result)
            if metrics:
                tests.append({"number": number, "metrics": metrics})
        given = tests if len(history.objectives) > 1 else next(iter(tests), known)
        if given and given != known:
            ledger.update_settings(test=given)

    def book(self) -> None:
        """Add what this call took to the study's settings."""
        took = {"wall_seconds": time.monotonic() - self.begun, "method_seconds": self.ledger.proposing}
        before = self.ledger.settings
        self.ledger.update_settings(**{key: round(before.get(key, 0.0) + value, 3) for key, value in took.items()})

    def say_how_to_resume(self) -> None:
        if self.loud:
            done, url = len(self.ledger.history.arrival), self.ledger.store.url
            kept = f"are recorded in {settings.public_url(url)}; the same call again goes on from there"
            kept = "were only in memory; give store= to be able to go on" if url == MEMORY else kept
            print(f"{self.ledger.name}: interrupted; {done} finished jobs {kept}", file=sys.stderr, flush=True)


def _replay(
    schedule: Any, method: Any, trials: int | None, epochs: float | None, steps: int | None, seed: int | None
) -> tuple[Replay, int, int | None, int | None]:
    """The method, trials, steps and seed that train under a schedule; what is given beside it is checked by Replay.

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


def _check_limit(max_failures: int) -> None:
    if isinstance(max_failures, bool) or not isinstance(max_failures, int) or max_failures < 1:
        raise StudyError(
            f"max_failures={max_failures!r} is not a positive whole number",
            where="max_failures",
            remedy="Give the failures in a row after which to stop, such as 20.",
        )


def _check_fit(
    task: Task,
    method: Resolved,
    goals: Mapping[str, str],
    endless: bool,
    epochs: float | None,
    steps: int | None,
    checkpoints: bool | None,
) -> None:
    """Refuse what cannot work before anything is trained."""
    if endless and not hasattr(method.proposer, "size"):
        raise MethodError(
            f"{method.proposer!r} has no end: trials=None and seconds=None",
            where="trials",
            remedy="Give trials=, or seconds= of wall time.",
        )
    if level(task) != "function" and epochs is None and steps is None:
        raise MethodError(
            "the task trains step by step, and neither epochs nor steps was given",
            where="epochs",
            remedy="Say how long each trial trains: epochs=5, or steps=1000.",
        )
    if method.adapter is not None:
        require_level(task, "torch", f"{method.adapter!r} moves hyperparameters during a training")
        _check_adapter(task, method.adapter)
    if hasattr(method.proposer, "parents"):
        require_level(task, "trainable", f"{method.proposer!r} continues trainings")
        if checkpoints is False:
            raise MethodError(
                f"{method.proposer!r} continues trainings, and checkpoints=False",
                where="checkpoints",
                remedy="Leave checkpoints out: it keeps only those that may be continued.",
            )
    known = list(goals)
    if is_torch(task) and method.adapter is None:
        known = ["loss", "train_loss", *task.metrics, *task.costs]  # type: ignore[union-attr]
    missing = [name for name in goals if name not in known]
    if missing:
        raise StudyError(
            f"metric={missing[0]!r} is not measured by the task",
            where="metric",
            remedy=f"It measures {', '.join(known)}; add others by TorchTask(metrics={{name: function}}).",
        )


def _check_adapter(task: Any, adapter: Any) -> None:
    """Begin a training, without a step of it, so that an adapter refuses now what it would refuse in every trial.

    Raises:
        MethodError: If the adapter cannot tune the task.
    """
    config = task.space.sample(Seeds(0).rng(0, "check"), 1)[0]
    task = task.sharing() if getattr(adapter, "shares_weights", False) else task
    try:
        adapter.init(task.program(config), config, 0)
    except MethodError:
        raise
    except Exception:  # a network that cannot be built is a trial's failure, and perhaps this configuration's alone
        return


def _expected(ledger: Ledger, trials: int | None) -> int | None:
    """How many jobs the study will have, where that is known."""
    if hasattr(ledger.proposer, "size"):
        size = ledger.proposer.size(ledger.history.space)
        return size if trials is None else min(trials, size)
    return None if hasattr(ledger.proposer, "parents") else trials


def task_name(task: Any) -> str:
    """What a study of ``task`` is called where the user gives no name."""
    if isinstance(task, str | Path):
        return Path(task).stem
    inner = getattr(task, "function", getattr(task, "trainable", task))
    return str(getattr(inner, "__name__", type(inner).__name__)).strip("<>").lower()


def label_of(method: Any, resolved: Resolved) -> str:
    """What ``method`` is called there: its own name, or those of its parts."""
    if isinstance(method, str):
        return method
    parts = (resolved.adapter,) if resolved.alone else (resolved.proposer, resolved.adapter)
    return "+".join(type(part).__name__.lower() for part in parts if part is not None)
