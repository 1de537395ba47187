"""Forty habits around a training: each equals the plain loop, or is refused at the call by its name."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prodigyopt
import pytest
import schedulefree
import torch
import torchmetrics
from cut import resumed
from plain_loop import CONFIGS, SEED, SPACE, Net, Trained, X, Y, off, plain, task
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler
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


class Lion(optim.Optimizer):
    """As a user writes it (Chen et al. 2023)."""

    def __init__(self, params: Any, lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(average.mul(0.9).add(p.grad, alpha=0.1).sign_(), alpha=-group["lr"])
                average.mul_(0.99).add_(p.grad, alpha=0.01)


def by_layer(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    layers = [model.get_submodule("body"), model.get_submodule("head")]
    groups = [{"params": part.parameters(), "lr": config["lr"] * 0.5**i} for i, part in enumerate(layers)]
    return optim.AdamW(groups, weight_decay=config["weight_decay"])


def decayed_matrices(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": config["weight_decay"]},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return optim.AdamW(groups, lr=config["lr"])


def muon(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
    return optim.Muon([p for p in model.parameters() if p.requires_grad and p.ndim == 2], **config)


def named(kind: Any, **fixed: Any) -> Callable[[nn.Module, dict[str, Any]], optim.Optimizer]:
    return lambda model, config: kind([p for p in model.parameters() if p.requires_grad], **{**config, **fixed})


def by(kind: Any, config: dict[str, Any]) -> Callable[[nn.Module], optim.Optimizer]:
    return lambda model: named(kind)(model, config)


def warm_cosine(o: optim.Optimizer) -> Any:
    parts = [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, STEPS - 4)]
    return lr_scheduler.SequentialLR(o, parts, [4])


def one_cycle(o: optim.Optimizer) -> Any:
    return lr_scheduler.OneCycleLR(o, 0.05, total_steps=STEPS)


def step_decay(o: optim.Optimizer) -> Any:
    return lr_scheduler.StepLR(o, 1, 0.3)


FREE = functools.partial(schedulefree.AdamWScheduleFree, warmup_steps=5)
# around the optimizer: settings of the task; the plain loop's optimizer and scheduler
AROUND: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "frozen backbone": ({"optimizer": optim.AdamW}, named(optim.AdamW), {}),
    "layer-wise rates": ({"optimizer": by_layer}, by_layer, {}),
    "no decay on norms and biases": ({"optimizer": decayed_matrices}, decayed_matrices, {}),
    "clipping by norm": ({"optimizer": optim.SGD, "clip_norm": 0.1}, named(optim.SGD), {}),
    "clipping by value": ({"optimizer": optim.SGD, "clip_value": 0.01}, named(optim.SGD), {}),
    "accumulation": ({"optimizer": optim.AdamW, "accumulate": 3}, named(optim.AdamW), {}),
    "warm-up and cosine": ({"scheduler": warm_cosine}, named(optim.AdamW), {"scheduler": warm_cosine}),
    "OneCycle": ({"scheduler": one_cycle}, named(optim.AdamW), {"scheduler": one_cycle}),
    "StepLR per epoch": (
        {"scheduler": (step_decay, "epoch")},
        named(optim.AdamW),
        {"scheduler": step_decay, "every": "epoch"},
    ),
    "schedule-free": ({"optimizer": FREE}, named(FREE), {}),
    "Prodigy": ({"optimizer": prodigyopt.Prodigy}, named(prodigyopt.Prodigy), {}),
    "Muon": ({"optimizer": muon}, muon, {}),
    "a Lion of one's own": ({"optimizer": Lion}, named(Lion), {}),
}


@pytest.mark.parametrize("habit", AROUND)
def test_a_habit_around_the_optimizer_is_the_plain_loop(habit: str) -> None:
    settings, make, how = AROUND[habit]
    one = task(**{"optimizer": optim.AdamW, "dtype": torch.float64, **settings})
    trained = Trained(one, CONFIGS[:2], steps=STEPS)
    worst = off(one, make, trained, steps=STEPS, **how)
    assert worst < (0.02 if habit == "Muon" else 1e-8), "Muon rounds to bfloat16 within"
    bare = task(optimizer=settings.get("optimizer", optim.AdamW), dtype=torch.float64)
    if one.clip_norm or one.clip_value or one.accumulate > 1 or how:
        assert off(bare, make, trained, steps=STEPS) > 1e-6, "the habit must matter, or nothing is shown"
    frozen = dict(trained.models[0].named_parameters())["frozen.weight"]
    assert torch.equal(frozen, plain(one, CONFIGS[0], 0, by(optim.SGD, CONFIGS[0]), steps=0).frozen.weight)


def plain_epochs(one: lt.TorchTask, config: dict[str, Any], number: int, epochs: int) -> Iterator[nn.Module]:
    """The network after each epoch of a plain loop."""
    for epoch in range(1, epochs + 1):
        yield plain(one, config, number, by(optim.SGD, config), steps=6 * epoch)


def measured(model: nn.Module) -> float:
    return F.cross_entropy(model(X), Y).item()


def test_the_measures_of_a_whole_split_are_scikit_learns() -> None:
    """AUC, macro F1, perplexity and R² over 2,300 rows, by functions and by objects of torchmetrics."""
    wide = torch.randn(2300, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = wide.sin().sum(1).gt(0).long()
    metrics: dict[str, Any] = {
        "auc": lambda o, t: float(roc_auc_score(t, o[:, 1] - o[:, 0])),
        "f1": lambda o, t: float(f1_score(t, o.argmax(1), average="macro")),
        "perplexity": lambda o, t: F.cross_entropy(o, t).exp(),
        "r2": lambda o, t: 1 - (o[:, 0] - t).square().sum() / (t - t.double().mean()).square().sum(),
        "object f1": torchmetrics.F1Score("multiclass", num_classes=2, average="macro"),
        "object auc": torchmetrics.AUROC("multiclass", num_classes=2),
    }
    one = task(optim.AdamW, torch.float64, metrics=metrics, data=lt.Splits((X, Y), (wide, target)))
    trained = Trained(one, CONFIGS[:2], steps=STEPS)
    found = trained.program.evaluate(trained.state, "valid")
    for number, config in enumerate(CONFIGS[:2]):
        model = plain(one, config, number, by(optim.AdamW, config), steps=STEPS)
        output = model(wide).detach()
        auc, f1 = (
            roc_auc_score(target, output[:, 1] - output[:, 0]),
            f1_score(target, output.argmax(1), average="macro"),
        )
        expected = {"auc": auc, "object auc": auc, "f1": f1, "object f1": f1, "r2": r2_score(target, output[:, 0])}
        expected["perplexity"] = F.cross_entropy(output, target).exp().item()
        for name, value in expected.items():
            assert float(found[name][number]) == pytest.approx(value, rel=1e-5), name


def test_early_stopping_and_the_best_weights_are_the_plain_loops() -> None:
    """Losses of each epoch, the epoch at which patience ends it, and the weights of the best one."""
    space = lt.Space(lr=lt.Float(1e-3, 30.0, log=True))
    one = task(optim.SGD, torch.float64, space=space, patience=2, keep="best")
    study = lt.tune(one, start=[{"lr": 12.0}], trials=1, epochs=40, seed=SEED, progress=False)
    losses: list[float] = []
    best: Any = None
    for model in plain_epochs(one, {"lr": 12.0}, 0, 40):
        losses.append(measured(model))
        best = model if losses[-1] == min(losses) else best
        if len(losses) - 1 - losses.index(min(losses)) == 2:
            break
    assert 3 <= len(losses) < 40, "the case must be one that stops early"
    assert [r.metrics["loss"] for r in study.history.reports[0]] == pytest.approx(losses, rel=1e-7)
    for p, q in zip(study.model().parameters(), best.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-10)


def test_an_average_of_weights_and_bf16_are_the_plain_loops() -> None:
    averaged = task(optim.SGD, torch.float64, average=0.9)
    trained = Trained(averaged, CONFIGS[:1], steps=STEPS)
    averages: list[Any] = []

    def make(model: nn.Module) -> optim.Optimizer:
        ema = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
        averages.append(ema)
        optimizer = named(optim.SGD)(model, CONFIGS[0])
        optimizer.register_step_post_hook(lambda *_: ema.update_parameters(model))
        return optimizer

    plain(averaged, CONFIGS[0], 0, make, steps=STEPS)
    for p, q in zip(trained.models[0].parameters(), averages[0].module.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)

    rough = task(optim.SGD, torch.float32, precision="bf16", data=lt.Splits((X.float(), Y), (X.float(), Y)))
    found = Trained(rough, CONFIGS[:1], steps=STEPS).models[0].body.weight
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):  # or weights of the first step would be read
        expected = plain(rough, CONFIGS[0], 0, by(optim.SGD, CONFIGS[0]), steps=STEPS).body.weight
    precise = plain(rough, CONFIGS[0], 0, by(optim.SGD, CONFIGS[0]), steps=STEPS).body.weight
    # products of a stack are rounded at other places than F.linear's: as far from float32, and nearer to the plain loop
    error = (expected - precise).norm()
    assert (found - expected).norm() < 0.9 * error and 0.5 * error < (found - precise).norm() < 1.5 * error


REFUSED = {
    "ReduceLROnPlateau": ({"scheduler": lambda o: lr_scheduler.ReduceLROnPlateau(o)}, "ReduceLROnPlateau follows a"),
    "LBFGS": ({"optimizer": optim.LBFGS, "space": lt.Space(lr=SPACE["lr"])}, "LBFGS evaluates the loss several times"),
}


@pytest.mark.parametrize("habit", REFUSED)
def test_a_habit_is_refused_at_the_call(habit: str) -> None:
    """By its name, with a remedy, and before any training has begun."""
    settings, text = REFUSED[habit]
    with pytest.raises(lt.errors.LuthierError, match=text) as caught:
        lt.tune(task(**{"optimizer": optim.SGD, "dtype": torch.float64, **settings}), trials=2, epochs=2)
    assert caught.value.remedy and getattr(caught.value, "study", None) is None


def noisy(workers: int = 0) -> lt.TorchTask:
    """Rows under a random transform, through a loader."""
    loader = DataLoader(Cropped(), 8, shuffle=True, num_workers=workers)
    return task(optim.AdamW, torch.float64, data=lt.Splits(loader, (X, Y)), batch_size=None, evaluate_every=1 / 3)


def test_two_workers_of_a_loader_train_as_none_and_as_the_plain_loop() -> None:
    found = [Trained(noisy(n), CONFIGS[:2], steps=STEPS) for n in (0, 2)]
    for none, two in zip(*(trained.models for trained in found), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(none.parameters(), two.parameters(), strict=True))
    assert off(noisy(), named(optim.AdamW), found[1], steps=STEPS) < 1e-8


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_training_killed_in_mid_epoch_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Measured at every other step of six: what is left is the state of the fourth."""
    assert not resumed(noisy, tmp_path, epochs=4)


@pytest.mark.slow
def test_weights_in_another_process_are_the_plain_loops(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/s.db"
    one = task(optim.AdamW, torch.float64)
    lt.tune(one, trials=2, epochs=2, seed=SEED, progress=False, store=store, name="mine")
    script = (
        "import sys, torch, luthier as lt\nfrom plain_loop import task\n"
        "study = lt.Study.load('mine', sys.argv[1])\n"
        "model = study.model(task=task(torch.optim.AdamW, torch.float64))\n"
        "torch.save((study.best.number, study.best.config, model.state_dict()), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, store, str(tmp_path / "weights.pt")]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths})
    number, config, weights = torch.load(tmp_path / "weights.pt")
    expected = plain(one, config, number, by(optim.AdamW, config), steps=12)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-9, atol=1e-12)


def test_the_list_is_whole() -> None:
    """Forty habits and more, each run above or refused."""
    measures, stopping, around, loaders = 2, 2, 2, 3  # in tests of their own
    assert len(HABITS) + len(AROUND) + len(REFUSED) + measures + stopping + around + loaders >= 40
