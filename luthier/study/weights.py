"""The weights of a job out of its checkpoint, for programs that know nothing of luthier."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from luthier.errors import CheckpointError, StudyError
from luthier.files import write_whole
from luthier.study.study import Study

INNER = "loss:"  # before the names of a loss's own parameters, which are no part of the network


def state_dict(study: Study, number: int | None = None) -> dict[str, Any]:
    """Return the tensors of a job's network by name, on the CPU, for ``module.load_state_dict``.

    Args:
        study: The study, stored or just tuned.
        number: The job; the best one by default.

    Raises:
        StudyError: If there is no such job, or it trained no TorchTask.
        CheckpointError: If its state was not kept.
    """
    history = study.history
    number = history.best if number is None else number
    result = history.results[number] if number is not None and 0 <= number < len(history) else None
    where = f"study {study.name!r}, job {number}"
    if result is None:
        remedy = "Name a job that has ended, as luthier show lists them."
        raise StudyError("there is no such job, or it has not ended", where=where, remedy=remedy)
    if result.checkpoint is None:
        remedy = "Checkpoints are kept for the best job of a study and for those that others may continue."
        raise CheckpointError("no checkpoint was kept", where=where, remedy=remedy)
    file, row = result.checkpoint
    state, _ = study._ledger.checkpoints.load(file)
    if not isinstance(state, dict) or not {"params", "buffers"} <= state.keys():
        remedy = "Of a Trainable load the state itself, in Python."
        raise StudyError("its state is not that of a network", where=where, remedy=remedy)
    found = {**state["params"], **state["buffers"]}
    return {name: tensor[row].clone() for name, tensor in found.items() if not name.startswith(INNER)}


def save_weights(study: Study, path: str | Path, number: int | None = None) -> Path:
    """Write :func:`state_dict` to a file that ``torch.load(path, weights_only=True)`` reads.

    Raises:
        StudyError, CheckpointError: See :func:`state_dict`, and if the file cannot be written.
    """
    import torch

    data = io.BytesIO()
    torch.save(state_dict(study, number), data)
    try:
        return write_whole(path, data.getvalue())
    except OSError as error:
        remedy = "Give the path of a file in a folder that you may write to."
        raise StudyError(f"it cannot be written ({error.strerror})", where=str(path), remedy=remedy) from error
