"""The adapter Hypernet: its structures, its hypergradient against the exact one, closed forms, and through tune()."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import digits_task
from torch import Tensor, nn

import luthier as lt
from luthier.adapt import draws, structures, unconstrained
from luthier.adapt.gate import Gate
from luthier.adapt.hypernet import Hypernet
from luthier.adapt.hypernet_descent import descend, drawn
from luthier.adapt.hypernet_moves import move
from luthier.adapt.hypernetwork import domains_of, place_of
from luthier.adapt.plain import Plain
from luthier.errors import ConfigError, MethodError
from luthier.seeds import Seeds
from luthier.stack import Noise
from luthier.task.batches import Batches

COUNT = 3
SHAPES = {"0.weight": (4, 2, 3), "0.bias": (4,), "scale": ()}


# --- structures


def made(name: str, members: int = 2, samples: int = 4) -> tuple[Any, Any, Any, Any]:
    """The structure, weights and a response that is not flat, float64, and places to look at."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = {key: draw(members, *shape) for key, shape in SHAPES.items()}
    structure = structures.STRUCTURES[name]
    one = {key: param[:1] for key, param in params.items()}
    noise = Noise(torch.tensor([7]), torch.tensor([0]))
    fresh = structure.init(one, COUNT, noise, 2, 5)
    x = draw(members, samples, COUNT)
    for key, value in structure.weights(one, fresh, x[:1]).items():
        assert torch.equal(value, one[key].repeat_interleave(samples, 0)), "a fresh response is not flat"
    return structure, params, {key: draw(members, *tensor.shape[1:]) for key, tensor in fresh.items()}, x


def by_hand(name: str, params: Any, response: Any, x: Tensor, key: str) -> Tensor:
    """w(x) of one member and one x, written as the table of the module has it."""
    w, n = params[key], len(x)
    mine = {name: param for name, param in params.items() if f"gate {name}" not in response}
    if name == "gated" and f"gate {key}" in response:
        gate = torch.stack([response[f"gate {key}"][:, o] @ x for o in range(len(w))])
        return w + gate.view(-1, 1, 1) * response[f"direction {key}"]
    if name == "low_rank":
        x = response["codes"] @ x / math.sqrt(n)
    if name == "mlp":
        before = response["codes"] @ x / math.sqrt(n) + response["bends"]
        x = (before.clamp(min=0) - response["bends"].clamp(min=0)) / math.sqrt(len(before))
    first = sum(param.numel() for name, param in mine.items() if list(mine).index(name) < list(mine).index(key))
    columns = response["columns"][:, first : first + w.numel()]
    return w + sum(x[i] * columns[i].view(w.shape) for i in range(len(x)))


@pytest.mark.parametrize("name", structures.STRUCTURES)
def test_structures_are_what_their_table_says(name: str):
    structure, params, response, x = made(name)
    found = structure.weights(params, response, x)
    for k in range(2):
        own, its = ({key: tensor[k] for key, tensor in tree.items()} for tree in (params, response))
        for s in range(4):
            for key in SHAPES:
                expected = by_hand(name, own, its, x[k, s], key)
                assert torch.allclose(found[key].unflatten(0, (2, 4))[k, s], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", structures.STRUCTURES)
def test_a_structure_seen_from_another_centre_is_the_same_function(name: str):
    structure, params, response, x = made(name)
    step = x[:, 0] * 0.7
    there = structure.weights(params, response, step.unsqueeze(1))
    after = structure.weights(there, structure.moved(response, step), x)
    for key, expected in structure.weights(params, response, x + step.unsqueeze(1)).items():
        assert torch.allclose(after[key], expected, rtol=0, atol=1e-12)


def test_auto_chooses_by_size():
    small, large = {"w": torch.zeros(1, 10, 784)}, {"w": torch.zeros(1, 1000, 1000)}
    assert structures.choose(small, 10, everywhere=False) == "linear"
    assert structures.choose(large, 10, everywhere=False) == "gated"
    assert structures.choose(small, 1, everywhere=True) == "mlp"
    for everywhere in (False, True):
        with pytest.raises(MethodError, match="Bilevel"):
            structures.choose(small, 500, everywhere=everywhere)
        with pytest.raises(MethodError, match="Bilevel"):
            structures.choose(small, 7840, everywhere=everywhere)


# --- against the exact response


def ridge(count: int = 4, rows: int = 30, low: float = 1e-3, **settings: Any) -> lt.TorchTask:
    """Linear regression with one log penalty a weight, small enough for closed forms."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(count, 1, generator=generator, dtype=torch.float64)

    def drawn(noise: float) -> lt.Split:
        x = torch.randn(rows, count, generator=generator, dtype=torch.float64)
        return lt.Split(x, x @ truth + noise * torch.randn(rows, 1, generator=generator, dtype=torch.float64))

    given: dict[str, Any] = {
        "space": lt.Space(penalty=lt.Float(low, 10.0, log=True, shape=(count,))),
        "model": lambda config: nn.Linear(count, 1, bias=False),
        "data": lt.Splits(drawn(1.0), drawn(0.1), drawn(0.1)),
        "loss": lt.losses.mean_squared_error,
        "penalty": lambda params, hyper: (hyper["penalty"] * params["weight"].square()).sum(),
        "optimizer": lt.optim.SGD(lr=0.1),
        "batch_size": rows,
        "dtype": torch.float64,
    }
    return lt.TorchTask(**{**given, **settings})


def best_weights(data: lt.Splits, log_penalty: Tensor) -> Tensor:
    """(XᵀX / n + diag(exp λ))⁻¹ Xᵀy / n."""
    x, y = data.train.inputs, data.train.targets
    return torch.linalg.solve(x.mT @ x / len(x) + log_penalty.exp().diag(), x.mT @ y / len(x)).squeeze(1)


def exact(data: lt.Splits, log_penalty: Tensor) -> tuple[Tensor, Tensor]:
    """The Jacobian of the best weights, (weights, hyperparameters), and the hypergradient of the validation loss."""
    jacobian: Any = torch.autograd.functional.jacobian(lambda log: best_weights(data, log), log_penalty)
    errors = data.valid.inputs @ best_weights(data, log_penalty) - data.valid.targets.squeeze(1)
    return jacobian, jacobian.mT @ (2 * data.valid.inputs.mT @ errors / len(errors))


def begun(task: lt.TorchTask, adapter: Any, config: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    program = task.program(config)
    train, valid = (Batches(program, split, Seeds(0)) for split in ("train", "valid"))
    return program, adapter.init(program, config, 3), train, valid


def test_with_the_exact_response_the_hypergradient_is_exact():
    task, place = ridge(), torch.tensor([0.1, 0.3, 0.05, 1.0], dtype=torch.float64).log()
    adapter = Hypernet(structure="linear", entropy=None, warmup=0, outer_lr=0.01, gate=0)
    program, state, _, valid = begun(task, adapter, {"penalty": place.exp().tolist()})
    jacobian, hypergradient = exact(task.data, place)
    state["params"]["weight"] = best_weights(task.data, place).view(1, 1, -1)
    for response in ("response", "smooth"):
        state["own"]["hypernet"][response]["columns"] = jacobian.mT.reshape(1, 4, 4)
    state["t"] += 5
    after, metrics = move(adapter, program, state, valid.at(0))
    assert metrics["hypergradient"].item() == pytest.approx(hypergradient.norm().item(), rel=1e-10)
    moved = after["own"]["hypernet"]["free"]["penalty"][0] - place
    assert torch.allclose(moved, -0.01 * hypergradient.sign(), rtol=0, atol=1e-6), "Adam's first step"
    followed = best_weights(task.data, place) + jacobian @ moved
    assert torch.allclose(after["params"]["weight"].flatten(), followed, rtol=0, atol=1e-12)


def test_a_trained_response_gives_the_exact_hypergradient():
    task, place = ridge(), torch.tensor([0.1, 0.3, 0.05, 0.5], dtype=torch.float64).log()
    adapter = Hypernet(structure="linear", scale=0.2, entropy=None, warmup=1e9)
    program, state, train, valid = begun(task, adapter, {"penalty": place.exp().tolist()})
    metrics: Any = {}
    for t in range(300):
        state, metrics = adapter.step(program, state, [train.at(5 * t + i) for i in range(5)], valid.at(t))
    _, hypergradient = exact(task.data, place)
    response = adapter.response(program, {"penalty": place.exp().tolist()}, state)
    step = 1e-4
    rows = [place + sign * step * row for row in torch.eye(4, dtype=torch.float64) for sign in (1, -1)]
    losses = torch.tensor(response.losses([{"penalty": row.exp().tolist()} for row in rows]), dtype=torch.float64)
    found = losses.view(4, 2).diff(dim=1).squeeze(1) / (-2 * step)
    assert torch.cosine_similarity(found, hypergradient, dim=0) > 0.99
    assert metrics["hypergradient"].item() == pytest.approx(found.norm().item(), rel=1e-4)
    assert found.norm().item() == pytest.approx(hypergradient.norm().item(), rel=0.15)


def test_it_finds_the_best_penalty():
    task = ridge(1, space=lt.Space(penalty=lt.Float(1e-3, 10.0, log=True)))
    adapter = Hypernet(scale=0.2, entropy=None, warmup=100, outer_lr=0.05)
    program, state, train, valid = begun(task, adapter, {"penalty": 5.0})
    for t in range(250):
        state, _ = adapter.step(program, state, [train.at(5 * t + i) for i in range(5)], valid.at(t))
    logs = torch.linspace(math.log(1e-3), math.log(10.0), 2001, dtype=torch.float64)
    weights = torch.cat([best_weights(task.data, log.view(1)) for log in logs])
    losses = (task.data.valid.inputs @ weights.view(1, -1) - task.data.valid.targets).square().mean(0)
    at_end = losses[(logs - state["hyper"]["penalty"].log()).abs().argmin()]
    assert at_end < losses.min() + 0.02 * (losses.max() - losses.min())


def test_a_global_hypernetwork_knows_the_whole_curve():
    task = ridge(1, low=1e-2, space=lt.Space(penalty=lt.Float(1e-2, 10.0, log=True)), optimizer=lt.optim.Adam(lr=0.02))
    adapter = Hypernet(mode="global", samples=8, warmup=1e9, hidden=30)
    program, state, train, valid = begun(task, adapter, {"penalty": 0.3})
    for t in range(200):
        state, _ = adapter.step(program, state, [train.at(5 * t + i) for i in range(5)], valid.at(t))
    response = adapter.response(program, {"penalty": 0.3}, state)
    assert response.structure == "mlp"
    for penalty in (0.01, 0.1, 0.5, 1.0, 3.0, 10.0):
        expected = best_weights(task.data, torch.tensor([penalty], dtype=torch.float64).log())
        assert response.weights({"penalty": penalty})["weight"].item() == pytest.approx(expected.item(), abs=0.05)


# --- the training


def test_without_perturbation_it_is_plain_training():
    """The weights, BatchNorm's buffers, dropout's noise and a coupled weight decay, which becomes a penalty on w."""
    task = digits_task("mlp with dropout and batch norm", dtype=torch.float64, optimizer=lt.optim.SGD())
    config = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "dropout": 0.3}
    adapter = Hypernet(scale=1e-9, entropy=None, warmup=1e9)
    program, state, train, valid = begun(task, adapter, config)
    plain = Plain().init(program, config, 3)
    for t in range(6):
        state, _ = adapter.step(program, state, [train.at(5 * t + i) for i in range(5)], valid.at(t))
    for t in range(30):
        plain, _ = Plain().step(program, plain, [train.at(t)], None)
    for part in ("params", "buffers"):
        for name, expected in plain[part].items():
            assert torch.allclose(state[part][name], expected, rtol=0, atol=1e-6), name
    assert state["t"].item() == 30 and state["hyper"]["dropout"].item() == 0.3


def test_hyperparameters_wait_for_the_warm_up():
    task = ridge()
    adapter = Hypernet(warmup=10, gate=0)
    program, state, train, valid = begun(task, adapter, {"penalty": [0.1, 0.3, 0.05, 0.5]})
    first = state["hyper"]["penalty"].clone()
    for t in range(3):
        state, _ = adapter.step(program, state, [train.at(i) for i in range(5)], valid.at(t))
        assert torch.equal(state["hyper"]["penalty"], first) == (t < 2)
    assert state["own"]["hypernet"]["moves"].tolist() == [1]


def test_the_width_of_the_draws_is_learnt():
    """Entropy widens them, and a validation loss that is hurt by width narrows them."""
    task, widths = ridge(), []
    for entropy in (1.0, 0.0):
        adapter = Hypernet(scale=0.5, entropy=entropy, warmup=0, outer_lr=0.05)
        program, state, train, valid = begun(task, adapter, {"penalty": [0.5] * 4})
        metrics: Any = {}
        for t in range(40):
            state, metrics = adapter.step(program, state, [train.at(i) for i in range(5)], valid.at(t))
        widths.append(metrics["perturbation"].item())
    assert widths[0] > 0.6 > 0.5 > widths[1]
    assert "perturbation" not in Hypernet(entropy=None).step(program, _fresh(task), [train.at(0)] * 5, valid.at(0))[1]


def _fresh(task: lt.TorchTask) -> Any:
    return begun(task, Hypernet(entropy=None), {"penalty": [0.5] * 4})[1]


def test_draws_are_in_pairs_and_within_the_bounds():
    task = ridge(low=0.01)
    adapter = Hypernet(scale=3.0, samples=6, entropy=None)
    program, state, *_ = begun(task, adapter, {"penalty": [0.01, 10.0, 0.3, 0.3]})
    noise = draws.noise(state, 1, 6, 4)
    assert noise.shape == (1, 6, 4) and torch.equal(noise[:, :3], -noise[:, 3:])
    domains = domains_of(program, state)
    points = drawn(adapter, domains, state, place_of(domains, state))
    low, high = draws.bounds(domains, points)
    assert points.shape == (1, 6, 4), "as many as were asked for"
    assert (points >= low).all() and (points <= high).all() and (points == low).any()
    everywhere = draws.everywhere(domains, torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(everywhere.mean(0), ((low + high) / 2).float(), atol=0.3)


# --- one number at a time, and the running mean


def apart_task(classes: int = 3, rows: int = 12, inputs: int = 4) -> lt.TorchTask:
    """Regressions onto several targets, each with a penalty of its own, which share nothing."""
    generator = torch.Generator().manual_seed(5)

    def drawn() -> lt.Split:
        x, y = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in (inputs, classes))
        return lt.Split(x, y)

    return lt.TorchTask(
        space=lt.Space(penalty=lt.Float(1e-8, 1.0, log=True, shape=(classes,))),
        model=lambda config: nn.Linear(inputs, classes, bias=False),
        data=lt.Splits(drawn(), drawn(), drawn()),
        loss=lt.losses.mean_squared_error,
        penalty=lambda params, hyper: (hyper["penalty"].unsqueeze(1) * params["weight"].square()).sum(),
        optimizer=lt.optim.Adam(lr=1e-3),
        batch_size=rows,
        dtype=torch.float64,
    )


def test_no_number_is_taken_for_another() -> None:
    """The response to one target's penalty is exactly zero in the weights of the others, where draws of all are not."""
    task = apart_task()
    for samples, follow, zero in ((None, False, True), (2, False, False), (2, True, True)):
        adapter = Hypernet(structure="linear", entropy=None, samples=samples, follow=follow, warmup=1e9)
        program, state, train, valid = begun(task, adapter, {"penalty": [0.1, 0.01, 0.3]})
        for t in range(3):
            state, _ = adapter.step(program, state, [train.at(i) for i in range(5)], valid.at(t))
        columns = state["own"]["hypernet"]["response"]["columns"].view(3, 3, 4)  # penalty, target, input
        others = columns[~torch.eye(3, dtype=torch.bool)]
        assert (others.abs().max() < 1e-15) == zero and columns.diagonal().abs().min() > 0


def test_draws_grow_with_what_moves() -> None:
    task = apart_task()
    program, state, *_ = begun(task, Hypernet(entropy=None), {"penalty": [0.1, 0.01, 0.3]})
    adapter = Hypernet(entropy=None)
    domains = domains_of(program, state)
    place = place_of(domains, state)
    moved = drawn(adapter, domains, state, place) - place.unsqueeze(1)
    assert moved.shape == (1, 6, 3)
    assert torch.allclose(moved[0], 0.5 * torch.cat((torch.eye(3), -torch.eye(3))).double(), rtol=0, atol=1e-12)
    turns = []
    for step in range(3):  # two of three numbers a step, in turn
        now = {**state, "t": state["t"] + step}
        there = drawn(Hypernet(entropy=None, samples=4), domains, now, place, turns=True) - place.unsqueeze(1)
        assert there.shape == (1, 4, 3) and torch.allclose(there[:, :2], -there[:, 2:])
        turns.append([row.nonzero().item() for row in there[0, :2]])
    assert turns == [[0, 1], [2, 0], [1, 2]]
    assert drawn(Hypernet(mode="global"), domains, state, place).shape == (1, 2, 3)


def test_what_waits_for_its_turn_stays() -> None:
    """Its momentum too: one number's response moves in a step, from its second turn on by what is left of the first."""
    task = apart_task()
    adapter = Hypernet(structure="linear", entropy=None, samples=2, warmup=1e9)
    program, state, train, _ = begun(task, adapter, {"penalty": [0.1, 0.01, 0.3]})
    for t in range(6):
        before = state["own"]["hypernet"]["response"]["columns"][0]
        state, _ = descend(adapter, program, state, train.at(t))
        after = state["own"]["hypernet"]["response"]["columns"][0]
        assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [i == t % 3 for i in range(3)]


def test_it_moves_by_the_running_mean() -> None:
    task = apart_task()
    adapter = Hypernet(structure="linear", entropy=None, warmup=1e9, smoothing=0.75)
    program, state, train, _ = begun(task, adapter, {"penalty": [0.1, 0.01, 0.3]})
    mean = state["own"]["hypernet"]["response"]["columns"]
    for t in range(4):
        state, _ = descend(adapter, program, state, train.at(t))
        mean = 0.75 * mean + 0.25 * state["own"]["hypernet"]["response"]["columns"]
    assert torch.allclose(state["own"]["hypernet"]["smooth"]["columns"], mean, rtol=1e-12, atol=0)
    response = adapter.response(program, {"penalty": [0.1, 0.01, 0.3]}, state)
    place = torch.tensor([0.1, 0.01, 0.3], dtype=torch.float64)
    there = response.weights({"penalty": (place * math.e**0.5).tolist()})["weight"].flatten()
    wanted = state["params"]["weight"].flatten() + 0.5 * mean[0].sum(0)
    assert torch.allclose(there, wanted, rtol=0, atol=1e-12)


# --- a response that follows the training


@pytest.mark.parametrize("optimizer", [lt.optim.SGD(lr=0.02, momentum=0.8), lt.optim.SGD(lr=0.02, nesterov=True)])
def test_under_sgd_the_response_is_the_derivative_of_the_training(optimizer: Any) -> None:
    """By differences of two plain trainings, schedule included."""
    task = ridge(optimizer=replace(optimizer, momentum=0.8), schedule=lt.optim.Cosine(30))
    place, step = torch.tensor([0.1, 0.3, 0.05, 0.5], dtype=torch.float64).log(), 1e-3
    adapter = Hypernet(structure="linear", scale=1e-3, entropy=None, warmup=1e9)
    program, state, train, _ = begun(task, adapter, {"penalty": place.exp().tolist()})
    for t in range(12):
        state, _ = descend(adapter, program, state, train.at(t))

    def trained(log: Tensor) -> Tensor:
        plain = Plain().init(program, {"penalty": log.exp().tolist()}, 3)
        for t in range(12):
            plain, _ = Plain().step(program, plain, [train.at(t)], None)
        return plain["params"]["weight"].flatten()

    for row, found in zip(
        torch.eye(4, dtype=torch.float64), state["own"]["hypernet"]["response"]["columns"][0], strict=True
    ):
        expected = (trained(place + step * row) - trained(place - step * row)) / (2 * step)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("samples", [None, 2])
def test_a_small_response_is_not_lost_in_the_steps_of_adam(samples: int | None) -> None:
    """Of penalties of 1e-6, and of one at its bound, where draws go to one side alone."""
    task = ridge(low=1e-6, optimizer=lt.optim.Adam(lr=0.01))
    place = torch.tensor([1e-6, 1e-5, 1e-6, 1e-4], dtype=torch.float64).log()
    jacobian, _ = exact(task.data, place)
    errors = {}
    for follow in (True, False):
        adapter = Hypernet(structure="linear", entropy=None, warmup=1e9, scale=0.2, samples=samples, follow=follow)
        program, state, train, valid = begun(task, adapter, {"penalty": place.exp().tolist()})
        for t in range(400):
            state, _ = adapter.step(program, state, [train.at(i) for i in range(5)], valid.at(t))
        smooth = state["own"]["hypernet"]["smooth"]["columns"][0].mT
        errors[follow] = ((smooth - jacobian).norm(dim=0) / jacobian.norm(dim=0)).max().item()
    assert errors[True] < 0.15 < 10 < errors[False]


def test_a_step_of_the_response_is_the_least_of_the_weights() -> None:
    optimizer, hyper = lt.optim.Adam(lr=0.3, eps=1e-3), {"beta1": torch.tensor([0.9, 0.5])}
    generator = torch.Generator().manual_seed(2)
    params = {"a": torch.randn(2, 3, 2, generator=generator), "b": torch.randn(2, 4, generator=generator)}
    state, step = optimizer.init(params, hyper), torch.tensor([0, 7])
    state = {slot: {n: x + 0.1 for n, x in tree.items()} for slot, tree in state.items()}
    gradients = {name: torch.randn(p.shape, generator=generator) for name, p in params.items()}
    after, state = optimizer.update(params, gradients, state, hyper, step)
    for name, rate in optimizer.least_rates(state, hyper, step).items():
        each = ((params[name] - after[name]) / state["first"][name]).flatten(1)
        assert torch.allclose(rate, each.amin(1), rtol=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lt.optim.SGD(momentum=0.9, weight_decay=0.1), lambda p, c: torch.optim.SGD(p, c["lr"], 0.9, weight_decay=0.1)),
        (lt.optim.Adam(weight_decay=0.1), lambda p, c: torch.optim.Adam(p, c["lr"], weight_decay=0.1)),
        (
            lt.optim.Adam(beta1=0.8, decoupled=True, weight_decay=0.1),
            lambda p, c: torch.optim.AdamW(p, c["lr"], (0.8, 0.999), weight_decay=0.1),
        ),
    ],
)
def test_an_optimizer_of_torch_leads_the_response_as_ours_does(ours: Any, theirs: Any) -> None:
    """A schedule and clipping included; the rate may be a hyperparameter."""
    columns = []
    for optimizer in (ours, theirs):
        space = lt.Space(penalty=lt.Float(1e-3, 10.0, log=True, shape=(4,)), lr=lt.Float(1e-3, 1.0, log=True))
        task = ridge(space=space, optimizer=optimizer, schedule=lt.optim.Cosine(20), clip_norm=0.5)
        adapter = Hypernet(("penalty",), structure="linear", scale=0.1, entropy=None, warmup=1e9)
        program, state, train, _ = begun(task, adapter, {"penalty": [0.1, 0.3, 0.05, 0.5], "lr": 0.03})
        for t in range(6):
            state, _ = descend(adapter, program, state, train.at(t))
        columns.append(state["own"]["hypernet"]["response"]["columns"])
    assert torch.allclose(*columns, rtol=1e-9, atol=1e-15) and columns[0].abs().min() > 1e-6


def test_a_clipped_step_moves_the_response_as_much_less() -> None:
    moved = []
    for clip in (None, 1e-3):
        task = ridge(optimizer=lt.optim.SGD(lr=0.1, clip_norm=clip))
        adapter = Hypernet(structure="linear", scale=0.1, entropy=None, warmup=1e9)
        program, state, train, _ = begun(task, adapter, {"penalty": [0.1, 0.3, 0.05, 0.5]})
        start = state["params"]["weight"]
        state, _ = descend(adapter, program, state, train.at(0))
        moved.append((state["params"]["weight"] - start, state["own"]["hypernet"]["response"]["columns"]))
    (far, much), (near, little) = moved
    assert torch.allclose(near / far, (near.norm() / far.norm()).expand_as(far), rtol=1e-9)
    assert torch.allclose(little, much * (near.norm() / far.norm()), rtol=1e-6) and little.abs().max() > 0


# --- the gate


def test_the_gate_opens_for_what_is_no_noise() -> None:
    """Shares of 4,000 numbers, whose gradients are normal: of mean zero one in twenty passes, of mean one all."""
    draw = torch.Generator().manual_seed(3)
    for mean, low, high in ((0.0, 0.02, 0.09), (1.0, 0.97, 1.0)):
        gate = Gate(2.0)
        state = gate.init(torch.zeros(2, 2000))
        opened = torch.ones(2, 2000, dtype=torch.bool)
        for i in range(60):
            opened, state = gate.update(state, mean + torch.randn(2, 2000, generator=draw))
            assert i > 2 or not opened.any(), "nothing can be told from three"
        assert low < opened.double().mean().item() < high
    still, _ = Gate(2.0).update(Gate(2.0).init(torch.zeros(1, 2)), torch.zeros(1, 2))
    assert not still.any() and Gate(0.0).update(Gate(0.0).init(torch.zeros(1, 2)), torch.zeros(1, 2))[0].all()


def test_what_makes_no_difference_stays() -> None:
    """A rate of noise on the targets is drawn in the training alone, about which the validation loss says nothing."""
    task = apart_task()
    adapter = Hypernet(structure="linear", entropy=None, warmup=0, outer_lr=0.1)
    program, state, train, valid = begun(task, adapter, {"penalty": [0.1, 0.01, 0.3]})
    noise, moves = torch.Generator().manual_seed(4), {}
    for errors in (2.0, 0.0):
        adapter, now = replace(adapter, gate=errors), state
        noise.manual_seed(4)
        for t in range(40):
            random = torch.randn(
                now["own"]["hypernet"]["smooth"]["columns"].shape, generator=noise, dtype=torch.float64
            )
            own = {**now["own"]["hypernet"], "smooth": {"columns": random}}
            now, _ = move(
                adapter, program, {**now, "t": now["t"] + 1, "own": {**now["own"], "hypernet": own}}, valid.at(t)
            )
        moves[errors] = (now["hyper"]["penalty"].log() - state["hyper"]["penalty"].log()).abs().max().item()
    assert moves[2.0] < 0.25 < moves[0.0]
    assert train is not None


def test_networks_that_run_in_turn_have_hypernetworks_too() -> None:
    """One that branches on its data, under Adam, whose steps count for each weight what has reached it."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.first, self.last = lt.nn.Dropout("dropout"), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.drop(self.first(x))
            return self.last(x if x.mean() > 0 else x.relu())

    generator = torch.Generator().manual_seed(0)
    split = lt.Split(torch.randn(16, 3, generator=generator), torch.arange(16) % 2)
    for structure in ("gated", "linear"):
        task = lt.TorchTask(
            space=lt.Space(dropout=lt.Float(0.0, 0.6)),
            model=lambda config: Branching(),
            data=lt.Splits(split, split, split),
            loss=lt.losses.cross_entropy,
            optimizer=lt.optim.Adam(lr=1e-2),
            batch_size=8,
        )
        assert task.program({"dropout": 0.1}).in_turn
        adapter = Hypernet(structure=structure, warmup=0, gate=0)  # type: ignore[arg-type]
        study = lt.tune(task, (lt.propose.Random(), adapter), trials=1, steps=10, progress=False)
        assert study.best is not None and study.best.final["dropout"] != study.best.config["dropout"]


# --- the learning rate


def rated(low: float = 1e-4, high: float = 1.0, log: bool = True, **settings: Any) -> lt.TorchTask:
    """The digits' network whose rate may move, in float64."""
    space = lt.Space(lr=lt.Float(low, high, log=log), weight_decay=lt.Float(1e-6, 1e-1, log=True))
    return digits_task(space=space, dtype=torch.float64, **settings)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("optimizer", [lt.optim.SGD(), lt.optim.Adam()], ids=["sgd", "adam"])
def test_the_rate_s_derivative_is_that_of_trainings_at_other_rates(optimizer: Any, log: bool) -> None:
    """Of one step between moves the derivative to first order is the whole; float64, a step of SGD and of Adam."""
    task, config = rated(log=log, optimizer=optimizer), {"lr": 0.01, "weight_decay": 1e-2}
    adapter = Hypernet(entropy=None, inner_steps=1, warmup=1e9, rate=True)
    program, state, train, valid = begun(task, adapter, config)
    for t in range(3):
        state, _ = adapter.step(program, state, [train.at(t)], valid.at(t))

    def after(factor: float) -> tuple[Any, Any]:
        hyper = {**state["hyper"], "lr": state["hyper"]["lr"] * factor}
        return adapter.step(program, {**state, "hyper": hyper}, [train.at(3)], valid.at(3))

    e = 1e-5
    expected = (after(1 + e)[1]["valid_loss"] - after(1 - e)[1]["valid_loss"]).item() / (2 * e)
    if not log:  # per unit of the sigmoid's argument
        domain, place = task.space.domains["lr"], state["own"]["hypernet"]["rate"]
        expected *= (unconstrained.slope(domain, place) / state["hyper"]["lr"]).item()  # type: ignore[arg-type]
    means = [one["own"]["hypernet"]["gate"]["mean"][0, -1].item() for one in (state, after(1.0)[0])]
    assert means[1] - 0.9 * means[0] == pytest.approx(0.1 * expected, rel=1e-5)
    assert abs(expected) > 1e-4


def test_the_rate_moves_where_it_lowers_the_validation_loss() -> None:
    """From a rate far below the best one and from one above it; and stays where it is asked to."""
    ends = {}
    for start in (1e-3, 0.5):
        for rate in (False, True):
            adapter = Hypernet(("weight_decay",), warmup=1, outer_lr=0.2, rate=rate)
            task = rated(optimizer=lt.optim.SGD(momentum=0.9))
            first = [{"lr": start, "weight_decay": 1e-4}]
            method = (lt.propose.Random(), adapter)
            study = lt.tune(task, method, trials=1, epochs=4, start=first, progress=False)
            assert study.best is not None and (study.best.final["lr"] != start) == rate
            ends[start, rate] = study.best.metrics["loss"], study.best.final["lr"]
    assert ends[1e-3, True][1] > 5e-3 > 5e-3 / 4 > ends[1e-3, False][1] and ends[0.5, True][1] < 0.3
    assert ends[1e-3, True][0] < 0.7 * ends[1e-3, False][0] and ends[0.5, True][0] < ends[0.5, False][0]


def test_a_rate_that_was_changed_is_gone_on_from() -> None:
    task, config = rated(), {"lr": 0.01, "weight_decay": 1e-2}
    adapter = Hypernet(warmup=0, gate=0, outer_lr=0.1, rate=True)
    program, state, train, valid = begun(task, adapter, config)
    for t in range(2):
        state, _ = adapter.step(program, state, [train.at(t)] * 5, valid.at(t))
    moved = state["hyper"]["lr"].item()
    assert moved != 0.01
    same = adapter.init(program, {**config, "lr": moved}, 5, state, {})
    other = adapter.init(program, {**config, "lr": 0.2}, 5, state, {"lr": 0.2})
    assert same["own"]["hypernet"]["rate"].item() == pytest.approx(math.log(moved))
    assert other["own"]["hypernet"]["rate"].item() == pytest.approx(math.log(0.2))
    other, _ = adapter.step(program, other, [train.at(3)] * 5, valid.at(3))
    assert 0.17 < other["hyper"]["lr"].item() < 0.24


# --- what is tuned


def test_what_enters_the_training_loss_is_found():
    task = digits_task("mlp with dropout and batch norm")
    config = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "dropout": 0.3}
    _, state, *_ = begun(task, Hypernet(), config)
    assert set(state["own"]["hypernet"]["free"]) == {"weight_decay", "dropout"}
    _, state, *_ = begun(task, Hypernet(names=("dropout",)), config)
    assert set(state["own"]["hypernet"]["free"]) == {"dropout"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Hypernet(mode="both"), "both"),  # type: ignore[arg-type]
        (lambda: Hypernet(structure="dense"), "dense"),  # type: ignore[arg-type]
        (lambda: Hypernet(samples=0), r"samples must be .* got 0"),
        (lambda: Hypernet(scale=-1.0), "-1.0"),
        (lambda: Hypernet(entropy=math.nan), r"entropy must be .* got nan"),
        (lambda: Hypernet(scale=0), "centred=False"),
        (lambda: Hypernet(gate=-1.0), r"gate must be .* got -1\.0"),
        (lambda: Hypernet(follow=1), r"follow must be .* got 1"),  # type: ignore[arg-type]
        (lambda: Hypernet(rate=1), r"rate must be .* got 1"),  # type: ignore[arg-type]
        (lambda: begun(ridge(), Hypernet(rate=True), {"penalty": [0.5] * 4}), "there is no lr in the space"),
        (lambda: Hypernet(names="dropout"), "names"),  # type: ignore[arg-type]
        (lambda: begun(digits_task(), Hypernet(("lr",)), _digits()), r"lr enters the optimizer(.|\n)*rate=True"),
        (lambda: begun(digits_task(), Hypernet(("dropot",)), _digits()), "dropot"),
        (lambda: begun(digits_task(), Hypernet(objective="accuracy"), _digits()), "accuracy"),
        (lambda: Hypernet(structure="diagonal"), r"structure must be .* got 'diagonal'(.|\n)*Bilevel"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_named(make: Any, words: str):
    with pytest.raises(MethodError, match=words):
        make()


def _digits() -> dict[str, Any]:
    return {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2}


# --- through tune()


def test_a_study_returns_the_best_response():
    task = digits_task(
        "mlp with dropout and batch norm",
        space=lt.Space(dropout=lt.Float(0.0, 0.6), weight_decay=lt.Float(1e-6, 1e-1, log=True)),
        optimizer=lt.optim.SGD(lr=0.05, momentum=0.9),
    )
    study = lt.tune(task, (lt.propose.Random(), Hypernet(gate=0)), trials=1, epochs=3, progress=False)
    assert study.best is not None and len(study.best.schedule) == 4
    response = study.response()
    assert response.structure == "linear" and set(response.names) == {"dropout", "weight_decay"}
    here = {name: study.best.final[name] for name in response.names}
    for name, param in study.model().named_parameters():
        assert torch.allclose(response.weights(here)[name], param, atol=1e-6)
    assert response.loss(here) == pytest.approx(study.best.metrics["loss"], rel=1e-4)
    assert response.loss({}) == pytest.approx(response.loss(here))
    there = {"dropout": 0.0, "weight_decay": 1e-5}
    model = response.model(there)
    assert torch.equal(model[1].weight, response.weights(there)["1.weight"])  # type: ignore[index]
    assert (
        response.losses([there, here])[0] == pytest.approx(response.loss(there)) != pytest.approx(response.loss(here))
    )
    with pytest.raises(MethodError, match="dropot"):
        response.weights({"dropot": 0.1})
    with pytest.raises(ConfigError, match=r"0\.7"):
        response.weights({"dropout": 0.7})


def test_other_methods_have_no_response():
    study = lt.tune(digits_task(), "random", trials=1, steps=5, progress=False)
    with pytest.raises(MethodError, match="Hypernet"):
        study.response()
