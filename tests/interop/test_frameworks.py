"""Real Trainers of Lightning and transformers inside a function: reports, pruning, two processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import luthier as lt
from luthier.errors import TaskError

SPACE = lt.Space(lr=lt.Float(1e-3, 1.0, log=True))
EPOCHS = 6

# The frameworks' own warnings on the few workers of their loaders and the like.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def rows(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return inputs, inputs.sum(1, keepdim=True)


def reports(study: lt.Study, number: int) -> list[lt.Report]:
    return [one for one in study.history.events if isinstance(one, lt.Report) and one.number == number]


def fit_lightning(config: dict, trial: lt.Trial, monitor: str = "val_loss", folder: Path | None = None) -> Any:
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader, TensorDataset

    from luthier.interop.lightning import Report

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 1)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", nn.functional.mse_loss(self.layer(batch[0]), batch[1]), sync_dist=True)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=config["lr"])

    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Report(trial, monitor=monitor)],
    )
    loader = DataLoader(TensorDataset(*rows()), batch_size=16)
    trainer.fit(Net(), loader, loader)
    return {"val_loss": float(trainer.callback_metrics["val_loss"]), "epochs": trainer.current_epoch}


def test_lightning_reports_every_validation() -> None:
    pytest.importorskip("lightning")
    study = lt.tune(fit_lightning, space=SPACE, trials=2, metric="val_loss", mode="min", progress=False)
    for job, result in zip(study.history.jobs, study.history.results, strict=True):
        said = reports(study, job.number)
        assert [one.step for one in said] == list(range(1, EPOCHS + 1))
        assert result is not None and result.metrics["val_loss"] == said[-1].metrics["val_loss"]
    plain = nn.Linear(4, 1)
    torch.manual_seed(0)
    plain.reset_parameters()
    optimizer = torch.optim.SGD(plain.parameters(), lr=study.best.config["lr"])
    for _ in range(EPOCHS):
        for part, target in zip(*(tensor.split(16) for tensor in rows()), strict=True):
            optimizer.zero_grad()
            nn.functional.mse_loss(plain(part), target).backward()
            optimizer.step()
    assert study.best.value == pytest.approx(nn.functional.mse_loss(plain(rows()[0]), rows()[1]).item(), rel=1e-4)


def stop_at(step: int) -> tuple[lt.Trial, list[int]]:
    steps: list[int] = []
    trial = lt.Trial(
        0,
        {"lr": 0.1},
        key=1,
        steps=1,
        send=lambda at, metrics: steps.append(at) or at >= step,
        asked=lambda: bool(steps) and steps[-1] >= step,
    )
    return trial, steps


def test_lightning_ends_where_the_study_asks() -> None:
    pytest.importorskip("lightning")
    trial, steps = stop_at(2)
    assert fit_lightning({"lr": 0.1}, trial)["epochs"] == 2
    assert steps == [1, 2] and trial.stopped
    with pytest.raises(TaskError, match="monitor must be one of"):
        fit_lightning({"lr": 0.1}, stop_at(99)[0], monitor="accuracy")


def test_lightning_over_two_processes_stops_in_both() -> None:
    pytest.importorskip("lightning")
    trial, steps = stop_at(3)
    returned = lt.execute.Group(fit_lightning, processes=2)({"lr": 0.1}, trial)
    assert steps == [1, 2, 3] and trial.stopped and returned["epochs"] == 3


def fit_transformers(config: dict, trial: lt.Trial) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from luthier.interop.transformers import Report

    generator = torch.Generator().manual_seed(0)
    data = [
        {"input_ids": torch.randint(0, 20, (6,), generator=generator), "labels": torch.tensor(i % 2)} for i in range(32)
    ]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    arguments = TrainingArguments(
        output_dir=str(trial.folder) if trial._place else "unused",
        num_train_epochs=EPOCHS,
        learning_rate=config["lr"],
        eval_strategy="epoch",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=trial.seed % 2**31,
    )
    trainer = Trainer(
        model_init=lambda: BertForSequenceClassification(BertConfig(vocab_size=20, **sizes)),
        args=arguments,
        train_dataset=data,  # type: ignore[arg-type]
        eval_dataset=data,  # type: ignore[arg-type]
        callbacks=[Report(trial, unit="epoch")],
    )
    trainer.train()
    return {"eval_loss": trainer.evaluate()["eval_loss"], "epochs": trainer.state.epoch}


def test_transformers_report_and_end_where_the_study_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    study = lt.tune(fit_transformers, space=SPACE, trials=2, metric="eval_loss", mode="min", progress=False)
    for job, result in zip(study.history.jobs, study.history.results, strict=True):
        said = reports(study, job.number)
        assert [one.step for one in said] == list(range(1, EPOCHS + 1))
        assert result is not None
        assert result.metrics["eval_loss"] == pytest.approx(said[-1].metrics["eval_loss"], rel=1e-6)
    trial, steps = stop_at(2)
    assert fit_transformers({"lr": 0.01}, trial)["epochs"] == 2
    assert steps == [1, 2] and trial.stopped


def test_the_search_of_transformers_takes_the_methods_of_luthier(tmp_path: Path) -> None:
    """backend="optuna" with luthier's sampler, as the docs say."""
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("optuna")
    from luthier.interop.optuna import OptunaSampler

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    data = [{"input_ids": torch.arange(6), "labels": torch.tensor(i % 2)} for i in range(8)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, eval_strategy="epoch", save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model_init=lambda trial=None: transformers.BertForSequenceClassification(
            transformers.BertConfig(vocab_size=20, **sizes)
        ),
        args=arguments,
        train_dataset=data,
        eval_dataset=data,
    )
    best = trainer.hyperparameter_search(
        backend="optuna",
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)},
        n_trials=3,
        direction="minimize",
        sampler=OptunaSampler("gp", seed=0),
    )
    assert 1e-5 <= best.hyperparameters["learning_rate"] <= 1e-1
