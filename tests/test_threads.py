"""Studies of networks in several threads of one process: the numbers of a study alone, and torch as it was."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import checkpoint

import luthier as lt


def losses(seed: int) -> list[float]:
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 0.1, log=True)),
        model=lambda config: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
        ),
        data=lt.data.digits(),
        loss=F.cross_entropy,
        batch_size=64,
    )
    study = lt.tune(task, trials=4, steps=12, seed=seed, progress=False)
    return [trial.metrics["loss"] for trial in study.trials]


def switches() -> tuple[object, ...]:
    parts = checkpoint.CheckpointFunction, checkpoint._checkpoint_without_reentrant_generator, F.linear, F.conv2d
    return torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled(), *parts


def test_studies_in_threads_give_what_each_gives_alone() -> None:
    before, alone = switches(), [losses(seed) for seed in range(4)]
    found: dict[int, list[float]] = {}
    threads = [threading.Thread(target=lambda s=seed: found.update({s: losses(s)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == alone
    assert switches() == before


def test_a_study_is_read_by_threads_while_another_asks_and_tells() -> None:
    study = lt.Study("s", lt.Space(x=lt.Float(0.0, 1.0)), trials=400)
    raised: list[Exception] = []
    ended = threading.Event()

    def keep(read: Callable[[], object]) -> None:
        while not ended.is_set():
            try:
                read()
            except Exception as error:
                raised.append(error)
                return

    reads = [study.to_records, lambda: study.trials, lambda: study.front]
    threads = [threading.Thread(target=keep, args=(read,)) for read in reads]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns in the middle of everything
    try:
        for thread in threads:
            thread.start()
        while jobs := study.ask(4):
            study.tell_many([(job, job.config["x"]) for job in jobs])
    finally:
        ended.set()
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    assert not raised
