"""Losses and metrics: against torch's own, and a stack against each member alone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from luthier import losses, metrics
from luthier.errors import TaskError
from luthier.losses import stacked_form, stacked_loss

torch.set_num_threads(1)
MEMBERS, ROWS = 4, 12


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def randint(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(2))


def some_ignored(*shape: int) -> Tensor:
    targets = randint(5, *shape)
    targets[..., 1] = -100
    return targets


def hinge(output: Tensor, target: Tensor) -> Tensor:
    return (1 - output.squeeze(-1) * (2 * target - 1)).clamp(min=0).mean()


def by_numpy(output: Tensor, target: Tensor) -> float:
    return float(abs(output.detach().numpy() - target.numpy()).max())


class Scaled(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return 3 * F.mse_loss(output, target)


classes = (lambda: randn(MEMBERS, ROWS, 5), lambda *axes: randint(5, *axes, ROWS))
maps = (lambda: randn(MEMBERS, ROWS, 5, 2, 3), lambda *axes: randint(5, *axes, ROWS, 2, 3))
shares = (lambda: randn(MEMBERS, ROWS, 5), lambda *axes: randn(*axes, ROWS, 5).softmax(-1))
values = (lambda: randn(MEMBERS, ROWS, 3), lambda *axes: randn(*axes, ROWS, 3) * 2)
logits = (lambda: randn(MEMBERS, ROWS, 1) * 5, lambda *axes: randint(2, *axes, ROWS, 1).double())
soft = (lambda: randn(MEMBERS, ROWS, 1).sigmoid(), lambda *axes: randn(*axes, ROWS, 1).sigmoid())
ignored = (lambda: randn(MEMBERS, ROWS, 5), lambda *axes: some_ignored(*axes, ROWS))

smooth = functools.partial(losses.cross_entropy, label_smoothing=0.1)
torch_smooth = functools.partial(F.cross_entropy, label_smoothing=0.1)
weighted = nn.CrossEntropyLoss(weight=torch.arange(1.0, 6.0).double())

# The loss, torch's form of it, outputs and targets, and the stacked form expected.
CASES: list[tuple[str, Callable[..., Any], Callable[..., Any], Any, str]] = [
    ("cross entropy", losses.cross_entropy, F.cross_entropy, classes, "written"),
    ("cross entropy of maps", losses.cross_entropy, F.cross_entropy, maps, "written"),
    ("cross entropy of shares", losses.cross_entropy, F.cross_entropy, shares, "written"),
    ("label smoothing", smooth, torch_smooth, classes, "written"),
    ("label smoothing of shares", smooth, torch_smooth, shares, "written"),
    ("squares", losses.mean_squared_error, F.mse_loss, values, "written"),
    ("absolute", losses.mean_absolute_error, F.l1_loss, values, "written"),
    ("huber", losses.huber, F.huber_loss, values, "written"),
    ("huber, delta", functools.partial(losses.huber, delta=0.3), nn.HuberLoss(delta=0.3), values, "written"),
    ("binary", losses.binary_cross_entropy, F.binary_cross_entropy, soft, "written"),
    ("logits", losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, logits, "written"),
    ("torch cross entropy", F.cross_entropy, F.cross_entropy, classes, "written"),
    ("torch, ignored rows", F.cross_entropy, F.cross_entropy, ignored, "written"),
    ("torch, ignored, smooth", torch_smooth, torch_smooth, ignored, "written"),
    (
        "torch, maps",
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        maps,
        "written",
    ),
    ("torch module", nn.CrossEntropyLoss(), F.cross_entropy, shares, "written"),
    ("torch weights", weighted, weighted, classes, "vmap"),
    ("torch sum", nn.MSELoss(reduction="sum"), nn.MSELoss(reduction="sum"), values, "vmap"),
    ("torch squares", nn.MSELoss(), F.mse_loss, values, "written"),
    ("torch absolute", F.l1_loss, F.l1_loss, values, "written"),
    ("torch smooth", nn.SmoothL1Loss(beta=0.5), nn.SmoothL1Loss(beta=0.5), values, "written"),
    ("torch binary", nn.BCELoss(), F.binary_cross_entropy, soft, "written"),
    ("torch logits", nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits, logits, "written"),
    ("a user's", hinge, hinge, logits, "vmap"),
    ("a user's module", Scaled(), lambda o, t: 3 * F.mse_loss(o, t), values, "vmap"),
    ("accuracy", metrics.accuracy, lambda o, t: (o.argmax(1) == t).double().mean(), classes, "written"),
    ("accuracy of maps", metrics.accuracy, lambda o, t: (o.argmax(1) == t).double().mean(), maps, "written"),
    (
        "accuracy of shares",
        metrics.accuracy,
        lambda o, t: (o.argmax(1) == t.argmax(1)).double().mean(),
        shares,
        "written",
    ),
    ("accuracy of logits", metrics.accuracy, lambda o, t: ((o > 0) == (t > 0)).double().mean(), logits, "written"),
    (
        "accuracy of probabilities",
        functools.partial(metrics.accuracy, threshold=0.5),
        lambda o, t: ((o > 0.5) == (t > 0.5)).double().mean(),
        soft,
        "written",
    ),
    (
        "top k",
        functools.partial(metrics.top_k_accuracy, k=2),
        lambda o, t: (o.topk(2, 1).indices == t[:, None]).any(1).double().mean(),
        classes,
        "written",
    ),
    ("squares as metric", metrics.mean_squared_error, F.mse_loss, values, "written"),
    ("absolute as metric", metrics.mean_absolute_error, F.l1_loss, values, "written"),
]
TRAINED = [case for case in CASES if "accuracy" not in case[0] and case[0] != "top k"]


def named(cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        ("loss", "reference", "data", "form"), [c[1:] for c in cases], ids=[c[0] for c in cases]
    )


@pytest.mark.parametrize("last", [False, True], ids=["plain", "batch last"])
@pytest.mark.parametrize("own", [False, True], ids=["shared targets", "own targets"])
@named(CASES)
def test_a_stack_equals_torch_on_each_member(
    loss: Any, reference: Any, data: Any, form: str, own: bool, last: bool
) -> None:
    outputs, targets = data[0](), data[1](*((MEMBERS,) if own else ()))
    if last:
        outputs = outputs.transpose(1, 2).contiguous().transpose(1, 2)
    outputs.requires_grad_()
    stacked = stacked_loss(loss)
    found = stacked(outputs, targets)
    expected = [reference(outputs[k], targets[k] if own else targets) for k in range(MEMBERS)]
    assert stacked.form == form and not stacked.reads_hyper
    tolerance = 1e-12 if found.dtype is torch.float64 else 1e-6
    torch.testing.assert_close(found.double(), torch.stack(expected).double(), rtol=tolerance, atol=tolerance)
    if found.requires_grad:
        (mine,) = torch.autograd.grad(found.sum(), outputs)
        (theirs,) = torch.autograd.grad(torch.stack(expected).sum(), outputs)
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)
    if form == "written" and not isinstance(loss, nn.Module):
        alone = torch.stack([loss(outputs[k], targets[k] if own else targets) for k in range(MEMBERS)])
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("last", [False, True], ids=["plain", "batch last"])
@named([case for case in TRAINED if case[4] == "written"])
def test_alone_and_stacked_agree_bit_for_bit_and_nan_stays_at_home(
    loss: Any, reference: Any, data: Any, form: str, last: bool
) -> None:
    outputs, targets = data[0]().float(), data[1]()
    targets = targets.float() if targets.is_floating_point() else targets
    if last:
        outputs = outputs.transpose(1, 2).contiguous().transpose(1, 2)
    stacked = stacked_loss(loss)

    def gradient(outputs: Tensor, own: bool = False) -> tuple[Tensor, Tensor]:
        outputs = outputs.detach().requires_grad_()
        found = stacked(outputs, targets)
        return found.detach(), torch.autograd.grad(found.sum(), outputs)[0]

    together = gradient(outputs)
    spoilt = outputs.clone()
    spoilt[1] = torch.nan
    with_nan = gradient(spoilt)
    assert with_nan[0][1].isnan()
    for k in range(MEMBERS):
        single = gradient(outputs[k : k + 1])
        for a, b, c in zip(together, single, with_nan, strict=True):
            assert torch.equal(a[k], b[0])
            assert k == 1 or torch.equal(a[k], c[k])


@named(TRAINED)
def test_a_trace_agrees_bit_for_bit(loss: Any, reference: Any, data: Any, form: str) -> None:
    stacked = stacked_loss(loss)

    def gradient(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        outputs = outputs.detach().requires_grad_()
        found = stacked(outputs, targets)
        return found.detach(), torch.autograd.grad(found.sum(), outputs)[0]

    outputs, targets = data[0](), data[1]()
    traced = make_fx(gradient, tracing_mode="real")(outputs, targets)
    other = outputs.flip(1)
    for a, b in zip(traced(other, targets), gradient(other, targets), strict=True):
        assert torch.equal(a, b)


def test_what_fails_on_a_trace_s_tensors_alone_runs_in_the_same_form_afterwards() -> None:
    def masked(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output[target > 1], target[target > 1])

    stacked = stacked_loss(masked)
    outputs, targets = classes[0](), classes[1]()
    before = stacked(outputs, targets)
    assert stacked.form == "vmap"
    with contextlib.suppress(Exception):  # the size of a mask has no value there
        make_fx(stacked, tracing_mode="fake")(outputs, targets)
    assert stacked.form == "vmap" and torch.equal(stacked(outputs, targets), before)


@pytest.mark.parametrize("loss", [losses.mean_squared_error, losses.binary_cross_entropy_with_logits, metrics.accuracy])
def test_one_output_a_row_fits_targets_without_that_axis(loss: Callable[..., Tensor]) -> None:
    outputs, targets = randn(MEMBERS, ROWS, 1), randint(2, ROWS)
    found = stacked_loss(loss)(outputs, targets)
    torch.testing.assert_close(found, stacked_loss(loss)(outputs.squeeze(2), targets), rtol=1e-12, atol=0)
    torch.testing.assert_close(found, stacked_loss(loss)(outputs, targets.unsqueeze(1)), rtol=1e-12, atol=0)
    assert found.shape == (MEMBERS,)


@pytest.mark.parametrize("loss", [F.mse_loss, F.cross_entropy, F.binary_cross_entropy_with_logits, metrics.accuracy])
@pytest.mark.parametrize("shape", [(24, 3, 7, 7), (33, 17)])
def test_a_split_is_measured_with_the_same_bits_however_the_outputs_lie_in_memory(loss: Any, shape: Any) -> None:
    # grouped convolutions under vmap give outputs (batch, members, …) with the axes exchanged
    outputs = randn(shape[0], 6, *shape[1:]).float().transpose(0, 1)
    targets = (
        randint(3, shape[0], *shape[2:]) if loss in (F.cross_entropy, metrics.accuracy) else randn(*shape).sigmoid()
    )
    rows = stacked_loss(loss).rows
    alone = torch.cat([rows(outputs[i : i + 1], targets, {}) for i in range(6)])
    assert torch.equal(rows(outputs, targets, {}), alone)


def test_hyperparameters_reach_each_member() -> None:
    def loss(output: Tensor, target: Tensor, hyper: dict[str, Tensor]) -> Tensor:
        return losses.cross_entropy(output, target, label_smoothing=hyper["smoothing"])

    outputs, targets = randn(MEMBERS, ROWS, 5), randint(5, ROWS)
    rates = torch.tensor([0.0, 0.1, 0.2, 0.5], dtype=torch.float64)
    stacked = stacked_loss(loss)
    assert stacked.reads_hyper and not stacked_loss(lambda output, target, weight=2.0: output.mean()).reads_hyper
    expected = [F.cross_entropy(outputs[k], targets, label_smoothing=float(rates[k])) for k in range(MEMBERS)]
    torch.testing.assert_close(stacked(outputs, targets, {"smoothing": rates}), torch.stack(expected))


def test_saturated_probabilities_have_torch_s_bound_and_finite_gradients() -> None:
    outputs = torch.tensor([0.0, 1.0, 0.5], requires_grad=True)
    found = losses.binary_cross_entropy(outputs, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(found, F.binary_cross_entropy(outputs, torch.tensor([1.0, 0.0, 1.0])), rtol=1e-3, atol=0)
    assert torch.autograd.grad(found, outputs)[0].isfinite().all()


def test_a_metric_outside_torch_runs_in_turn() -> None:
    outputs, targets = randn(MEMBERS, ROWS, 3), randn(ROWS, 3)
    stacked = stacked_loss(by_numpy)
    found = stacked(outputs, targets)
    assert stacked.form == "loop"
    torch.testing.assert_close(found.double(), (outputs - targets).abs().amax((1, 2)), rtol=1e-6, atol=0)


def test_a_form_of_the_user_s_own_is_taken() -> None:
    @stacked_form(lambda outputs, targets, power=1: (outputs.abs() ** power).sum((1, 2)))
    def loss(output: Tensor, target: Tensor, *, power: int = 1) -> Tensor:
        return (output.abs() ** power).sum()

    outputs = randn(MEMBERS, ROWS, 3)
    stacked = stacked_loss(functools.partial(loss, power=3))
    assert stacked.form == "written"
    torch.testing.assert_close(stacked(outputs, randn(ROWS, 3)), (outputs.abs() ** 3).sum((1, 2)))


def test_equal_sizes_do_not_confuse_whose_the_targets_are() -> None:
    outputs, targets = randn(3, 3, 3), randint(3, 3, 3)
    own = stacked_loss(losses.cross_entropy)(outputs, targets)
    torch.testing.assert_close(own, torch.stack([F.cross_entropy(outputs[k], targets[k]) for k in range(3)]))
    values = randn(3, 3)
    shared = stacked_loss(losses.mean_squared_error)(outputs, values)
    torch.testing.assert_close(shared, torch.stack([F.mse_loss(outputs[k], values) for k in range(3)]))


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (
            lambda o, t: (o - t) ** 2,
            r"returned a tensor of shape \(12, 3\) for an output of shape \(12, 3\).*\.mean\(\)",
        ),
        (lambda o, t: o.sum().item(), "returned float"),
        (lambda o, t: None, "returned NoneType"),
        (lambda o, t: (o + torch.randn(3)).mean(), "draws from torch's generator"),
    ],
)
def test_what_is_not_a_loss_is_refused(loss: Callable[..., Any], match: str) -> None:
    with pytest.raises(TaskError, match=match):
        stacked_loss(loss)(randn(MEMBERS, ROWS, 3).requires_grad_(), randn(ROWS, 3))


@pytest.mark.parametrize("loss", [lambda output: output, lambda a, b, c, d: a, 3, lambda a, b, *, c: a])
def test_what_cannot_be_called_with_output_and_target_is_refused(loss: Any) -> None:
    with pytest.raises(TaskError, match="loss"):
        stacked_loss(loss)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        (losses.cross_entropy, (2, 6, 3), (6, 1)),
        (losses.cross_entropy, (2, 6), (6,)),
        (losses.mean_squared_error, (2, 6, 3), (6,)),
        (F.mse_loss, (2, 6, 3), (6, 2)),
        (F.mse_loss, (2, 6, 1), (6,)),  # which torch would spread to (6, 6)
        (nn.SmoothL1Loss(), (2, 6), (6, 1)),
        (losses.binary_cross_entropy, (2, 6, 2), (6,)),
        (metrics.accuracy, (2, 6, 3), (6, 2)),
        (losses.cross_entropy, (2, 6, 3), (5,)),
    ],
)
def test_shapes_that_do_not_fit_are_named(loss: Any, outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(TaskError, match=r"shape \(.*shape \("):
        stacked_loss(loss)(torch.rand(outputs), torch.zeros(targets, dtype=torch.int64))
