"""Lightning: a callback that tells a trial what the Trainer has validated."""

from __future__ import annotations

from typing import Any, Literal, final

from luthier.errors import TaskError
from luthier.interop.reporting import reported
from luthier.lazy import optional_import
from luthier.task import Trial

with optional_import("Lightning", "luthier.interop.lightning", TaskError):
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["Report"]


@final
class Report(Callback):
    """Report every validation of a Trainer to a trial, and end the training where the study asks for it.

    The Trainer ends by itself, after the epoch in hand, so that loggers and checkpoints are closed; nothing is raised.
    Over several processes (``lt.execute.Group``, or DDP with the trial in rank 0 and None elsewhere) all of them end
    together.

    Args:
        trial: The trial passed to ``f(config, trial)``; None in a process that has none.
        monitor: The metric that must be among the logged ones, ``"val_loss"``; make it the study's ``metric=``.
        unit: Unit of a step: an epoch, or an optimizer step where an epoch is validated several times.

    Raises:
        TaskError: At the first validation, if ``monitor`` was not logged.

    Examples:
        >>> import luthier as lt
        >>> def train(config, trial):
        ...     trainer = Trainer(max_epochs=10, callbacks=[Report(trial, monitor="val_loss")])
        ...     trainer.fit(Net(config), data)
        ...     return {"val_loss": float(trainer.callback_metrics["val_loss"])}
    """

    def __init__(self, trial: Trial | None, monitor: str, unit: Literal["epoch", "step"] = "epoch") -> None:
        self.trial, self.monitor, self.unit = trial, monitor, unit

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the metrics that this validation has logged."""
        if trainer.sanity_checking:
            return
        asked = False
        if self.trial is not None:
            step = trainer.current_epoch + 1 if self.unit == "epoch" else trainer.global_step
            found: dict[str, Any] = {name: value.item() for name, value in trainer.callback_metrics.items()}
            asked = reported(self.trial, step, found, self.monitor)
        # Raising here would leave the other processes waiting in their next reduction.
        trainer.should_stop = trainer.should_stop or trainer.strategy.broadcast(asked)
