"""Records of a study (jobs, reports, results, notes) and the budget that it may spend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from luthier.space import Config

Status = Literal["ok", "diverged", "failed", "pruned"]

NoteKind = Literal["reopened", "enqueued", "foreign", "stop", "fingerprint", "method", "note"]
NOTE_KINDS: tuple[NoteKind, ...] = ("reopened", "enqueued", "foreign", "stop", "fingerprint", "method", "note")
REPEATS = "repeats"  # in the tag of a job: the job whose initial weights and noise it takes, to train it again
ENQUEUED = "enqueued"  # in the tag of a job: the place in History.enqueued of the configuration that it tries

PENDING, OK, DIVERGED, FAILED, PRUNED = range(5)
STATUS_CODES: dict[str, int] = {"ok": OK, "diverged": DIVERGED, "failed": FAILED, "pruned": PRUNED}


@dataclass(frozen=True)
class Job:
    """One piece of training: a configuration for a number of steps, fresh or continued.

    Args:
        number: The job's place in its study: 0, 1, 2, … without gaps.
        config: The configuration; inactive names are absent.
        steps: Training steps of this job alone (1 for a function that is called once).
        parent: Continue from the whole state at the end of this job; names whose value differs from the
            parent's ``final`` are overwritten.
        tag: The proposer's note to its later self (slot, rung, generation); must be JSON.

    Examples:
        >>> Job(7, {"lr": 0.1}, steps=100, parent=3)
        Job(number=7, config={'lr': 0.1}, steps=100, parent=3, tag={})
    """

    number: int
    config: Config
    steps: int = 1
    parent: int | None = None
    tag: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Measurement reported by a running job.

    Args:
        number: The job.
        step: Steps done over the whole lineage when the report was made.
        metrics: Measured values in the user's own units and direction.
        hyperparameters: Values at that step, where they move during the training; empty otherwise.

    Examples:
        >>> Report(7, 20, {"loss": 0.5}).metrics["loss"]
        0.5
    """

    number: int
    step: int
    metrics: Mapping[str, float]
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Outcome of a job. A crash or a divergence is a result too, never an exception in the loop.

    Args:
        number: The job.
        status: ``"ok"``; ``"diverged"`` (a metric or a weight is not finite); ``"failed"`` (an exception or a
            dead worker); ``"pruned"`` (stopped early on purpose).
        metrics: Values at the end, in the user's own units and direction.
        steps: Steps done by this job.
        final: Hyperparameters at the end (an adapter has moved them); empty means "as in the job's config".
        seconds: Wall time of the job; of a stack, its share.
        error: The message of a failure, else "".
        checkpoint: (file, row) of the state at the end, where one was written.
        notes: Values that the training passed to ``trial.note``; the store keeps them as a note of their own.

    Examples:
        >>> result = Result(7, "ok", {"loss": 0.25}, steps=100)
        >>> result.status, result.metrics["loss"], result.error
        ('ok', 0.25, '')
    """

    number: int
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    final: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    checkpoint: tuple[str, int] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """Record about a study other than its jobs, reports and results.

    Args:
        kind: ``"reopened"`` (``{"number": n}``: a job that has ended is to be tried again), ``"enqueued"``
            (``{"config": …}``: a configuration of the user's, to be tried first), ``"foreign"`` (``{"config": …,
            "metrics": …}``: a result from elsewhere), ``"stop"`` (``{"reason": …}``: all drivers are asked to end),
            ``"fingerprint"`` (``{"text": …, "first": n}``: the task as it is trained from job n on), ``"method"``
            (``{"before": …, "now": …}``, as settings have them: from here on another method proposes), or ``"note"``.
        body: Its content; JSON.
    """

    kind: NoteKind
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Foreign:
    """A result that did not come from this study.

    Args:
        config: The configuration.
        metrics: Its values, in the user's own units and direction.
    """

    config: Config
    metrics: Mapping[str, float]


class Succession(NamedTuple):
    """Another method going on with a study.

    Args:
        first: Its first job.
        place: Entries of the log that come before.
        before: The method up to there, as settings have it.
        now: The method from there on.
    """

    first: int
    place: int
    before: Mapping[str, Any]
    now: Mapping[str, Any]


@dataclass(frozen=True)
class Partial:
    """The state of a running job, saved on the way: what another attempt at it goes on from.

    Args:
        number: The job.
        file: The checkpoint.
        steps: Steps done by the job when it was saved.
    """

    number: int
    file: str
    steps: int


Reason = Literal["asked", "machine", "storage", "file", "process"]


@dataclass(frozen=True)
class Lost:
    """A job that an executor hands back without a result. It is not judged: it runs again, here or elsewhere.

    Args:
        number: The job.
        why: ``"asked"``: it was to be given back, as the time is up or a signal came. ``"machine"``: the place where
            it ran was taken away (a node announced dead, a worker told to end): it runs again at once. ``"storage"``:
            a state could not be read or written: it runs again after a pause. ``"file"``: a state that it needs is
            missing or damaged, or one is larger than a file may be: the same, but not for long. None of these is
            counted.
            ``"process"``: the process that trained it died. That is counted, and the third time is a failure.
        error: Description of what happened, a sentence without its full stop; empty where it was asked for.

    Examples:
        >>> Lost(7, "machine", "the node was taken away").why
        'machine'
    """

    number: int
    why: Reason
    error: str = ""


Event = Job | Report | Result


def one_step(config: Config) -> int:
    """Steps of an epoch where there are none: 1. A function with a name, so that a budget can be pickled."""
    return 1


@dataclass(frozen=True)
class Budget:
    """Limits on what a study may spend. A proposer is bound to one before its first proposal.

    Args:
        trials: Configurations that may be started; None is without limit.
        steps: Training steps of each trial, or None.
        epochs: Passes over the training data of each trial, or None; steps and epochs exclude each other.
        seconds: Wall time for the whole call, or None; only the loop looks at it.
        epoch_steps: Steps of one epoch under a configuration (its batch size may be a hyperparameter).
        total: Training steps of all jobs together, or None; no job is begun that would go beyond it.
        window: Steps that belong together, of an adapter that moves hyperparameters once in so many: a training and
            each of its parts are rounded down to whole windows.
        least: Steps of the shortest training, where epochs are given and their length is known.

    Examples:
        >>> budget = Budget(trials=20, epochs=3)
        >>> budget.trials, budget.epochs, budget.steps
        (20, 3, None)
        >>> Budget(trials=20, steps=27, window=5).steps_for({})
        25
    """

    trials: int | None = None
    steps: int | None = None
    epochs: float | None = None
    seconds: float | None = None
    epoch_steps: Callable[[Config], int] = one_step
    total: int | None = None
    window: int = 1
    least: int | None = None

    def steps_for(self, config: Config, part: float = 1.0) -> int:
        """Steps of a whole trial under ``config`` (or of a ``part`` of it), at least 1 window."""
        whole = self.steps if self.epochs is None else self.epochs * self.epoch_steps(config)
        whole = 1 if whole is None else whole
        if self.window > 1 and (windows := max(1, round(whole)) // self.window):
            return self.window * max(1, round(windows * part))
        return max(1, round(whole * part))  # shorter than a window: whoever trains it refuses

    @property
    def windows(self) -> int | None:
        """Whole windows of the shortest training, where its length is known."""
        least = self.least if self.steps is None else self.steps
        return None if least is None else least // self.window
