"""The ensemble against functions that are known: its error, its uncertainty, and that it is a function of the key."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.errors import MethodError
from luthier.jobs import History, Job, Result
from luthier.propose import Surrogate
from luthier.propose.networks import forward, slopes, train
from luthier.propose.surrogate import calibrate, inputs
from luthier.space import Choice, Float, Space

SPACE = Space(
    lr=Float(1e-4, 1.0, log=True),
    kind=Choice(["a", "b", "c"]),
    momentum=Float(0.0, 1.0, when={"kind": ["a", "b"]}),
)


def truth(codes: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A smooth function of all columns, and another level where the momentum is absent."""
    kind = np.minimum((codes[:, 1] * 3).astype(int), 2)
    return np.sin(4 * codes[:, 0]) + np.array([0.0, 1.0, -1.0])[kind] + np.where(mask[:, 2], codes[:, 2] ** 2, 0.3)


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return SPACE.encode(SPACE.sample(np.random.default_rng(seed), count))


def test_it_learns_a_mixed_conditional_function_and_knows_its_error() -> None:
    codes, mask = points(200, 0)
    found = Surrogate().fit_points(SPACE, codes, mask, truth(codes, mask), key=1)
    new = points(500, 1)
    error = truth(*new) - found.predict(*new)[0]
    rmse = float(np.sqrt(np.mean(error**2)))
    assert rmse < 0.15 * truth(*new).std()
    assert 0.5 * rmse < found.rmse < 2.0 * rmse, "the held-out error says what the error elsewhere is"


def test_deviations_cover_what_they_should() -> None:
    rng = np.random.default_rng(2)
    codes, mask = points(300, 2)
    noise = 0.3
    found = Surrogate().fit_points(SPACE, codes, mask, truth(codes, mask) + noise * rng.normal(size=300), key=1)
    new = points(1_000, 3)
    mean, deviation = found.predict(*new)
    apart = np.abs(truth(*new) + noise * rng.normal(size=1_000) - mean) / deviation
    assert 0.55 < np.mean(apart < 1) < 0.85
    assert np.mean(apart < 2) > 0.88
    assert 0.55 < found.coverage() < 0.85


def test_it_is_less_sure_far_from_the_values() -> None:
    space = Space(x=Float(0.0, 1.0))
    x = np.linspace(0.0, 0.5, 40)[:, None]
    mask = np.ones_like(x, dtype=bool)
    found = Surrogate().fit_points(space, x, mask, np.sin(12 * x[:, 0]), key=0)
    _, deviation = found.predict(np.array([[0.25], [1.0]]), np.ones((2, 1), dtype=bool))
    assert deviation[1] > 3 * deviation[0]


def test_the_key_alone_decides() -> None:
    codes, mask = points(40, 0)
    fits = [Surrogate(steps=30).fit_points(SPACE, codes, mask, truth(codes, mask), key) for key in (5, 5, 6)]
    means = [fit.predict(codes, mask)[0] for fit in fits]
    assert np.array_equal(means[0], means[1])
    assert not np.array_equal(means[0], means[2])


def test_all_networks_at_once_are_each_by_itself() -> None:
    codes, mask = points(30, 0)
    found = Surrogate(members=3, steps=30).fit_points(SPACE, codes, mask, truth(codes, mask), key=0)
    x = inputs(SPACE, codes, mask)
    alone = np.zeros((3, 30))
    for m in range(3):
        for layers in (found.layers, found.prior):
            hidden = x
            for i, (weight, bias) in enumerate(layers):
                hidden = hidden @ weight[m].double().numpy() + bias[m].double().numpy()
                hidden = hidden / (1 + np.exp(-hidden)) if i < 2 else hidden
            alone[m] += hidden[:, 0]
    mean, _ = found.predict(codes, mask)
    np.testing.assert_allclose(mean, found.centre + found.scale * alone.mean(axis=0), atol=1e-5)
    assert forward(found.layers, torch.as_tensor(x, dtype=torch.float32)).shape == (3, 30)


def test_calibration_finds_the_scale_of_the_errors() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.5, 1.5, 20_000)
    factor, floor = calibrate(rng.normal(size=20_000) * np.sqrt((2 * spread) ** 2 + 0.5**2), spread)
    assert abs(factor - 2) < 0.2
    assert floor < 1.0


@pytest.mark.parametrize("values", [np.full(12, 3.0), np.array([1.0, 2.0]), np.array([np.nan, 1.0, 2.0, np.inf])])
def test_few_equal_and_missing_values(values: np.ndarray) -> None:
    codes, mask = points(len(values), 0)
    found = Surrogate(steps=40).fit_points(SPACE, codes, mask, values, key=0)
    mean, deviation = found.predict(codes, mask)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()
    finite = values[np.isfinite(values)]
    assert mean.min() > finite.min() - 3 and mean.max() < finite.max() + 3


def test_a_history_is_fitted_without_what_failed() -> None:
    history = History(SPACE, {"accuracy": "max"})
    configs = SPACE.sample(np.random.default_rng(0), 20)
    for number, config in enumerate(configs):
        history.add(Job(number, config))
        ended = number % 4 != 0
        metrics = {"accuracy": 0.5 + 0.01 * number} if ended else {}
        history.add(Result(number, "ok" if ended else "failed", metrics))
    found = Surrogate(steps=40).fit(history)
    assert len(found.residuals) == 15
    assert -0.7 < found.centre < -0.5, "maximised objectives are negated"


def test_errors() -> None:
    with pytest.raises(MethodError, match="1 of 2 values"):
        Surrogate().fit_points(SPACE, *points(2, 0), np.array([1.0, np.nan]), key=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("members", 0), ("width", 2.5), ("steps", True), ("lr", -1.0), ("lr", 0), ("lr", "a"), ("lr", np.nan)),
        *(("decay", -0.1), ("decay", None), ("decay", np.inf)),
    ],
)
def test_settings_that_cannot_be(name: str, value: object) -> None:
    with pytest.raises(MethodError, match=f"Surrogate: {name} must be"):
        Surrogate(**{name: value})  # type: ignore[arg-type]


def test_wild_values_do_not_overflow() -> None:
    codes, mask = points(6, 0)
    values = np.array([1e300, 1.0, 2.0, -1e308, 3.0, 4.0])
    mean, deviation = Surrogate(steps=20).fit_points(SPACE, codes, mask, values, key=0).predict(codes, mask)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()


def test_the_written_gradient_is_that_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    layers = [(random(3, n, m), random(3, 1, m)) for n, m in ((4, 5), (5, 6), (6, 1))]
    x, target, rate = random(7, 4), random(3, 7), random(3, 7).abs()
    flat = [tensor.requires_grad_() for layer in layers for tensor in layer]
    expected = torch.autograd.grad((rate / 2 * (forward(layers, x) - target) ** 2).sum(), flat)
    out = [(torch.empty_like(weight), torch.empty_like(bias)) for weight, bias in layers]
    with torch.no_grad():
        slopes(layers, x, target, rate, out)
    for found, wanted in zip([tensor for layer in out for tensor in layer], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_steps_are_those_of_torch() -> None:
    """On few values every step sees all of them, so torch's AdamW on the same losses gives the same weights."""
    settings = Surrogate(members=2, width=6, steps=25)
    codes, mask = points(20, 0)
    x, y = inputs(SPACE, codes, mask), np.sin(np.arange(20.0))
    known = np.arange(40).reshape(2, 20) % 3 > 0
    sizes = {"width": 6, "decay": settings.decay}
    layers, prior = train(x, y, known, np.random.default_rng(7), steps=25, lr=settings.lr, **sizes)
    begun, _ = train(x, y, known, np.random.default_rng(7), steps=1, lr=1e-30, **sizes)
    mine = [tensor.clone().requires_grad_() for layer in begun for tensor in layer]
    rows, seen = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(known)
    target = torch.as_tensor(y, dtype=torch.float32) - forward(prior, rows)
    optimizer = torch.optim.AdamW(mine, lr=settings.lr, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + np.cos(np.pi * step / 25)))
    for _ in range(25):
        optimizer.zero_grad()
        error = forward(list(zip(mine[::2], mine[1::2], strict=True)), rows) - target
        sum((row[keep] ** 2).mean() for row, keep in zip(error, seen, strict=True)).backward()
        optimizer.step()
        schedule.step()
    for found, wanted in zip([tensor for layer in layers for tensor in layer], mine, strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-3, atol=1e-4)
