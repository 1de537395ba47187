"""What people put around a training: best weights, patience, metrics of all outputs, bf16, the model's own loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from plain_loop import CONFIGS, SPACE, Net, Trained, X, Y, plain, task
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier as lt
from luthier.adapt.differentiable import coupled_decay

DIGITS = lt.data.digits(flat=True, train=96, valid=64)


def small(**settings: Any) -> lt.TorchTask:
    """A network that learns at a rate of 0.3, and then gets worse on the validation split."""
    given: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(1e-3, 1.0, log=True)),
        "model": lambda config: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        "data": DIGITS,
        "loss": F.cross_entropy,
        "optimizer": optim.AdamW,
        "batch_size": 16,
    }
    return lt.TorchTask(**{**given, **settings})


def tuned(given: lt.TorchTask, **settings: Any) -> lt.Study:
    usual = {"start": [{"lr": 0.05}], "trials": 1, "epochs": 8, "seed": 1, "progress": False}
    return lt.tune(given, **{**usual, **settings})


def loss_of(model: nn.Module) -> float:
    return F.cross_entropy(model(DIGITS.valid.inputs), DIGITS.valid.targets).item()


@pytest.mark.parametrize("average", [None, 0.6])
def test_the_best_weights_are_kept_beside_the_last(average: float | None) -> None:
    study = tuned(small(keep="best", average=average, optimizer=optim.SGD, batch_size=8), start=[{"lr": 0.9}])
    measured = [report.metrics["loss"] for report in study.history.reports[0]]
    assert min(measured) < measured[-1], "the case must be one in which the last epoch is not the best"
    assert loss_of(study.model()) == pytest.approx(min(measured), rel=1e-5)
    assert loss_of(study.model(last=True)) == pytest.approx(measured[-1], rel=1e-5)


def test_a_training_without_improvement_ends_and_is_ok() -> None:
    study = tuned(small(patience=2, keep="best"), epochs=60)
    (trial,) = study.trials
    measured = [report.metrics["loss"] for report in study.history.reports[0]]
    best = measured.index(min(measured))
    assert trial.status == "ok" and len(measured) == best + 1 + 2 < 60
    assert trial.steps == len(measured) * (96 // 16)
    assert loss_of(study.model()) == pytest.approx(min(measured), rel=1e-5)


def test_a_metric_may_be_an_object_or_any_function_of_all_outputs() -> None:
    def auc(output: Tensor, target: Tensor) -> float:
        return float(roc_auc_score(target, output.softmax(1).detach(), multi_class="ovr"))

    f1 = torchmetrics.F1Score("multiclass", num_classes=10, average="macro")
    study = tuned(small(metrics={"f1": f1, "auc": auc}), trials=3, metric="f1", mode="max")
    output = study.model()(DIGITS.valid.inputs).detach()
    assert study.best is not None
    found = study.best.metrics
    assert found["f1"] == pytest.approx(f1_score(DIGITS.valid.targets, output.argmax(1), average="macro"), abs=1e-6)
    assert found["auc"] == pytest.approx(auc(output, DIGITS.valid.targets), abs=1e-6)


def test_the_models_own_loss_and_targets_in_the_batch() -> None:
    """A dict batch as Hugging Face has it: the model takes all of it, and returns its loss."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, pixels: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
            logits = self.layer(pixels)
            return {"logits": logits} if labels is None else {"logits": logits, "loss": F.cross_entropy(logits, labels)}

    def part(split: lt.Split) -> lt.Split:
        return lt.Split({"pixels": split.inputs, "labels": split.targets})

    def accuracy(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return output["logits"].argmax(1).eq(batch["labels"]).float().mean()

    data, model = lt.Splits(part(DIGITS.train), part(DIGITS.valid)), lambda config: Own()
    own = tuned(small(model=model, data=data, loss=None, metrics={"accuracy": accuracy}))
    usual = tuned(small(model=lambda config: Own(), loss=lambda out, y: F.cross_entropy(out["logits"], y)))
    assert own.best is not None and usual.best is not None
    assert own.best.metrics["loss"] == pytest.approx(usual.best.metrics["loss"], rel=1e-5)
    assert own.best.metrics["accuracy"] > 0.5
    with pytest.raises(lt.errors.LuthierError, match="without a loss"):
        tuned(small(loss=None))


def test_bf16_is_autocast() -> None:
    """The same training under torch.autocast, written out; and not the one without."""
    one = task(optim.AdamW, torch.float32, precision="bf16", data=lt.Splits((X.float(), Y), (X.float(), Y)))
    trained = Trained(one, CONFIGS[:1], steps=12)
    for precise in (True, False):
        torch.manual_seed(lt.seeds.Seeds(4).key(0, "train"))
        model = one.model({})
        optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], **CONFIGS[0])
        sources = one.sources({})
        at = sources["train"].stream(8, lt.seeds.Seeds(4), "shuffle train")
        for step in range(12):
            inputs, targets = at(step)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precise):
                F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
        distance = (trained.models[0].body.weight - model.body.weight).abs().max().item()  # type: ignore[union-attr]
        assert (distance < 2e-3) if precise else (distance > 0)


@pytest.mark.slow
def test_weights_come_back_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import luthier as lt, torch\nfrom torch import nn, optim\n"
        "digits = lt.data.digits(flat=True, train=96, valid=64)\n"
        "def model(config):\n    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))\n"
        "    net[0].requires_grad_(False)\n    return net\n"
        "task = lt.TorchTask(space=lt.Space(lr=lt.Float(1e-3, 0.1, log=True)), model=model, data=digits,\n"
        "    loss=lt.losses.cross_entropy, optimizer=optim.AdamW, keep='best')\n"
        "study = lt.tune(task, trials=2, epochs=2, seed=1, progress=False, store='s.db', name='mine')\n"
        "net = study.model()\n"
        "print(type(net[0]).__name__, net[0].weight.requires_grad, net[2].weight.double().sum().item())\n"
    )
    first, second = (
        subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second and first.startswith("Linear False")


HYPER = lt.Space(lr=lt.Float(1e-4, 1.0, log=True), weight_decay=lt.Float(1e-4, 1.0, log=True))


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.NAdam, optim.Adagrad])
def test_the_hypergradient_over_a_stock_optimizer_is_the_finite_difference(kind: Any) -> None:
    """Of the next minibatch's objective, one step ahead, by the rate of the step before, in float64."""
    space = lt.Space(lr=lt.Float(1e-4, 1.0, log=True))
    one = lt.TorchTask(
        space=space, model=lambda c: Net(), data=lt.Splits((X, Y), (X, Y)), loss=F.cross_entropy, optimizer=kind,
        batch_size=8, dtype=torch.float64,
    )  # fmt: skip
    adapter, config = lt.adapt.Hypergradient(1e-12), {"lr": 0.01}
    program = one.program(config)
    at = program.sources["train"].stream(8, lt.seeds.Seeds(0), "shuffle train")
    state = adapter.init(program, config, 5)
    for step in range(3):
        before, (state, _) = state, adapter.step(program, state, [at(step)], None)
    _, found = adapter.step(program, state, [at(3)], None)

    def objective(lr: float) -> float:
        hyper = {"lr": torch.tensor([lr], dtype=torch.float64)}
        _, gradients, buffers = program.gradient(before, hyper, at(2))
        after = program.apply(before, hyper, gradients, buffers)
        noise = lt.stack.Noise(state["key"], state["t"])
        losses, _ = program.losses(after["params"], after["buffers"], hyper, at(3), noise)
        return losses.item()

    h, rate = 1e-6, float(before["hyper"]["lr"])
    difference = (objective(rate + h) - objective(rate - h)) / (2 * h)
    assert found["hypergradient"].item() == pytest.approx(difference, rel=1e-4)


def test_adapters_over_stock_optimizers_move_what_they_can_and_say_what_they_cannot() -> None:
    given = {"model": lambda c: Net(), "data": lt.Splits((X, Y), (X, Y)), "loss": F.cross_entropy, "batch_size": 8}
    run = {"trials": 2, "epochs": 3, "progress": False, "seed": 0}
    for kind, method in ((optim.SGD, "bilevel"), (optim.Adam, "hypernet"), (optim.AdamW, "pbt")):
        study = lt.tune(lt.TorchTask(space=HYPER, optimizer=kind, **given), method, **run)
        assert {trial.status for trial in study.trials} == {"ok"}
    for kind, method, text in (
        (optim.AdamW, "bilevel", "none of the hyperparameters can be moved"),
        (optim.Adafactor, "hypergradient", "is not proportional to lr"),
        (optim.SGD, lt.adapt.Bilevel("unrolled"), "cannot be gone back through"),
    ):
        with pytest.raises(lt.errors.LuthierError, match=text):
            lt.tune(lt.TorchTask(space=HYPER, optimizer=kind, **given), method, **run)


def test_the_penalty_of_a_stock_optimizer_has_the_gradient_of_its_decay() -> None:
    """By groups: the step of SGD at rate 1 is the gradient of the loss and of ½ Σ decay ‖w‖²."""

    def groups(model: nn.Module, config: dict[str, Any]) -> optim.Optimizer:
        body, head = model.get_submodule("body"), model.get_submodule("head")
        return optim.SGD([{"params": body.parameters(), "weight_decay": 0.0}, {"params": head.parameters()}], **config)

    one = lt.TorchTask(
        space=HYPER, model=lambda c: Net(), data=lt.Splits((X, Y), (X, Y)), loss=F.cross_entropy, optimizer=groups,
        batch_size=48, dtype=torch.float64,
    )  # fmt: skip
    config = {"lr": 0.5, "weight_decay": 0.3}
    program = one.program(config)
    state = program.init(config, 1)
    batch = program.sources.example(rows=48)
    _, gradients, buffers = program.gradient(state, state["hyper"], batch)
    after = program.apply(state, state["hyper"], gradients, buffers)["params"]
    decay = coupled_decay(program.optimizer, state["params"], state["hyper"])
    assert decay is not None and set(decay) == {"head.weight"}
    for name, param in state["params"].items():
        expected = param - 0.5 * (gradients.get(name, 0) + (decay[name] if name in decay else 0) * param)
        torch.testing.assert_close(after[name], expected if name != "unused" else param)


def test_a_plain_loop_is_this_loop() -> None:
    """The reference that these tests compare with: without an optimizer's step it is the network as made."""
    one = task(optim.SGD, torch.float64, space=SPACE)
    assert torch.equal(plain(one, {}, 0, lambda m: optim.SGD(m.parameters(), lr=0.0)).unused, torch.ones(3, 2).double())
