"""Forty habits around a training: each equals the plain loop, or is refused at the call by its name."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_loop import CONFIGS, SEED, SPACE, Net, Trained, X, Y
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

import luthier as lt
from luthier.seeds import Seeds

STEPS = 14
PICKED = Y.masked_fill(torch.arange(48) % 5 == 0, -100)
WEIGHTS = torch.linspace(0.1, 2.0, 48, dtype=torch.float64)
TESTS = Path(__file__).resolve().parents[1]


def focal(output: Tensor, target: Tensor) -> Tensor:
    chosen = output.log_softmax(1).gather(1, target.unsqueeze(1))
    return -((1 - chosen.exp()) ** 2 * chosen).mean()


def masked(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output[target == 1], target[target == 1]) + 0.1 * output.square().mean()


def hardest(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none").topk(4).values.mean()


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    apart = (output.unsqueeze(0) - output.unsqueeze(1)).square().sum(-1)
    same = (target.unsqueeze(0) == target.unsqueeze(1)).to(apart.dtype)
    return (same * apart + (1 - same) * (1 - apart.add(1e-9).sqrt()).relu().square()).mean()


def weighted(output: Tensor, target: tuple[Tensor, Tensor]) -> Tensor:
    return (F.cross_entropy(output, target[0], reduction="none") * target[1]).sum() / target[1].sum()


def several(output: Tensor, target: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(output, target["kind"]) + F.mse_loss(output[:, 0], target["size"])


class Uncertain(nn.Module):
    """Two tasks whose weights are learnt (Kendall et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, output: Tensor, target: dict[str, Tensor]) -> Tensor:
        losses = torch.stack([F.cross_entropy(output, target["kind"]), F.mse_loss(output[:, 0], target["size"])])
        return (losses * (-self.log_variance).exp() + self.log_variance).sum()


class Centres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.ones(2, 2))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) + (output - self.centres[target]).square().mean()


class Cropped(Dataset):
    """Rows of which a random part is set to zero."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        first = int(torch.randint(5, ()))
        return X[i].clone().index_fill(0, torch.arange(first, min(first + 2, 5)), 0.0), Y[i]


class Flow(IterableDataset):
    def __len__(self) -> int:
        return 48

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from ((X[i], Y[i]) for i in torch.randperm(48).tolist())


def mixup(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    inputs = torch.stack([x for x, _ in rows])
    kinds = F.one_hot(torch.stack([y for _, y in rows]), 2).double()
    share, order = torch.rand((), dtype=torch.float64), torch.randperm(len(rows))
    return share * inputs + (1 - share) * inputs[order], share * kinds + (1 - share) * kinds[order]


def padded(rows: list[tuple[Tensor, Tensor]]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Sequences of unequal lengths, as inputs and mask."""
    lengths = [1 + int(y) * 2 + i % 3 for i, (_, y) in enumerate(rows)]
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    return (torch.stack([x[:1].expand(width) for x, _ in rows]) * mask, mask), torch.stack([y for _, y in rows])


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.unused = nn.Linear(2, 2), nn.Parameter(torch.ones(3, 2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(torch.stack((x.sum(1) / mask.sum(1), mask.sum(1).to(x.dtype)), 1))


PAIRS = [(X[i], Y[i]) for i in range(48)]
SIZES = lt.Split(X, {"kind": Y, "size": X[:, 0]})
HABITS: dict[str, dict[str, Any]] = {
    "class weights": {"loss": nn.CrossEntropyLoss(weight=torch.tensor([0.3, 1.7], dtype=torch.float64))},
    "focal loss": {"loss": focal},
    "label smoothing": {"loss": functools.partial(F.cross_entropy, label_smoothing=0.1)},
    "ignore_index": {"loss": F.cross_entropy, "data": lt.Split(X, PICKED)},
    "learnt weights of two tasks": {"loss": Uncertain(), "data": SIZES},
    "contrastive loss over the batch": {"loss": contrastive},
    "boolean-mask loss": {"loss": masked},
    "top-k loss": {"loss": hardest},
    "loss module with parameters": {"loss": Centres()},
    "sample weights": {"loss": weighted, "data": lt.Split(X, (Y, WEIGHTS))},
    "several targets": {"loss": several, "data": SIZES},
    "regression on a column": {"loss": lambda o, t: F.mse_loss(o[:, :1], t), "data": lt.Split(X, X[:, :1])},
    "weighted sampler": {"data": DataLoader(PAIRS, 8, sampler=WeightedRandomSampler(WEIGHTS, 48))},  # type: ignore[arg-type]
    "collate_fn with padding": {
        "data": DataLoader(PAIRS, 8, shuffle=True, collate_fn=padded),  # type: ignore[arg-type]
        "model": lambda config: Pooled(),
    },
    "random crops": {"data": Cropped()},
    "mixup with targets": {"data": DataLoader(PAIRS, 8, shuffle=True, collate_fn=mixup)},  # type: ignore[arg-type]
    "IterableDataset": {"data": DataLoader(Flow(), 8)},
    "a last, smaller minibatch": {"data": DataLoader(PAIRS, 20, shuffle=True)},  # type: ignore[arg-type]
    "a loader in order": {"data": DataLoader(PAIRS, 8)},  # type: ignore[arg-type]
}


def loop(given: lt.TorchTask, config: dict[str, Any], number: int) -> nn.Module:
    """The training written out: minibatches of the same data, the loss as it is, torch's AdamW."""
    torch.manual_seed(Seeds(SEED).key(number, "train"))
    model = given.model(config).double()
    loss: Any = given.loss
    if isinstance(loss, nn.Module):
        loss = type(loss)(loss.weight) if isinstance(loss, nn.CrossEntropyLoss) else type(loss)().double()
    own = list(loss.parameters()) if isinstance(loss, nn.Module) else []
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad] + own, **config)
    sources = given.sources(config)
    at = sources["train"].stream(sources.size("train"), Seeds(SEED), "shuffle train")
    for step in range(STEPS):
        inputs, targets = at(step)
        optimizer.zero_grad()
        loss(model(*inputs) if isinstance(inputs, tuple) else model(inputs), targets).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("habit", HABITS)
def test_a_habit_is_the_plain_loop(habit: str) -> None:
    settings = dict(HABITS[habit])
    data = settings.pop("data", lt.Split(X, Y))
    usual = {"space": SPACE, "model": lambda config: Net(), "loss": F.cross_entropy, "optimizer": optim.AdamW}
    size = {} if isinstance(data, DataLoader) else {"batch_size": 8}
    given = lt.TorchTask(**{**usual, "data": lt.Splits(data, data), "dtype": torch.float64, **size, **settings})
    trained = Trained(given, CONFIGS[:2], steps=STEPS)
    for number, config in enumerate(CONFIGS[:2]):
        found = dict(trained.models[number].named_parameters())
        for name, p in loop(given, config, number).named_parameters():
            torch.testing.assert_close(found[name].detach(), p.detach(), rtol=1e-8, atol=1e-11)


# where the others are compared with a plain loop, or refused: (file, a part of what must stand there)
ELSEWHERE: dict[str, tuple[str, str]] = {
    "AUC, F1, perplexity, R² on the whole split": ("test_around_training.py", "roc_auc_score"),
    "torchmetrics objects": ("test_around_training.py", "torchmetrics.F1Score"),
    "frozen backbone": ("plain_loop.py", "self.frozen.requires_grad_(False)"),
    "layer-wise rates": ("optim/test_stock.py", '"lr": config["lr"] / 3'),
    "no decay on norms and biases": ("optim/test_stock.py", '"weight_decay": 0.0}'),
    "clipping by norm": ("optim/test_stock.py", "clip_norm=0.8"),
    "clipping by value": ("optim/test_stock.py", "clip_value=0.5"),
    "accumulation": ("optim/test_stock.py", "accumulate=2"),
    "bf16 autocast": ("test_around_training.py", "def test_bf16_is_autocast"),
    "warm-up and cosine": ("optim/test_stock.py", '"warm-up, then cosine"'),
    "OneCycle": ("optim/test_stock.py", '"OneCycle"'),
    "ReduceLROnPlateau": ("optim/test_stock.py", "ReduceLROnPlateau follows a measured"),
    "StepLR per epoch": ("optim/test_stock.py", '"StepLR"'),
    "early stopping": ("test_around_training.py", "def test_a_training_without_improvement_ends"),
    "best weights": ("test_around_training.py", "def test_the_best_weights_are_kept"),
    "EMA of weights": ("optim/test_stock.py", "def test_the_average_of_the_weights_is_torchs"),
    "LBFGS": ("optim/test_stock.py", "LBFGS evaluates the loss several times"),
    "schedule-free": ("optim/test_stock.py", '"schedule-free": ('),
    "Prodigy": ("optim/test_stock.py", '"Prodigy": ('),
    "Muon": ("optim/test_stock.py", '"Muon": ('),
    "a Lion of one's own": ("optim/test_stock.py", "class Lion"),
    "DataLoader workers 0 and 2": ("test_sources.py", "def test_two_workers_give_what_none_gives"),
    "resume in mid-epoch": ("test_sources.py", "def test_a_minibatch_is_a_function_of_its_step"),
    "weights into another process": ("test_around_training.py", "def test_weights_come_back_in_another_process"),
}


def test_every_habit_has_its_test() -> None:
    assert len(HABITS) + len(ELSEWHERE) >= 40
    for habit, (file, text) in ELSEWHERE.items():
        written = (TESTS / file).read_text()
        assert ast.parse(written) and text in written, habit
