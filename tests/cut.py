"""A study that is ended by SIGKILL in the middle of its trainings and resumed, beside one left alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

import luthier as lt
from luthier.train import stack

TRIALS, EPOCHS = 2, 5
KILLED_AT = 3  # save of a process: two are on the disk, and what was trained since is lost


def _kill_in_the_middle() -> None:
    """End this process at a save, as the kernel does it that is out of memory."""
    save, saves = stack.save_partials, 0

    def killing(*given: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)
        save(*given)

    stack.save_partials = killing


def resumed(task: Callable[[], lt.TorchTask], folder: Path, **settings: Any) -> str:
    """Return what is wrong with a study that was killed and resumed, "" where it equals the other to the bit.

    Args:
        task: Makes the task, anew in each process.
        folder: Folder for the databases.
        settings: Settings of ``tune``.
    """
    kept, stack.PARTIAL_SECONDS = stack.PARTIAL_SECONDS, 0.0  # saved at each measurement, as a longer one would be
    try:
        whole, cut = f"sqlite:///{folder}/whole.db", f"sqlite:///{folder}/cut.db"
        _study(task, whole, **settings)
        child = os.fork()
        if child == 0:
            try:
                _kill_in_the_middle()
                _study(task, cut, **settings)
            finally:
                os._exit(1)  # it was to be killed
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            return f"it was not killed, but ended with {status}"
        left = lt.Study.load("zoo", cut).history
        if any(result is not None for result in left.results):
            return "a training had ended before the kill"
        _study(task, cut, **settings)
        return "" if _same(_ended(whole), _ended(cut)) else "resumed differs from alone"
    finally:
        stack.PARTIAL_SECONDS = kept


def _study(task: Callable[[], lt.TorchTask], store: str, **settings: Any) -> None:
    usual: dict[str, Any] = {"trials": TRIALS, "epochs": EPOCHS, "seed": 3, "progress": False, "name": "zoo"}
    lt.tune(task(), **{**usual, **settings}, store=store)


def _ended(store: str) -> tuple[Any, list[torch.Tensor]]:
    """Everything reported, and all tensors of the best training at its end."""
    study = lt.Study.load("zoo", store)
    results = [result for result in study.history.results if result is not None]
    reports = [[(r.step, sorted(r.metrics.items())) for r in study.history.reports[x.number]] for x in results]
    assert study.best is not None and study.best.result.checkpoint is not None  # of others less is kept
    file, row = study.best.result.checkpoint
    tensors = [leaf[row] for leaf in pytree.tree_leaves(study._ledger.checkpoints.load(file)[0])]
    return [[r.status for r in results], reports], tensors


def _same(one: tuple[Any, list[torch.Tensor]], other: tuple[Any, list[torch.Tensor]]) -> bool:
    equal = len(one[1]) == len(other[1]) > 0 and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one[1], other[1], strict=True)
    )
    return equal and repr(one[0]) == repr(other[0])
