"""Loading of what a finished job of a TorchTask left: its network, its test metrics, what its adapter has learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.errors import CheckpointError, MethodError
from luthier.jobs import Job, Result
from luthier.optional import optional
from luthier.train.best import at_best, without_best
from luthier.train.members import on_device, rows_of
from luthier.train.stack import trainer

if TYPE_CHECKING:
    from luthier.task.program import Program, State
    from luthier.train import Work


def final_test(work: Work, job: Job, result: Result) -> dict[str, float]:
    """Loss and metrics of a finished job on the test split, by its best weights where those were kept.

    Call it once, for the configuration that a study ends with.
    """
    program, state = _restore(work, job, result)
    state = at_best(state)
    if "test" not in program.sources:
        return {}
    return {name: float(value) for name, value in program.evaluate(state, "test").items()}


def load_model(work: Work, job: Job, result: Result, last: bool = False) -> nn.Module:
    """Load the user's module with the weights of a job, in evaluation mode.

    Args:
        work: Task that was trained, and its settings.
        job: The job.
        result: Its result.
        last: True to load the weights at the end even where those of the best measurement were kept.
    """
    program, state = _restore(work, job, result)
    state = without_best(state)[0] if last else at_best(state)
    return program.module(dict(result.final) or job.config, state)


def load_response(work: Work, job: Job, result: Result) -> Any:
    """Load what the adapter has learnt in a job about how the weights respond.

    Raises:
        MethodError: If it learns nothing of the kind.
    """
    if not callable(optional(work.adapter, "response")):
        raise MethodError(
            f"{work.adapter or 'plain training'} does not learn how the weights respond",
            where=f"job {job.number}",
            remedy="Tune with lt.adapt.Hypernet().",
        )
    program, state = _restore(work, job, result)
    return work.adapter.response(program, job.config, state)  # type: ignore[union-attr]


def _restore(work: Work, job: Job, result: Result) -> tuple[Program, State]:
    if result.checkpoint is None or work.checkpoints is None:
        raise CheckpointError(
            "no checkpoint was kept",
            where=f"job {job.number}",
            remedy="Checkpoints are kept for the best job of a study and for those that others may continue.",
        )
    file, row = result.checkpoint
    state, _ = work.checkpoints.load(file)
    program = trainer(work, job)[0].program(job.config)
    return program, on_device(rows_of(state, [row]), program)
