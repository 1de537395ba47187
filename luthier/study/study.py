"""A study: a search space, a method and everything that was tried, under one name in a store."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, final, overload

from luthier.arguments import answered
from luthier.attributes import elsewhere
from luthier.checks import checked, whole
from luthier.errors import MethodError, StudyError
from luthier.jobs import Budget, History, Job, Result, Status
from luthier.limits import check_limits
from luthier.optional import optional
from luthier.seeds import Seeds
from luthier.space import Config, Space
from luthier.store import Store, open_store
from luthier.study import export, settings, trained
from luthier.study.by_hand import ByHand
from luthier.study.diverse import By, diverse
from luthier.study.ledger import MEMORY, Ledger
from luthier.study.methods import MethodName
from luthier.study.opening import open_ledger
from luthier.study.resolve import Between, resolve
from luthier.study.retrain import Retrained, retrain
from luthier.study.starting import begun_by
from luthier.study.telling import held, told
from luthier.task import Trainable
from luthier.task.call import as_metrics, as_step, check_named
from luthier.text import public_url
from luthier.trials import Best, TrialRecord, best_jobs, front, record, trials_of

if TYPE_CHECKING:
    from torch import nn  # imported where there is a network

    from luthier.adapt import BestResponse
    from luthier.task.torch_task import TorchTask


@final
class Study:
    """A study that is run by hand: ``ask`` for configurations, ``tell`` what they gave.

    :func:`luthier.tune` runs one by itself and returns it. Opening a study of the same name and settings again goes
    on with it; several processes may do so at once. It is a context manager that gives back, at its end, what was
    asked for and not told.

    Args:
        name: Its name in the store; by default the method's.
        space: The search space.
        method: A name of ``luthier methods`` or a proposer.
        metric: The objective, or several.
        mode: ``"min"`` or ``"max"``, for all of them or one for each.
        limits: Bounds of metrics, as for :func:`luthier.tune`.
        store: A path (SQLite), a URL (``postgresql://…``) or a store; None keeps the study in memory.
        seed: Seed for all randomness.
        trials: Configurations to start at most.
        epochs: Passes over the data that a trial gets, in ``job.steps`` of one epoch each.
        steps: Steps that a trial gets; excludes ``epochs``.
        seconds: Wall time after which :meth:`ask` gives nothing more.

    Raises:
        SpaceError, MethodError, StudyError, StoreError: For what cannot be meant, and for a stored study whose
            settings differ from these.

    Examples:
        >>> from luthier import Float, Space, Study
        >>> study = Study("bowl", Space(x=Float(-1.0, 1.0)), trials=20)
        >>> while jobs := study.ask(4):
        ...     for job in jobs:
        ...         study.tell(job, {"loss": job.config["x"] ** 2})
        >>> len(study.trials), study.best.metrics["loss"] < 0.05
        (20, True)
    """

    @answered
    def __init__(
        self,
        name: str | None = None,
        space: Space | None = None,
        *,
        method: MethodName | Between = "random",
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        limits: Mapping[str, tuple[float | None, float | None]] | None = None,
        store: str | Path | Store | None = None,
        seed: int = 0,
        trials: int | None = None,
        epochs: float | None = None,
        steps: int | None = None,
        seconds: float | None = None,
    ) -> None:
        if not isinstance(space, Space):
            raise StudyError(
                f"space={space!r} is not a Space",
                where=f"Study({name!r})",
                remedy='Write Study("name", lt.Space(lr=lt.Float(1e-4, 1.0, log=True), …)).',
            )
        asked = settings.asked(trials, epochs, steps, seconds, seed, where=f"Study({name!r})")
        trials, epochs, steps, seconds, seed, _ = asked
        history = History(space, settings.objectives(metric, mode), check_limits(limits))
        resolved = resolve(method, objectives=len(history.objectives))
        begun_by(resolved.proposer, space, 1, Seeds(seed).rng(0, "propose"))  # refuses those outside the space
        if resolved.adapter is not None:
            raise MethodError(
                f"{resolved.adapter!r} moves hyperparameters during a training, and ask/tell does not train",
                where="method",
                remedy="Give it to lt.tune(task, method=…), which trains.",
            )
        budget = Budget(trials, steps, epochs, seconds)
        name = name if name is not None else method if isinstance(method, str) else type(method).__name__.lower()
        self._ledger = open_ledger(name, history, resolved, budget, seed, store)
        self._hand = ByHand(self._ledger, None if seconds is None else time.monotonic() + seconds)
        self._work: Any = None
        self._store: Any = self._ledger.store  # where further studies may be written

    @staticmethod
    def load(name: str, store: str | Path | Store) -> Study:
        """A stored study, to read: its task and its method are not needed.

        Raises:
            StoreError: If there is no such store or study.
        """
        opened: Any = store if hasattr(store, "attach") else open_store(store, read_only=True)  # type: ignore[arg-type]
        stored = opened.settings(name)
        try:
            limits = check_limits(stored.get("limits"))
            history = History(Space.from_json(stored["space"]), stored["objectives"], limits)
            seeds = Seeds(stored["seed"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StudyError(
                f"its settings are damaged ({type(error).__name__}: {error})",
                where=f"study {name!r} in {public_url(opened.url)}",
                remedy="The database was changed by hand or by another program: restore a backup.",
            ) from error
        study = Study.of(Ledger(opened, name, stored, history, None, seeds))
        study._store = store
        return study

    @staticmethod
    def of(ledger: Ledger, work: Any = None) -> Study:
        """A study around a ledger that is open already, with the work that trained it."""
        study = object.__new__(Study)
        study._ledger, study._hand, study._work, study._store = ledger, ByHand(ledger), work, ledger.store
        return study

    def __repr__(self) -> str:
        history = self._ledger.history
        return f"Study({self.name!r}, {len(history)} jobs, {len(history.pending)} running, best {history.best})"

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled study, or a copy, is the one in its store, opened to be read."""
        if not self.in_store:
            raise StudyError(
                "it is in the memory of this process alone, and cannot be pickled or copied",
                where=f"study {self.name!r}",
                remedy='Give it a store="mine.db"; or keep study.history, study.to_records() or study.to_pandas().',
            )
        return Study.load, (self.name, public_url(self._ledger.store.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the loop ---------------------------------------------------------------------------------------------------

    def ask(self, count: int = 1) -> list[Job]:
        """Return jobs to run now: enqueued configurations first, then jobs that a dead process left, then new ones.

        They are this process's until they are told. A job that process after process has died with comes after all
        others, by itself.

        Args:
            count: Number of jobs that can be run now.

        Returns:
            At most ``count`` jobs. An empty list: wait for what is running, or the study is :attr:`over`.
        """
        self._check_writable("ask")
        count = checked("count", count, whole(1), where="ask", error=StudyError)
        given = self._ledger.history.space.given  # copies, which the user may change
        return [replace(job, config=given(job.config)) for job in self._hand.ask(count)]

    def tell(
        self,
        job: Job | int,
        metrics: Mapping[str, Any] | float | None = None,
        *,
        status: Status | None = None,
        error: str = "",
        steps: int | None = None,
        final: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how a job ended.

        Args:
            job: The job, or its number.
            metrics: Values by name, in the user's own units and direction; a number where there is one objective.
            status: ``"ok"``, or ``"diverged"`` where an objective is not finite, by default. ``"failed"`` and
                ``"pruned"`` need no metrics.
            error: The message of a failure.
            steps: Steps that were done. By default those of the last report, of a job that ended well at least those
                that were asked.
            final: Hyperparameters at the end, where they have moved.

        Raises:
            StudyError: If this process has no such job, or the status is unknown.
            TaskError: If an objective is missing or a value is not a real number. Nothing is recorded then.
        """
        self._check_writable("tell")
        self._ledger.record(
            [told(self._ledger, job, metrics, status, error, self._hand.done(job, steps, status), final)]
        )

    def tell_many(self, pairs: Iterable[tuple[Job | int, Mapping[str, Any] | float]]) -> None:
        """Record how many jobs ended, in one transaction: much cheaper on a disk than one by one.

        Args:
            pairs: Pairs of a job, or its number, and its metrics, as for :meth:`tell`.

        Raises:
            StudyError, TaskError: See :meth:`tell`; then none of them is recorded.
        """
        self._check_writable("tell_many")
        results = [told(self._ledger, job, given, steps=self._hand.done(job, None, None)) for job, given in pairs]
        results = {result.number: result for result in results}
        self._ledger.record(list(results.values()))

    def enqueue(self, config: Mapping[str, Any]) -> int | None:
        """Try a configuration of one's own: :meth:`ask` gives it before any other.

        It takes the place of the next configuration that the method would have started. Names that it leaves out are
        drawn from the space. A script may be run again: what the stored study has started already is not tried once
        more. Two calls in one program are two trials.

        Returns:
            Its place among all that were enqueued; None where the method has started it by itself.

        Raises:
            ConfigError: If it does not belong to the space.
            StudyError: If the method starts no new configuration any more.
            MethodError: If the method visits fixed points, of which one would be lost.
        """
        self._check_writable("enqueue")
        return self._hand.enqueue(config)

    @overload
    def report(self, job: Job | int, step: int, /, **metrics: Any) -> bool: ...

    @overload
    def report(self, path: str | Path, /) -> Path: ...

    def report(
        self, job: Job | int | str | Path, step: int | None = None, /, *values: Any, **metrics: Any
    ) -> bool | Path:
        """Record values of a running job; return True if the job should stop.

        Steps are counted as :class:`luthier.Trial` counts them: a job whose first report is at step 0 has done one
        step more than it says.

        Args:
            job: The job, or its number.
            step: Progress of the job, increasing, from 0 or from 1 on.
            metrics: Measured values by any name, in the user's own units and direction.

        Raises:
            StudyError: If this process has no such job.
            TaskError: If the step is not a whole number from 0 on, or a value is not a real number.
        """
        if isinstance(job, str | Path):
            return self._report_page(job)
        ledger = self._ledger
        number = job.number if isinstance(job, Job) else job
        if number not in ledger.mine:
            self._check_writable("report")
            number = held(ledger, job, "report")  # raises
        where = f"report(job {number})"
        check_named(values, where)
        if type(step) is not int or step < 0:
            step = as_step(step, where)
        for value in metrics.values():
            if type(value) is not float:
                metrics = as_metrics(metrics, where)
                break
        return self._hand.report(number, step, metrics)

    def write_report(self, path: str | Path) -> Path:
        """Write the study as one HTML page that needs no network; the absolute path of the file.

        Raises:
            StudyError: If the file cannot be written.
        """
        with self._ledger.lock:
            return export.to_html(self._ledger, path)

    def _report_page(self, path: str | Path) -> Path:
        warnings.warn(
            f"study.report({str(path)!r}) is now study.write_report({str(path)!r})", FutureWarning, stacklevel=3
        )
        return self.write_report(path)

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name in the store."""
        return self._ledger.name

    @property
    def in_store(self) -> bool:
        """True if the study outlives this process."""
        return self._ledger.store.url != MEMORY

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that the study was created with, as JSON values."""
        return self._ledger.settings

    @property
    def execution(self) -> str:
        """Summary of how a TorchTask's trainings run: form, width, traced or not, and what prevented a faster form."""
        return self.settings.get("execution", "")

    @property
    def history(self) -> History:
        """All jobs, reports and results, up to date with the store."""
        self._ledger.sync()
        return self._ledger.history

    @property
    def over(self) -> bool:
        """True if nothing is running and the method has nothing more to propose."""
        return self._ledger.over()

    @property
    def best(self) -> Best | None:
        """The best job among those that ended well, within the limits; None while there is none.

        Of several objectives it is the best by the first of them, and the Pareto set is :attr:`front`.
        """
        if len(self._ledger.history.objectives) > 1:
            warnings.warn(
                "study.best of several objectives is the best by the first; the list that it was is study.front",
                FutureWarning,
                stacklevel=2,
            )
        with self._ledger.lock:
            best = next(iter(best_jobs(self.history)), None)
            return None if best is None else self._record(self._ledger.history, best)

    def diverse(
        self, count: int, within: float = 0.01, by: By = None, mode: str = "min", apart: float = 0.1
    ) -> list[Best]:
        """Return jobs that are nearly as good as the best by the first objective, and differ from each other.

        The distance of two configurations is that of :mod:`luthier.space.distance`: 0 is equal, 1 is different in
        everything, 0.1 is a tenth of the box. Without a second measure the best comes first, then again and again what
        is farthest from all before it. With one they come in its order, each farther than ``apart`` from all before it.

        Args:
            count: Maximum number of jobs.
            within: Largest distance of a value from the best value, as a fraction of it: 0.01 is 1 %.
            by: The second measure: the name of a metric or a hyperparameter, ``"seconds"``, or a function of a Best.
            mode: ``"min"`` or ``"max"``, for the second measure.
            apart: With a second measure, the distance that every two of them must exceed.

        Raises:
            MethodError: If an argument is invalid, or a job has no number by the name of the second measure.
        """
        with self._ledger.lock:
            history = self.history
            return diverse(history, lambda number: self._record(history, number), count, within, by, mode, apart)

    def suggest(self) -> Config:
        """The evaluated configuration that the method's model believes best, where results are noisy; see ``best``.

        Raises:
            MethodError: If the method has no model, or no result yet.
        """
        proposer = self._ledger.proposer
        if not optional(proposer, "suggest"):
            what = f"{type(proposer).__name__} has no model of the results"
            raise MethodError(
                what, where=f"study {self.name!r}", remedy="Use study.best, or a method with a model: gp."
            )
        with self._ledger.lock:
            return self._ledger.sight.suggest(self.history)  # type: ignore[union-attr]  # there is one with a proposer

    @property
    def front(self) -> list[Best]:
        """The Pareto set: the jobs that no other dominates, by being as good in every objective and better in one.

        The best by the first objective comes first. Of one objective it is the best job, and all that equal it.
        """
        with self._ledger.lock:
            return [self._record(self._ledger.history, number) for number in front(self.history)]

    @property
    def trials(self) -> list[TrialRecord]:
        """The configurations that were started, each with all the jobs that continued it."""
        with self._ledger.lock:
            waiting = self._ledger.waiting()
            return trials_of(self._ledger.history, waiting)

    def model(
        self, number: int | None = None, task: TorchTask | str | Path | None = None, *, last: bool = False
    ) -> nn.Module:
        """The network of a job with its trained weights, in evaluation mode; of the best one by default.

        Args:
            number: The job.
            task: The TorchTask that was trained, or its file: needed where the study was loaded, and not tuned here.
            last: Its weights at the end, also where ``TorchTask(keep="best")`` kept those of its best measurement.

        Raises:
            StudyError: If there is no task to build the network by, or no job ended well.
            CheckpointError: If the state of this job was not kept.
        """
        job, result = self._ended_well(number)
        return trained.network(self._work_on(task, job.number, "model"), self.name, job, result, last)

    def state(self, number: int | None = None, task: Trainable | str | Path | None = None) -> Any:
        """Return the state at the end of a job of a Trainable, as its ``advance`` takes it; of the best one by default.

        Args:
            number: The job.
            task: The Trainable that was trained, or its file: needed where the study was loaded, and not tuned here.

        Raises:
            StudyError: If there is no task, or no job ended well.
            CheckpointError: If the state of this job was not kept.
        """
        job, result = self._ended_well(number)
        return trained.state(self._work_on(task, job.number, "state"), self.name, job, result)

    def retrain(
        self, count: int = 3, seeds: int | Sequence[int] = 5, task: Any = None, **settings: Any
    ) -> list[Retrained]:
        """Train the best trials again under other seeds: mean and standard deviation of each, the best mean first.

        The best of many noisy results is partly lucky, so its value is too optimistic. Each training is a study of its
        own in the same store, ``NAME/retrain/JOB/SEED``, and is not done twice. What a method has moved during a
        training is replayed as a schedule.

        Args:
            count: Number of trials to train again.
            seeds: Number of other seeds, or the seeds themselves.
            task: Task that was tuned: needed where the study was loaded, and not tuned here.
            settings: Further arguments of :func:`luthier.tune`, such as ``executor`` and ``progress``.

        Raises:
            StudyError: If there is no task, or no job ended well.

        Examples:
            >>> import luthier as lt
            >>> space = lt.Space(x=lt.Float(0.0, 1.0))
            >>> def noisy(config, trial):
            ...     return config["x"] + np.random.default_rng(trial.seed).normal()
            >>> import numpy as np
            >>> study = lt.tune(noisy, space=space, trials=50, progress=False)
            >>> first = study.retrain(count=1, seeds=8)[0]
            >>> first.value < first.mean, len(first.values)
            (True, 8)
        """
        return retrain(self, self._work_on(task, None, "retrain").task, count, seeds, settings)

    def response(self, number: int | None = None) -> BestResponse:
        """Load what a job of :class:`luthier.adapt.Hypernet` has learnt, the best job by default: the network at any
        value of its hyperparameters, without training, as a :class:`luthier.adapt.BestResponse`.

        Raises:
            MethodError: If the study was tuned by another method.
            StudyError, CheckpointError: Same as for :meth:`model`.
        """
        job, result = self._ended_well(number)
        from luthier.train.restore import load_response  # imports torch

        return load_response(self._work_on(None, job.number, "response"), job, result)

    if not TYPE_CHECKING:
        __getattr__ = elsewhere("Study")

    def to_records(self) -> list[dict[str, Any]]:
        """One dict a job: see :func:`luthier.study.export.records`."""
        with self._ledger.lock:
            waiting = self._ledger.waiting()
            return export.records(self._ledger.history, waiting)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``, one row a job."""
        return export.to_pandas(self.to_records())

    def close(self) -> None:
        """Give back the jobs that were asked for and not told. Reading goes on to work."""
        self._hand.close()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _ended_well(self, number: int | None) -> tuple[Job, Result]:
        return trained.ended_well(self.history, self.name, number)

    def _work_on(self, task: Any, number: int | None, verb: str) -> Any:
        return trained.work_on(self._ledger, self._work, task, number, verb)

    def _record(self, history: History, number: int) -> Best:
        stored = self._ledger.settings
        return record(history, number, stored.get("test"), stored["seed"])

    def _check_writable(self, verb: str) -> None:
        if self._ledger.proposer is None:
            raise StudyError(
                f"{verb} was called on a study that was opened to be read",
                where=f"study {self.name!r}",
                remedy=f"Open it with Study({self.name!r}, space, method=…, store=…) to go on with it.",
            )
