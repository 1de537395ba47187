"""Numbers that were silently wrong once, each against a plain torch loop over the same weights and batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.stack.run import stack_width
from luthier.stack.trace import trace
from luthier.task.program import Program
from luthier.train import stack as train_stack

ROWS, STEPS = 96, 6
DIGITS = lt.data.digits(flat=True)
DATA = lt.Splits(DIGITS.train.subset(ROWS), DIGITS.valid.subset(60))
INPUTS, TARGETS = DATA.train.inputs, DATA.train.targets


def seeded(make: Callable[[], nn.Module]) -> Callable[[Any], nn.Module]:
    def model(config: Any) -> nn.Module:
        torch.manual_seed(0)
        return make()

    return model


def tuned(make: Callable[[], nn.Module], loss: Any = F.cross_entropy, *, width: int = 3, **settings: Any) -> Any:
    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(0.03, 0.1)),
        **{"model": seeded(make), "data": DATA, "loss": loss, "batch_size": ROWS, **settings},
    )
    executor = lt.execute.Local(width=width)
    return lt.tune(task, "random", trials=3, steps=STEPS, seed=0, progress=False, executor=executor)


def plain(
    make: Callable[[], nn.Module],
    lr: float,
    loss: Any = F.cross_entropy,
    optimizer: Any = torch.optim.SGD,
    **settings: Any,
) -> tuple[nn.Module, float]:
    model = seeded(make)({})
    own = list(loss.parameters()) if isinstance(loss, nn.Module) else []
    step = optimizer([*(p for p in model.parameters() if p.requires_grad), *own], lr=lr, **settings)
    for _ in range(STEPS):
        step.zero_grad()
        loss(model(INPUTS), TARGETS).backward()
        step.step()
    model.eval()
    with torch.no_grad():
        return model, float(loss(model(DATA.valid.inputs), DATA.valid.targets))


class Frozen(nn.Module):
    """A frozen layer, a parameter that nothing uses, and one that the values decide on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 16), nn.Linear(16, 10)
        self.a.weight.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Branching(Frozen):
    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Parameter(torch.ones(10))

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        return output * self.side if output.std() > self.level else output

    level = 0.34  # between the deviations that members of unequal rates come to


class Recomputed(nn.Module):
    """A part whose batch norm is moved once more where it is computed anew."""

    def __init__(self, reentrant: bool | None, rate: float = 0.0, momentum: float = 0.1, parts: int = 1) -> None:
        super().__init__()
        self.reentrant, self.parts = reentrant, parts
        self.a, self.b = nn.Linear(64, 16), nn.Linear(16, 10)
        self.part = nn.Sequential(nn.Dropout(rate), nn.BatchNorm1d(16, momentum=momentum), nn.ReLU(), nn.Linear(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.reentrant is None:
            return self.b(self.part(x))
        for _ in range(self.parts):
            x = checkpoint(self.part, x, use_reentrant=self.reentrant)
        return self.b(x)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(33, dtype=torch.cfloat))
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=64))


class Learnt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.exp(-self.s) * F.cross_entropy(output, target) + self.s


@pytest.mark.parametrize(
    ("make", "name"),
    [(Frozen, "SGD"), (Frozen, "Adam"), (Branching, "SGD"), (Branching, "Adam"), (Complex, "SGD"), (Complex, "Adam")],
)
def test_parameters_that_get_no_gradient_stay_and_all_others_train_as_in_torch(make, name):
    ours, theirs = getattr(lt.optim, name)(weight_decay=0.1), getattr(torch.optim, name)
    study = tuned(make, optimizer=ours)
    start = dict(seeded(make)({}).named_parameters())
    for trial in study.trials:
        model, loss = plain(make, trial.config["lr"], optimizer=theirs, weight_decay=0.1)
        assert trial.metrics["loss"] == pytest.approx(loss, rel=1e-4)
        if trial.number != study.best.number:
            continue
        for (key, found), expected in zip(study.model().named_parameters(), model.parameters(), strict=True):
            assert found.dtype == expected.dtype and torch.allclose(found, expected, atol=1e-5), key
            if key in ("a.weight", "unused"):
                assert torch.equal(found, start[key])


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # in evaluation
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_buffers_under_a_checkpoint_are_moved_twice_as_in_torch(reentrant, width, parts):
    study = tuned(lambda: Recomputed(reentrant, parts=parts), optimizer=lt.optim.SGD(), width=width)
    for trial in study.trials:
        model, loss = plain(lambda: Recomputed(reentrant, parts=parts), trial.config["lr"])
        assert trial.metrics["loss"] == pytest.approx(loss, rel=1e-5)
        if trial.number == study.best.number:
            found = dict(study.model().named_buffers())
            for key, expected in model.named_buffers():
                assert torch.allclose(found[key], expected, rtol=1e-4, atol=1e-6), key


@pytest.mark.parametrize("width", [1, 3])
def test_a_part_that_is_computed_anew_draws_the_same(width, monkeypatch):
    monkeypatch.setattr(f"{__name__}.STEPS", 1)
    # all of a running mean is of the last time that it was computed
    straight, anew = (tuned(lambda r=r: Recomputed(r, 0.5, 1.0), width=width).model() for r in (None, False))
    assert torch.equal(anew.part[1].running_mean, straight.part[1].running_mean)
    assert anew.part[1].num_batches_tracked == 2 * straight.part[1].num_batches_tracked == 2


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("optimizer", [lt.optim.SGD(weight_decay=0.5), lt.optim.Adam(), torch.optim.AdamW])
def test_members_of_a_stack_that_take_other_branches_keep_what_each_leaves_out(optimizer, clip, monkeypatch):
    monkeypatch.setattr(train_stack, "stack_width", lambda program, adapter, state, members: members)
    reached = []
    in_turn = Program._gradient_in_turn
    monkeypatch.setattr(Program, "_gradient_in_turn", lambda *args: reached.append(in_turn(*args)) or reached[-1])
    alone, both = (tuned(Branching, width=width, optimizer=optimizer, clip_norm=clip) for width in (1, 3))
    assert "loop" in both.execution
    assert any("side" in gradients.reached for _, gradients, _ in reached), "no step has members of both branches"
    assert [trial.metrics for trial in alone.trials] == [trial.metrics for trial in both.trials]
    for a, b in zip(alone.model().parameters(), both.model().parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_trains_its_own_parameters_and_counts_them_in_evaluation():
    for trial in tuned(lambda: nn.Linear(64, 10), Learnt()).trials:
        _, loss = plain(lambda: nn.Linear(64, 10), trial.config["lr"], Learnt())
        assert trial.metrics["loss"] == pytest.approx(loss, rel=1e-5)


def test_evaluation_writes_nothing_into_the_buffers_of_a_loss():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, output, target):
            value = F.cross_entropy(output, target) * (1 + 0.01 * self.seen)
            self.seen += 1
            return value

    often, once = (tuned(lambda: nn.Linear(64, 10), Counting(), evaluate_every=every) for every in (1, STEPS))
    assert [trial.metrics["loss"] for trial in often.trials] == [trial.metrics["loss"] for trial in once.trials]


def test_measures_are_those_of_the_whole_split():
    split = lt.data.Split(DIGITS.train.inputs, DIGITS.train.targets.clone())
    split.targets[: len(split) // 3] = -100
    score = lambda o, t: roc_auc_score((t[t >= 0] == 1).numpy(), o[t >= 0, 1].numpy())  # noqa: E731
    data = lt.Splits(DATA.train, split)
    mean = lt.losses.Mean(lambda output, target: (output.argmax(1) == target).float().mean())
    study = tuned(lambda: nn.Linear(64, 10), data=data, metrics={"auc": score, "share": mean})
    with torch.no_grad():
        output = study.model()(split.inputs)
    found = study.trials[study.best.number].metrics
    assert found["loss"] == pytest.approx(float(F.cross_entropy(output, split.targets)), rel=1e-5)
    assert found["auc"] == pytest.approx(score(output, split.targets), abs=1e-4)
    assert found["share"] == pytest.approx(float((output.argmax(1) == split.targets).float().mean()))


@pytest.mark.parametrize(
    "leaves",
    [
        lambda x: torch.from_numpy(np.array(x.detach().numpy())).mean(),
        lambda x: sum(x.flatten().tolist()) / x.numel(),
        lambda x: x[x > 0].mean(),
        lambda x: x.mean() if x.mean() > 0 else -x.mean(),
        lambda x: x.mean() * float(x.max()),
    ],
    ids=["numpy", "tolist", "mask", "branch", "item"],
)
def test_a_trace_refuses_what_leaves_torch(leaves):
    def step(state, batches, valid):
        return {"w": state["w"] + leaves(batches[0][0])}, {"train_loss": state["w"]}

    batches = [[(torch.randn(5, 3),)] for _ in range(3)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graph = trace(step, {"w": torch.zeros(1)}, batches[0], None, others=[(b, None) for b in batches[1:]])
    assert graph is None and any("runs eagerly" in str(one.message) for one in said)


def test_the_width_of_a_stack_follows_from_sizes():
    def of(hidden: int, members: int) -> int:
        space = lt.Space(lr=lt.Float(0.01, 0.1))
        make = lambda config: nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))  # noqa: E731
        task = lt.TorchTask(space=space, model=make, data=DATA, loss=lt.losses.cross_entropy)
        program = task.program({"lr": 0.1})
        return stack_width(program, Plain(), program.init({"lr": 0.1}, 0), members)

    assert of(4, 200) == 200 and of(4, 300) == 256
    assert of(1000, 300) == 8 and of(30_000, 300) == 1 and of(30_000, 1) == 1


def test_what_a_stack_cannot_carry_is_refused_at_the_call():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.calls = nn.Linear(64, 10), 0

        def forward(self, x):
            self.calls += 1  # an annealing that begins at the seventh call changes no result of the first
            return self.layer(x) * (1.0 if self.calls < 7 else 0.5)

    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.rows = nn.Linear(64, 10), 0

        def forward(self, x):
            self.rows = len(x)  # kept, and the same each time
            return self.layer(x)

    class Loss:
        calls = 0

        def __call__(self, output, target):
            self.calls += 1
            return F.cross_entropy(output, target) * (1.0 if self.calls < 700 else 0.5)

    def hooked():
        model = nn.Linear(64, 10)
        model.weight.register_hook(lambda gradient: gradient * 0)
        return model

    def accumulating():
        model = nn.Linear(64, 10)
        model.bias.register_post_accumulate_grad_hook(lambda parameter: None)
        return model

    learnt = Learnt()
    learnt.s.register_hook(lambda gradient: gradient * 0)

    class Decaying(torch.optim.lr_scheduler.LambdaLR):
        def step(self, *args):
            super().step(*args)
            self.optimizer.param_groups[0]["weight_decay"] = 0.5

    def decaying(optimizer):
        return Decaying(optimizer, lambda step: 1.0)

    for wrong, make, more in (
        ("changes the attribute 'model.calls'", Counting, {}),
        ("changes the attribute 'loss.calls'", lambda: nn.Linear(64, 10), {"loss": Loss()}),
        ("model, weight: a hook on its gradient", hooked, {}),
        ("model, bias: a hook on its gradient", accumulating, {}),
        ("loss, s: a hook on its gradient", lambda: nn.Linear(64, 10), {"loss": learnt}),
        ("changes weight_decay of group 0", lambda: nn.Linear(64, 10), {"scheduler": decaying}),
    ):
        with pytest.raises(lt.errors.TaskError, match=wrong):
            task = {"loss": lt.losses.cross_entropy, "optimizer": torch.optim.SGD, **more}
            lt.tune(
                lt.TorchTask(space=lt.Space(lr=lt.Float(0.1, 0.2)), model=lambda config: make(), data=DATA, **task),  # noqa: B023
                trials=1,
                steps=3,
                progress=False,
            )
    assert tuned(Sized).best is not None
