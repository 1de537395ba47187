"""Hugging Face transformers: a callback that tells a trial what the Trainer has evaluated."""

from __future__ import annotations

from typing import Any, Literal, final

from luthier.errors import TaskError
from luthier.interop.reporting import reported
from luthier.lazy import optional_import
from luthier.task import Trial

with optional_import("transformers", "luthier.interop.transformers", TaskError):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["Report"]


@final
class Report(TrainerCallback):
    """Report every evaluation of a Trainer to a trial, and end the training where the study asks for it.

    The Trainer ends by itself, so that trackers and checkpoints are closed; nothing is raised. Inside
    ``lt.execute.Group`` all processes end together.

    Args:
        trial: The trial passed to ``f(config, trial)``.
        monitor: The metric that must be among the evaluated ones; make it the study's ``metric=``.
        unit: Unit of a step: an optimizer step, or an epoch.

    Raises:
        TaskError: At the first evaluation, if ``monitor`` is not among its metrics.

    Examples:
        >>> def train(config, trial):
        ...     trainer = Trainer(model_init=build, args=arguments(config), callbacks=[Report(trial)])
        ...     trainer.train()
        ...     return {"eval_loss": trainer.evaluate()["eval_loss"]}
    """

    def __init__(self, trial: Trial, monitor: str = "eval_loss", unit: Literal["step", "epoch"] = "step") -> None:
        self.trial, self.monitor, self.unit = trial, monitor, unit

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Report the metrics of an evaluation."""
        step = state.global_step if self.unit == "step" else round(state.epoch or 0)
        if reported(self.trial, step, given["metrics"], self.monitor):
            control.should_training_stop = True
