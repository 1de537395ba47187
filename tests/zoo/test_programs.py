"""Training programs of kinds that the habits do not have: each equals the plain loop, or is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from plain_loop import SEED, Trained
from torch import Tensor, nn, optim
from torch.distributions import Categorical, Independent, Normal
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import luthier as lt
from luthier.seeds import Seeds

STEPS = 8
CONFIGS = [{"lr": 0.02}, {"lr": 0.05}]
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, 8, generator=GENERATOR, dtype=torch.float64)
Y = X.sum(1).gt(0).long()
WIDE = torch.randn(1100, 8, generator=GENERATOR, dtype=torch.float64)  # measured in two parts
KINDS = WIDE.sum(1).gt(0).long()


class Heads(nn.Module):
    """A layer whose output comes in a form, beside weights of two losses."""

    def __init__(self, form: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(8, 2), form
        self.by_name, self.by_place = nn.ParameterDict({"a": nn.Parameter(torch.zeros(()))}), nn.ParameterList()
        self.by_place.append(nn.Parameter(torch.zeros(())))

    def forward(self, x: Tensor) -> Any:
        return self.form(self, self.layer(x))


class Held:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.temperature = logits, 1.5


def uncertain(output: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    return F.cross_entropy(output, target) * (-log_variance).exp() + log_variance


FORMS: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[Any, Tensor], Tensor]]] = {
    "an object": (lambda net, o: Held(o), lambda o, t: F.cross_entropy(o.logits / o.temperature, t)),
    "a namespace": (lambda net, o: SimpleNamespace(logits=o), lambda o, t: F.cross_entropy(o.logits, t)),
    "a normal distribution": (
        lambda net, o: Normal(o[:, 0], o[:, 1].exp()),
        lambda o, t: -o.log_prob(t.double()).mean(),
    ),
    "a categorical one": (
        lambda net, o: Categorical(logits=o),
        lambda o, t: -o.log_prob(t).mean() - 0.01 * o.entropy().mean(),
    ),
    "an independent one": (
        lambda net, o: Independent(Normal(o, 1 + o.square()), 1),
        lambda o, t: -o.log_prob(torch.stack([t, t], 1).double()).mean(),
    ),
    "a dict of parameters": (lambda net, o: (o, net.by_name), lambda o, t: uncertain(o[0], t, o[1]["a"])),
    "a list of parameters": (lambda net, o: (o, net.by_place), lambda o, t: uncertain(o[0], t, o[1][0])),
}


def task(make: Callable[[], nn.Module], loss: Any, data: Any, **settings: Any) -> lt.TorchTask:
    given: dict[str, Any] = {"optimizer": optim.SGD, "batch_size": 8, "dtype": torch.float64, **settings}
    space = lt.Space(lr=lt.Float(1e-3, 1e-1, log=True))
    return lt.TorchTask(space=space, loss=loss, data=data, **{"model": lambda config: make(), **given})


def check(one: lt.TorchTask, called: Callable[[nn.Module, Any], Any], measured: Callable[[nn.Module], Tensor]) -> None:
    """Compare weights and validation losses with those of plain loops over the same minibatches."""
    trained = Trained(one, CONFIGS, STEPS)
    for number, config in enumerate(CONFIGS):
        torch.manual_seed(Seeds(SEED).key(number, "train"))
        model = one.model(config).double()
        optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], **config)
        sources = one.sources(config)
        at = sources["train"].stream(sources.size("train"), Seeds(SEED), "shuffle train")
        for step in range(STEPS):
            optimizer.zero_grad()
            inputs, targets = at(step)
            one.loss(called(model, inputs), targets).backward()
            optimizer.step()
        found = dict(trained.models[number].named_parameters())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name].detach(), parameter.detach(), rtol=1e-8, atol=1e-11)
        assert trained.loss[number] == pytest.approx(float(measured(trained.models[number]).detach()), rel=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_an_output_of_any_form_is_measured_as_it_is(form: str) -> None:
    make, loss = FORMS[form]
    one = task(lambda: Heads(make), loss, lt.Splits((X, Y), (WIDE, KINDS)))
    check(one, lambda model, x: model(x), lambda model: loss(model(WIDE), KINDS))


def test_a_number_that_leaves_torch_is_each_members_own() -> None:
    one = task(
        lambda: Heads(lambda net, o: {"o": o, "mean": o.mean().item()}),
        lambda o, t: F.cross_entropy(o["o"], t),
        lt.Splits((X, Y), (X, Y)),
        metrics={"mean": lambda o, t: o["mean"]},
    )
    trained = Trained(one, CONFIGS, STEPS)
    means = trained.program.evaluate(trained.state, "valid")["mean"].tolist()
    assert means == pytest.approx([model(X)["mean"] for model in trained.models]) and means[0] != means[1]


class Graphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        h = self.first(x)
        h = torch.relu(h + torch.zeros_like(h).index_add(0, edge_index[1], h[edge_index[0]]))
        graphs = int(batch.max()) + 1
        return self.second(h.new_zeros(graphs, 6).index_add(0, batch, h) / torch.bincount(batch).unsqueeze(1))


def joined(rows: list[tuple[Tensor, Tensor, int]]) -> Any:
    """Graphs of several sizes as one, as PyTorch Geometric has them."""
    offsets = torch.tensor([0, *(len(x) for x, _, _ in rows)]).cumsum(0)
    edges = torch.cat([edge + offset for (_, edge, _), offset in zip(rows, offsets, strict=False)], 1)
    of = torch.cat([torch.full((len(x),), i) for i, (x, _, _) in enumerate(rows)])
    return {"x": torch.cat([x for x, _, _ in rows]), "edge_index": edges, "batch": of}, torch.tensor(
        [y for *_, y in rows]
    )


def test_graphs_by_edge_indices_are_the_plain_loop() -> None:
    graphs = []
    for i in range(48):
        nodes = 3 + i % 5
        edges = torch.randint(0, nodes, (2, 2 * nodes), generator=GENERATOR)
        graphs.append((torch.randn(nodes, 4, generator=GENERATOR, dtype=torch.float64), edges, i % 2))
    loader = DataLoader(graphs, 8, shuffle=True, collate_fn=joined)  # type: ignore[arg-type]
    one = task(Graphs, F.cross_entropy, lt.Splits(loader, loader), batch_size=None)
    inputs, targets = joined(graphs)
    check(one, lambda model, x: model(**x), lambda model: F.cross_entropy(model(**inputs), targets))


def penalised(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        output = model(x)
        return output, torch.autograd.grad(output.sum(), x, create_graph=True)[0]


def test_a_gradient_penalty_is_the_plain_loop() -> None:
    def loss(o: Any, t: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(o[0][:, 0], t.double()) + 10 * (o[1].norm(dim=1) - 1).square().mean()

    net = lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))  # noqa: E731
    one = task(net, loss, lt.Splits((X, Y), (X, Y)), forward=penalised)
    check(one, penalised, lambda model: loss(penalised(model, X), Y))


class Physical(nn.Module):
    """A network beside its derivative by its input, as physics-informed ones are written."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        output = self.layers(x)
        return output, torch.autograd.grad(output, x, torch.ones_like(output), create_graph=True)[0]


def test_a_network_that_differentiates_itself_is_the_plain_loop() -> None:
    def loss(o: Any, t: Tensor) -> Tensor:
        return F.mse_loss(o[0][:, 0], t.double()) + 0.1 * o[1].square().sum(1).mean()

    one = task(Physical, loss, lt.Splits((X, Y), (X, Y)))
    check(one, lambda model, x: model(x), lambda model: loss(model(X), Y))


def test_a_loss_that_differentiates_outputs_by_inputs_is_the_plain_loop() -> None:
    def forward(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        return model(x), x

    def loss(o: Any, t: Tensor) -> Tensor:
        slope = torch.autograd.grad(o[0].sum(), o[1], create_graph=True)[0]
        return F.mse_loss(o[0][:, 0], t.double()) + 0.1 * slope.square().sum(1).mean()

    net = lambda: nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1))  # noqa: E731
    one = task(net, loss, lt.Splits((X, Y), (X, Y)), forward=forward)
    check(one, forward, lambda model: loss(forward(model, X), Y))


def test_distillation_from_a_frozen_teacher_is_the_plain_loop() -> None:
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Linear(8, 12), nn.Dropout(0.5), nn.Linear(12, 2)).double().requires_grad_(False).eval()

    class Distilled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = nn.Linear(8, 2), copy.deepcopy(teacher)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.student(x), self.teacher.eval()(x)

    def loss(o: Any, t: Tensor) -> Tensor:
        soft = F.kl_div(F.log_softmax(o[0] / 2, 1), F.softmax(o[1] / 2, 1), reduction="batchmean")
        return 4 * soft + F.cross_entropy(o[0], t)

    data = lt.Splits((X, Y), (X, Y))
    check(task(Distilled, loss, data), lambda model, x: model(x), lambda model: loss(model(X), Y))
    outside = lambda model, x: (model(x), teacher(x))  # noqa: E731
    one = task(lambda: nn.Linear(8, 2), loss, data, forward=outside)
    check(one, outside, lambda model: loss(outside(model, X), Y))


class Taught(nn.Module):
    """A pupil and a teacher that follows it, moved where it is read, in place or by new data."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.pupil, self.in_place = nn.Linear(8, 2), in_place
        self.teacher = copy.deepcopy(self.pupil).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for own, other in zip(self.teacher.parameters(), self.pupil.parameters(), strict=True):
            if self.training and self.in_place:
                with torch.no_grad():
                    own.mul_(0.9).add_(other, alpha=0.1)
            elif self.training:
                own.data = own.data * 0.9 + other.data * 0.1
        return self.pupil(x), self.teacher(0.9 * x)


class Bounded(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.3)
        return super().forward(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_a_teacher_that_follows_its_pupil_is_the_plain_loop(in_place: bool) -> None:
    def loss(o: Any, t: Tensor) -> Tensor:
        return F.cross_entropy(o[0], t) + 10 * F.mse_loss(o[0], o[1])

    one = task(lambda: Taught(in_place), loss, lt.Splits((X, Y), (X, Y)))
    check(one, lambda model, x: model(x), lambda model: loss(model(X), Y))


class Views(Dataset):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> Any:
        return (X[i] + 0.1 * torch.randn(8, dtype=torch.float64), X[i] * (torch.rand(8) > 0.2)), int(Y[i])


def test_a_contrastive_loss_over_two_views_is_the_plain_loop() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return F.normalize(self.net(a), dim=1), F.normalize(self.net(b), dim=1)

    def loss(o: tuple[Tensor, Tensor], t: Tensor) -> Tensor:
        z, n = torch.cat(o), len(o[0])
        near = (z @ z.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        return F.cross_entropy(near, torch.arange(2 * n).roll(n))

    still = lt.Split((X, 0.9 * X), Y)
    one = task(Twins, loss, lt.Splits(Views(), still))
    check(one, lambda model, x: model(*x), lambda model: loss(model(X, 0.9 * X), Y))


def players(model: nn.Module, config: Any) -> Any:
    return [optim.Adam(part.parameters(), lr=config["lr"]) for part in model.children()]


class Closure(optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is not None, "it asks for the loss twice"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two optimizers": ({"optimizer": players}, "it gave list.*players with losses of their own"),
    "a closure": ({"optimizer": Closure}, "Closure cannot make a step: AssertionError: it asks for the loss twice"),
    "trained weights changed in forward": (
        {"model": lambda config: nn.Sequential(Bounded(8, 4), nn.Linear(4, 2))},
        "model, 0.weight: forward writes into it",
    ),
    "a module in the output": (
        {"forward": lambda model, x: (model(x), model)},
        "the output holds a module, Sequential",
    ),
}


@pytest.mark.parametrize("program", REFUSED)
def test_a_program_is_refused_at_the_call(program: str) -> None:
    settings, text = REFUSED[program]
    model = lambda: nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))  # noqa: E731
    loss = lambda o, t: F.cross_entropy(o[0] if isinstance(o, tuple) else o, t)  # noqa: E731
    one = task(model, loss, lt.Splits((X, Y), (X, Y)), **settings)
    with pytest.raises(lt.errors.TaskError, match=text) as caught:
        lt.tune(one, trials=2, epochs=1, progress=False)
    assert caught.value.remedy and getattr(caught.value, "study", None) is None
