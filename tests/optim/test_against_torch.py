"""Stacked optimizers and schedules against torch.optim, member by member."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luthier.optim import SGD, Adam, Cosine, StepDecay, Warmup, adamw

MEMBERS, STEPS = 3, 50
TORCH = {
    "sgd": (SGD(), lambda p, h: torch.optim.SGD(p, lr=h["lr"])),
    "momentum": (SGD(momentum=0.9), lambda p, h: torch.optim.SGD(p, lr=h["lr"], momentum=0.9)),
    "nesterov": (SGD(nesterov=True), lambda p, h: torch.optim.SGD(p, **h, nesterov=True)),
    "sgd, all from the space": (SGD(), lambda p, h: torch.optim.SGD(p, **h)),
    "adam": (Adam(), lambda p, h: torch.optim.Adam(p, lr=h["lr"], weight_decay=h["weight_decay"])),
    "adamw": (Adam(decoupled=True), lambda p, h: torch.optim.AdamW(p, lr=h["lr"], weight_decay=h["weight_decay"])),
    "adamw, own settings": (adamw, lambda p, h: torch.optim.AdamW(p, lr=h["lr"], weight_decay=0.01)),
}
READS = {
    "sgd": {"lr"},
    "momentum": {"lr"},
    "nesterov": {"lr", "momentum", "weight_decay"},
    "sgd, all from the space": {"lr", "momentum", "weight_decay"},
    "adam": {"lr", "weight_decay"},
    "adamw": {"lr", "weight_decay"},
    "adamw, own settings": {"lr"},
}
HYPER = {"lr": [0.01, 0.1, 0.03], "momentum": [0.1, 0.5, 0.9], "weight_decay": [0.001, 0.1, 0.01]}


def gradient(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a smooth, well-conditioned function that couples the elements."""
    return {name: p + 0.5 * torch.sin(p) + 0.1 * p.mean() - 2.0 for name, p in parameters.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, None)])
@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_each_member_moves_as_under_torch(name: str, dtype: torch.dtype, tolerance: float | None, clip: float | None):
    optimizer, reference = TORCH[name]
    tolerance = tolerance or (1e-6 if isinstance(optimizer, SGD) else 1e-4)
    optimizer = type(optimizer)(**{**optimizer.__dict__, "clip_norm": clip})
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (4, 3), "bias": (3,)}
    start = {n: torch.randn(MEMBERS, *s, generator=generator, dtype=dtype) for n, s in shapes.items()}
    hyper = {n: torch.tensor(HYPER[n], dtype=dtype) for n in READS[name]}

    params, state = dict(start), optimizer.init(start, hyper)
    for t in range(STEPS):
        each = [gradient({n: p[i] for n, p in params.items()}) for i in range(MEMBERS)]
        stacked = {n: torch.stack([g[n] for g in each]) for n in params}
        params, state = optimizer.update(params, stacked, state, hyper, torch.full((MEMBERS,), t))

    for i in range(MEMBERS):
        alone = {n: p[i].clone().requires_grad_() for n, p in start.items()}
        plain = reference(alone.values(), {n: values[i] for n, values in HYPER.items()})
        for _ in range(STEPS):
            for n, g in gradient({n: p.detach() for n, p in alone.items()}).items():
                alone[n].grad = g
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(alone.values(), clip)
            plain.step()
        for n in start:
            torch.testing.assert_close(params[n][i], alone[n].detach(), rtol=tolerance, atol=tolerance)


def test_adam_takes_each_members_betas():
    hyper = {"lr": [0.01, 0.02], "beta1": [0.8, 0.95], "beta2": [0.9, 0.99]}
    stacked = {n: torch.tensor(v, dtype=torch.float64) for n, v in hyper.items()}
    start = {"w": torch.arange(6, dtype=torch.float64).view(2, 3)}
    params, state = dict(start), Adam().init(start, stacked)
    for t in range(STEPS):
        params, state = Adam().update(params, {"w": params["w"] - 1}, state, stacked, torch.full((2,), t))
    for i in range(2):
        w = start["w"][i].clone().requires_grad_()
        plain = torch.optim.Adam([w], lr=hyper["lr"][i], betas=(hyper["beta1"][i], hyper["beta2"][i]))
        for _ in range(STEPS):
            w.grad = w.detach() - 1
            plain.step()
        torch.testing.assert_close(params["w"][i], w.detach(), rtol=1e-14, atol=1e-14)


EPOCH = 5
SCHEDULES = {
    "step decay": (StepDecay(0.7, every=2), lambda o: torch.optim.lr_scheduler.StepLR(o, 2 * EPOCH, 0.7)),
    "cosine": (Cosine(6, 0.1), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6 * EPOCH, 0.1 * 0.3)),
    "warm-up": (Warmup(3, 0.2), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.2, 1.0, 3 * EPOCH)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_torchs(name: str):
    schedule, reference = SCHEDULES[name]
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = reference(plain)
    for t in range(6 * EPOCH + 1):
        factor = schedule.factor(torch.tensor([t / EPOCH], dtype=torch.float64), {})
        assert 0.3 * factor.item() == pytest.approx(plain.param_groups[0]["lr"], rel=1e-12)
        plain.step()
        scheduler.step()


def test_a_schedules_number_may_be_a_hyperparameter():
    hyper = {"gamma": torch.tensor([0.5, 1.0], dtype=torch.float64)}
    schedule = StepDecay("gamma")
    assert schedule.reads == ("gamma",)
    epoch = torch.tensor([2.5, 2.5], dtype=torch.float64)
    assert schedule.factor(epoch, hyper).tolist() == [0.25, 1.0]
