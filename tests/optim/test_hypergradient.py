"""HypergradientDescent against the published recursions, finite differences, and everything that stands beside it."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from luthier.errors import MethodError
from luthier.optim import SGDHD, AdamHD, HypergradientDescent
from luthier.optim.hypergradient import DIRECTION
from luthier.optim.stock import UNEVEN

STEPS = 50


@cache
def images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.from_numpy(data.data).to(dtype) / 16, torch.from_numpy(data.target)


def batches(dtype: torch.dtype = torch.float64, count: int = STEPS + 10) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, targets = images(dtype)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).repeat(4)
    for t in range(count):
        rows = order[32 * t : 32 * (t + 1)]
        yield inputs[rows], targets[rows]


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).to(dtype)


def train(model: nn.Module, optimizer: Any, steps: int = STEPS, skip: int = 0) -> list[float]:
    """The rates after each step."""
    rates = []
    for t, (inputs, targets) in enumerate(batches(next(model.parameters()).dtype, skip + steps)):
        if t < skip:
            continue
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        rates.append(optimizer.rates()[0])
    return rates


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# --- the published recursions, written plainly


class Published:
    """Algorithms 4, 5 and 6 over all weights as one vector; the direction is minus the derivative of the update.

    The adaptive rule is ours.
    """

    def __init__(self, kind: str, rate: float, beta: float, rule: str, decay: float = 0.0) -> None:
        self.kind, self.rate, self.beta, self.rule, self.decay = kind, rate, beta, rule, decay
        self.previous: Any = None
        self.m = self.v = 0.0
        self.t = 0
        self.turns, self.agreed = 0, False
        self.way: Any = None  # the last step, with half of the one before, and so on

    def step(self, w: Tensor, g: Tensor) -> Tensor:
        g = g + self.decay * w
        if self.previous is not None:
            h = -(g @ self.previous).item()
            if self.rule == "additive":
                self.rate = self.rate - self.beta * h
            elif self.rule == "adaptive":
                cosine = (g @ self.way / g.norm() / self.way.norm()).item()
                self.agreed = self.agreed or cosine > 0
                step = self.beta * cosine / (1 + self.turns) if self.agreed else -self.beta
                self.turns += self.agreed and cosine < 0
                change = math.exp(min(max(step, -1), 1))
                self.rate, self.way = self.rate * change, self.way * min(change, 1)
            else:
                self.rate = self.rate * (1 - self.beta * h / (g.norm() * self.previous.norm()).item())
        self.t += 1
        if self.kind == "sgd":
            self.previous = g
        elif self.kind == "sgdn":
            self.v = 0.9 * self.v + g
            self.previous = g + 0.9 * self.v
        else:
            self.m = 0.9 * self.m + 0.1 * g
            self.v = 0.999 * self.v + 0.001 * g * g
            m_hat, v_hat = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
            self.previous = m_hat / (v_hat.sqrt() + 1e-8)
        step = self.rate * self.previous
        self.way = step if self.way is None else step + self.way / 2
        return w - step


MAKE = {
    "sgd": lambda params, **settings: SGDHD(params, 0.01, **settings),
    "sgdn": lambda params, **settings: SGDHD(params, 0.01, momentum=0.9, nesterov=True, **settings),
    "adam": lambda params, **settings: AdamHD(params, 0.001, **settings),
}
RATES = {"sgd": 0.01, "sgdn": 0.01, "adam": 0.001}
BETAS = {"sgd": 1e-2, "sgdn": 1e-4, "adam": 1e-6}


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("rule", ["additive", "multiplicative", "adaptive"])
@pytest.mark.parametrize("kind", MAKE)
def test_equals_the_published_recursion(kind: str, rule: Any, decay: float):
    beta = BETAS[kind] if rule == "additive" else 0.02 if rule == "multiplicative" else 0.5
    model = network()
    optimizer = MAKE[kind](model.parameters(), hyper_lr=beta, rule=rule, weight_decay=decay)
    published = Published(kind, RATES[kind], beta, rule, decay)
    for inputs, targets in batches(count=STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        expected = published.step(flat(model), torch.cat([p.grad.flatten() for p in model.parameters()]))  # type: ignore[union-attr]
        optimizer.step()
        assert torch.allclose(flat(model), expected, rtol=0, atol=1e-12)
        assert optimizer.rates()[0] == pytest.approx(published.rate, rel=1e-12)
    assert abs(published.rate / RATES[kind] - 1) > 0.01, "the rate hardly moved: nothing was compared"


def test_defaults_are_the_published_ones():
    w = [nn.Parameter(torch.ones(2))]
    sgd, adam = SGDHD(w, 0.1), AdamHD(w)
    assert (sgd.hyper_lr, sgd.rule, adam.hyper_lr, adam.rule) == (1e-6, "additive", 1e-8, "additive")
    assert adam.param_groups[0]["lr"] == 1e-3 and adam.param_groups[0]["betas"] == (0.9, 0.999)


# --- the hypergradient itself

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "sgd, decay": lambda p: torch.optim.SGD(p, 0.05, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
    "nesterov, foreach": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "amsgrad, decay": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, weight_decay=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hypergradient_equals_finite_differences(name: str):
    """The loss on the next minibatch, penalty included, as a function of the rate of one step."""
    model = network()
    optimizer = HypergradientDescent(OPTIMIZERS[name](model.parameters()), hyper_lr=0.0, bounds=(1e-8, 10.0))
    group, steps = optimizer.param_groups[0], list(batches(count=7))
    for inputs, targets in steps[:5]:
        advance(model, optimizer, inputs, targets)
    decay = group.get("weight_decay", 0.0)
    penalised = decay and name != "adamw" and not group.get("decoupled_weight_decay", False)

    def lookahead(rate: float) -> float:
        other, moved = copy.deepcopy((model, optimizer))
        moved.param_groups[0]["tuned_lr"] = rate
        advance(other, moved, *steps[5])
        with torch.no_grad():
            loss = nn.functional.cross_entropy(other(steps[6][0]), steps[6][1]).item()
        return loss + (decay / 2 * flat(other).square().sum().item() if penalised else 0.0)

    rate, step = group["tuned_lr"], 1e-5 * group["tuned_lr"]
    expected = (lookahead(rate + step) - lookahead(rate - step)) / (2 * step)
    for inputs, targets in steps[5:]:
        advance(model, optimizer, inputs, targets)
    assert optimizer.hypergradients[0] == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert abs(expected) > 1e-4


def advance(model: nn.Module, optimizer: Any, inputs: Tensor, targets: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()


def test_only_optimizers_whose_step_is_not_proportional_to_the_rate_are_refused():
    other = {"LBFGS", "SparseAdam", "Optimizer"}  # several evaluations a step; sparse gradients; abstract
    names = [n for n in torch.optim.__all__ if n[:1].isupper() and n not in other and hasattr(torch.optim, n)]
    crooked = set()
    for name in names:
        matrices = [nn.Parameter(p.detach()) for p in network().parameters() if p.ndim == 2]  # Muon takes these alone
        optimizer = getattr(torch.optim, name)(matrices, lr=0.01)
        for t in range(4):
            before = [p.detach().clone() for p in matrices]
            for p in matrices:
                p.grad = torch.sin(p.detach() * 3 + t)
            saved = copy.deepcopy(optimizer.state_dict())
            steps = []
            for rate in (0.01, 1.0):
                with torch.no_grad():
                    for p, start in zip(matrices, before, strict=True):
                        p.copy_(start)
                optimizer.load_state_dict(copy.deepcopy(saved))
                optimizer.param_groups[0]["lr"] = rate
                optimizer.step()
                steps.append(
                    torch.cat([(b - p).flatten() / rate for b, p in zip(before, matrices, strict=True)]).detach()
                )
            if not torch.allclose(*steps, rtol=1e-4, atol=1e-6):  # Muon works in bfloat16
                crooked.add(name)
    assert crooked == {kind.__name__ for kind in UNEVEN} - {"LBFGS"}


class Renamed(torch.optim.SGD):
    """Not the class that the analytic direction is for, so that the difference is measured."""


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}])
def test_the_analytic_direction_equals_the_measured_one(settings: dict[str, Any]):
    models = network(), network()
    kinds = torch.optim.SGD, Renamed
    both = [
        HypergradientDescent(k(m.parameters(), 0.02, **settings), rule="adaptive")
        for k, m in zip(kinds, models, strict=True)
    ]
    rates = [train(model, optimizer) for model, optimizer in zip(models, both, strict=True)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-10)
    assert torch.allclose(flat(models[0]), flat(models[1]), rtol=0, atol=1e-10)


def test_a_rate_too_small_to_move_float32_weights_still_grows():
    rates = {}
    for kind, dtype in ((torch.optim.SGD, torch.float32), (Renamed, torch.float32), (torch.optim.SGD, torch.float64)):
        model = network(dtype)
        rates[kind, dtype] = train(model, HypergradientDescent(kind(model.parameters(), 1e-8)), 30)[-1]
    assert rates[torch.optim.SGD, torch.float32] == pytest.approx(rates[torch.optim.SGD, torch.float64], rel=1e-3)
    assert rates[Renamed, torch.float32] < 0.8 * rates[torch.optim.SGD, torch.float32], "a smaller rate shows it better"
    assert rates[torch.optim.SGD, torch.float32] > 1.5e-8


# --- beside the rest of a training loop


def scheduled(optimizer: Any, wrap: bool = True, rule: Any = "multiplicative") -> tuple[Any, Any]:
    hd = HypergradientDescent(optimizer, 0.05, rule=rule) if wrap else optimizer
    return hd, torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(hd, 12)


@pytest.mark.parametrize(
    ("name", "rule"),
    [(name, "multiplicative") for name in ("sgd", "nesterov", "adam", "adamw", "amsgrad, decay", "rmsprop")]
    + [(name, "adaptive") for name in ("sgd", "nesterov", "adamw")],
)
def test_resume_is_bit_identical(name: str, rule: str):
    def fresh() -> tuple[nn.Module, Any, Any]:
        model = network(torch.float32)
        return model, *scheduled(OPTIMIZERS[name](model.parameters()), rule=rule)

    def run(parts: tuple[nn.Module, Any, Any], start: int, end: int) -> list[float]:
        model, optimizer, scheduler = parts
        rates = []
        for t in range(start, end):
            rates += train(model, optimizer, 1, skip=t)
            scheduler.step()
        return rates

    whole = fresh()
    rates = run(whole, 0, 40)
    first = fresh()
    run(first, 0, 23)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = fresh()
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert run(second, 23, 40) == rates[23:]
    assert torch.equal(flat(whole[0]), flat(second[0]))
    assert len(set(rates)) == 40


def test_a_schedulers_rate_stays_its_own_and_multiplies_ours():
    plain, _ = network(), None
    reference = torch.optim.SGD(plain.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(reference, 12)
    before, after = network(), network()
    inner = torch.optim.SGD(before.parameters(), 0.1)
    early = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(inner, 12)  # made on the optimizer, before the wrapper
    early_hd = HypergradientDescent(inner, 0.05)
    late_hd, late = scheduled(torch.optim.SGD(after.parameters(), 0.1))
    for t in range(30):
        for model, hd in ((before, early_hd), (after, late_hd)):
            train(model, hd, 1, skip=t)
            group = hd.param_groups[0]
            assert group["lr"] == reference.param_groups[0]["lr"]
            assert hd.rates()[0] == pytest.approx(group["tuned_lr"] * group["lr"] / 0.1)
        reference.step()
        for scheduler in (schedule, early, late):
            scheduler.step()
    assert torch.equal(flat(before), flat(after)) and flat(after).isfinite().all()
    assert late_hd.param_groups[0]["tuned_lr"] != 0.1


def test_without_a_hyper_rate_it_is_the_optimizer_under_its_scheduler():
    ours, plain = network(), network()
    hd = HypergradientDescent(torch.optim.Adam(ours.parameters(), 0.01), hyper_lr=0.0)
    adam = torch.optim.Adam(plain.parameters(), 0.01)
    both = [torch.optim.lr_scheduler.StepLR(o, 3, 0.5) for o in (hd, adam)]
    for inputs, targets in batches(count=12):
        advance(ours, hd, inputs, targets)
        advance(plain, adam, inputs, targets)
        for scheduler in both:
            scheduler.step()
    assert torch.allclose(flat(ours), flat(plain), rtol=0, atol=1e-14)


def test_a_schedule_down_to_zero_and_a_group_without_gradients_give_no_nan():
    model = network()
    for p in list(model.parameters())[:2]:
        p.requires_grad_(False)
    hd = HypergradientDescent(torch.optim.AdamW(model.parameters(), 0.01))
    scheduler = torch.optim.lr_scheduler.LambdaLR(hd, lambda t: 1.0 if t % 3 else 0.0)
    for t in range(12):
        rates = train(model, hd, 1, skip=t)
        scheduler.step()
        assert all(0 <= rate < 1 for rate in rates)
    assert flat(model).isfinite().all()
    assert DIRECTION not in hd.state.get(next(iter(model.parameters())), {})


def test_closures():
    ours, loop = network(), network()
    closed = HypergradientDescent(torch.optim.SGD(ours.parameters(), 0.05, momentum=0.9))
    plain = HypergradientDescent(torch.optim.SGD(loop.parameters(), 0.05, momentum=0.9))
    for inputs, targets in batches(count=20):

        def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Any:
            closed.zero_grad()
            loss = nn.functional.cross_entropy(ours(inputs), targets)
            loss.backward()
            return loss

        assert closed.step(closure).item() > 0  # type: ignore[attr-defined]
        advance(loop, plain, inputs, targets)
    assert torch.equal(flat(ours), flat(loop)) and closed.rates() == plain.rates()


def test_clipped_gradients_enter_both_factors():
    model = network()
    optimizer = SGDHD(model.parameters(), 0.05, hyper_lr=0.01)
    published = Published("sgd", 0.05, 0.01, "additive")
    for inputs, targets in batches(count=20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        clipped = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
        expected = published.step(flat(model), clipped)
        optimizer.step()
        assert torch.allclose(flat(model), expected, rtol=0, atol=1e-12)
    assert optimizer.rates()[0] == pytest.approx(published.rate, rel=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_mixed_precision_unscaling_and_skipped_steps(fused: bool):
    scaled, plain = network(torch.float32), network(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=7)
    ours, other = (HypergradientDescent(torch.optim.Adam(m.parameters(), 0.01, fused=fused)) for m in (scaled, plain))
    for t, (inputs, targets) in enumerate(batches(torch.float32, 20)):
        ours.zero_grad()
        scaler.scale(nn.functional.cross_entropy(scaled(inputs), targets)).backward()
        overflow = t in (4, 5, 11)
        if overflow:
            next(scaled.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
        if t % 2:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
        if not overflow:
            advance(plain, other, inputs, targets)
    assert torch.equal(flat(scaled), flat(plain)) and ours.rates() == other.rates()  # powers of two scale exactly


# --- what it must survive


@pytest.mark.parametrize("rule", ["multiplicative", "additive", "adaptive"])
@pytest.mark.parametrize("name", ["sgd", "nesterov", "adam", "adamw"])
def test_zero_and_bad_gradients(name: str, rule: Any):
    model = network()
    hd = HypergradientDescent(OPTIMIZERS[name](model.parameters()), hyper_lr=0.01, rule=rule)
    first = hd.rates()
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        hd.step()
    assert hd.rates() == first and flat(model).isfinite().all()
    train(model, hd, 3)
    assert hd.rates() != first
    for value in (torch.nan, torch.inf):
        kept = hd.rates()
        for p in model.parameters():
            p.grad = torch.full_like(p, value)
        hd.step()
        assert hd.rates() == kept


@pytest.mark.parametrize(("rule", "hyper_lr"), [("multiplicative", 0.99), ("additive", 1e6), ("adaptive", 50.0)])
def test_rates_stay_in_their_bounds(rule: Any, hyper_lr: float):
    w = nn.Parameter(torch.ones(5, dtype=torch.float64))
    hd = HypergradientDescent(torch.optim.SGD([w], 1e-3), hyper_lr, rule=rule, bounds=(1e-4, 1e-1))
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for t in range(200):
        sign = 1.0 if t % 40 < 20 else (-1.0) ** t  # agreeing gradients, then opposed ones
        w.grad = sign * torch.rand(5, generator=generator, dtype=torch.float64)
        hd.step()
        (rate,) = hd.rates()
        assert 1e-4 <= rate <= 1e-1
        seen.add(rate)
    assert {1e-4, 1e-1} <= seen


def test_groups_move_together_or_apart():
    def rates(per: Any) -> list[float]:
        model = network()
        parts = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.05}]  # type: ignore[index]
        hd = HypergradientDescent(torch.optim.SGD(parts, 0.01), 0.02, per=per)
        train(model, hd, 20)
        return hd.rates()

    together, apart = rates("all"), rates("group")
    assert together[1] / together[0] == pytest.approx(5.0)
    assert apart[1] / apart[0] != pytest.approx(5.0, rel=1e-3)


def test_state_is_shared_and_has_the_usual_form():
    model = network(torch.float32)
    adam = torch.optim.Adam(list(model.parameters())[:2], 0.01)
    hd = HypergradientDescent(adam)
    hd.add_param_group({"params": list(model.parameters())[2:], "lr": 0.02})
    assert hd.param_groups is adam.param_groups and hd.rates() == [0.01, 0.02]
    train(model, hd, 5)
    assert set(hd.state_dict()) == {"state", "param_groups"}
    for other in (copy.deepcopy(hd), pickle.loads(pickle.dumps(hd))):
        assert other.rates() == hd.rates() and other.bounds == hd.bounds
        assert str(other.state_dict()) == str(hd.state_dict())


def test_a_checkpoint_of_the_optimizer_alone_is_continued():
    model = network()
    plain = torch.optim.Adam(model.parameters(), 0.003)
    for inputs, targets in batches(count=3):
        advance(model, plain, inputs, targets)
    hd = HypergradientDescent(torch.optim.Adam(model.parameters(), 0.01))
    hd.load_state_dict(plain.state_dict())
    assert hd.rates() == [0.003]
    train(model, hd, 10)
    assert hd.rates() != [0.003]


def test_a_tensor_as_rate():
    one, other = network(), network()
    rates = [
        train(m, HypergradientDescent(torch.optim.Adam(m.parameters(), lr)), 10)
        for m, lr in ((one, 0.01), (other, torch.tensor(0.01, dtype=torch.float64)))
    ]
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HypergradientDescent(torch.nn.Linear(2, 2)), "Linear"),  # type: ignore[arg-type]
        (lambda: HypergradientDescent(SGDHD(weights(), 0.1)), "HypergradientDescent"),
        (lambda: HypergradientDescent(torch.optim.LBFGS(weights())), "LBFGS"),
        (lambda: HypergradientDescent(torch.optim.Rprop(weights())), "Rprop"),
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), rule="additive"), "hyper_lr"),
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), rule="geometric"), "geometric"),  # type: ignore[arg-type]
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), hyper_lr=1.0), "1.0"),
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), hyper_lr=-0.1), "-0.1"),
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), per="layer"), "layer"),  # type: ignore[arg-type]
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), bounds=(0.0, 1.0)), "0.0"),
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), bounds=(1.0, 0.5)), "0.5"),
        (lambda: HypergradientDescent(torch.optim.SGD(weights(), 0.1), bounds=(1e-8, 0.01)), "0.1"),
        (lambda: SGDHD(weights(), 0.0), "0.0"),
        (lambda: AdamHD(weights(), hyper_lr=float("nan")), "nan"),
    ],
)
def test_mistakes_are_named(make: Callable[[], Any], words: str):
    with pytest.raises(MethodError, match=words) as error:
        make()
    assert error.value.where and error.value.remedy


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_adaptive_rule_does_not_depend_on_the_scale_of_the_loss(scale: float):
    """A loss times a constant, and its rates divided by it, give the same training."""
    one, other = network(), network()
    sgd = torch.optim.SGD(other.parameters(), 1e-4 / scale)
    plain = HypergradientDescent(torch.optim.SGD(one.parameters(), 1e-4), rule="adaptive")
    scaled = HypergradientDescent(sgd, rule="adaptive", bounds=(1e-12, 1e6))
    for inputs, targets in batches(count=40):
        advance(one, plain, inputs, targets)
        scaled.zero_grad()
        (scale * nn.functional.cross_entropy(other(inputs), targets)).backward()
        scaled.step()
        assert scaled.rates()[0] * scale == pytest.approx(plain.rates()[0], rel=1e-6)
    assert plain.rates()[0] > 0.01 and torch.allclose(flat(one), flat(other), atol=1e-8)


def test_a_state_of_an_earlier_adaptive_rule_is_refused():
    model = network()
    hd = HypergradientDescent(torch.optim.SGD(model.parameters(), 1e-3), rule="adaptive")
    train(model, hd, 3)
    state = copy.deepcopy(hd.state_dict())
    hd.load_state_dict(copy.deepcopy(state))
    state["param_groups"][0]["tuned_memory"] = {"scale": 0.1, "weight": 0.2, "squares": 3.0}
    with pytest.raises(MethodError, match="squares") as error:
        hd.load_state_dict(state)
    assert error.value.where and error.value.remedy


@pytest.mark.parametrize("first", [1e-6, 0.7, 3.0, 30.0])
def test_the_adaptive_rule_forgets_a_step_that_was_too_long(first: float):
    """Without noise: a step that overshoots must not outweigh, in what gradients are held against, those after it."""
    w = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    hd = HypergradientDescent(torch.optim.SGD([w], first), rule="adaptive")
    for _ in range(60):
        w.grad = 2 * w.detach()
        hd.step()
    assert w.norm() < 1e-6 and 0.01 < hd.rates()[0] < 1


def test_the_adaptive_rule_survives_a_curvature_that_rises_late():
    """Twentyfold after 150 steps, when a hundred turns have all but fixed the rate: it explodes otherwise."""
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(20, generator=generator, dtype=torch.float64))
    hd = HypergradientDescent(torch.optim.SGD([w], 1e-3), rule="adaptive")
    curvature = torch.logspace(-1, 0, 20, dtype=torch.float64)
    for t in range(200):
        noise = 0.1 * torch.randn(20, generator=generator, dtype=torch.float64)
        w.grad = (20 if t >= 150 else 1) * curvature * w.detach() + noise
        hd.step()
        if t == 149:
            assert hd.param_groups[0]["tuned_memory"]["turns"] > 50 and hd.rates()[0] > 4 / 20, "it would be stable"
    assert w.norm() < 1 and 1e-3 < hd.rates()[0] < 2 / 20


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_adaptive_rule_arrives_from_every_start_within_twice_the_best_fixed_rates_steps(name: str):
    """A small network on digits, from starts over five decades; seven fixed rates, three a decade around the best."""

    def steps(make: Callable[[Any], Any], limit: int) -> int:
        model = network(torch.float32)
        optimizer, mean = make(model.parameters()), 0.0
        for t, (inputs, targets) in enumerate(batches(torch.float32, limit), start=1):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            mean = 0.9 * mean + 0.1 * loss.item()
            if mean / (1 - 0.9**t) < 0.5:
                return t
        return limit + 1

    rates, kind = ((0.1, 10.0), torch.optim.SGD) if name == "sgd" else ((1e-3, 1e-1), torch.optim.Adam)
    fixed = [rates[0] * 10 ** (k / 3) for k in range(7)]
    best = min(steps(lambda p, lr=lr: kind(p, lr), 200) for lr in fixed)
    starts = [10.0**-k for k in range(1, 7)]
    found = [steps(lambda p, lr=lr: HypergradientDescent(kind(p, lr), rule="adaptive"), 200) for lr in starts]
    assert max(found) <= 2 * best, (found, best)
