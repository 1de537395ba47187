"""What code keeps for the eye changes no training; what it acts on, at once or a thousand steps later, is refused."""

from __future__ import annotations

import contextvars
import functools
import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import luthier as lt
from luthier.reach import Kept, Trace

X = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Net(nn.Module):
    """A network that runs code of its own around its layers, with a place to keep things."""

    def __init__(self, act: Callable[[Net, Tensor, Tensor], Any], **kept: Any) -> None:
        super().__init__()
        self.first, self.last, self.act = nn.Linear(5, 4), nn.Linear(4, 2), act
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        found = self.act(self, x, hidden)
        return self.last(hidden if found is None else found)


def tuned(settings: dict[str, Any], trials: int = 2, width: int = 2, epochs: int = 2) -> lt.Study:
    usual: dict[str, Any] = {
        "space": lt.Space(lr=lt.Float(1e-2, 1e-1)),
        "model": lambda config: Net(lambda net, x, hidden: None),
        "data": lt.Splits((X, Y), (X, Y)),
        "loss": F.cross_entropy,
        "optimizer": optim.SGD,
        "batch_size": 8,
    }
    executor = lt.execute.Local(width=width)
    return lt.tune(
        lt.TorchTask(**{**usual, **settings}), trials=trials, epochs=epochs, seed=0, progress=False, executor=executor
    )


def of(act: Callable[[Any, Tensor, Tensor], Any], **kept: Callable[[], Any]) -> dict[str, Any]:
    """A network with code of its own, whose keeping places are made for each."""
    return {"model": lambda config: Net(act, **{name: make() for name, make in kept.items()})}


def beside(act: Callable[[Any, Tensor], Any], kept: Any) -> dict[str, Any]:
    """A loss with code of its own, which may change it by a factor, and one keeping place for all."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        loss = F.cross_entropy(output, target)
        factor = act(kept, loss)
        return loss if factor is None else loss * factor

    return {"loss": loss}


def counting(net: Any, x: Tensor, hidden: Tensor) -> None:
    net.calls += 1


def printing(net: Any, x: Tensor, hidden: Tensor) -> None:
    net.step += 1
    if net.step % 30 == 0:  # what vmap cannot run, at a step that no trial run comes to
        print(net.step, hidden.mean().item())


def averaging(net: Any, x: Tensor, hidden: Tensor) -> None:
    net.step, net.total = net.step + 1, net.total + hidden.detach().mean()
    if net.step % 3 == 0:
        print(f"{net.step:05d} {net.total / net.step:.3f}", "%d" % net.step, hidden.mean().item())  # noqa: UP031


def remembering(net: Any, x: Tensor, hidden: Tensor) -> None:
    net.shape, net.last_hidden, net.began = x.shape, hidden, time.perf_counter()
    net.history.append(hidden.detach().mean())


def cached(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    if net.rows != len(x):
        net.rows, net.positions = len(x), torch.arange(len(x)).float()[:, None] / 100
    return hidden + net.positions


def cached_by_shape(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    key = len(x), x.dtype
    if key not in net.kept:
        net.kept[key] = torch.arange(len(x)).float()[:, None] / 100
    return hidden + net.kept[key]


def counted_shapes(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    return cached_by_shape(net, x, hidden) * (2 if sum(1 for _ in net.kept) > 5 else 1)


def compared_by_shape(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    """A number of the first rows of each shape decides, though not yet."""
    if len(x) not in net.kept:
        net.kept[len(x)] = float(hidden.detach().abs().mean())
    return hidden * 2 if net.kept[len(x)] > 100 else hidden


def meter(kept: dict[str, float], loss: Tensor) -> None:
    kept["sum"] += loss.item()
    kept["count"] += 1
    kept["mean"] = kept["sum"] / kept["count"]
    kept["smooth"] = 0.9 * kept["smooth"] + 0.1 * kept["mean"]


def best(kept: dict[str, float], loss: Tensor) -> None:
    kept["n"] += 1
    if loss.item() < kept["best"]:
        kept["best"], kept["at"] = loss.item(), kept["n"]


class Run:
    """A logger as those of trackers are."""

    def __init__(self) -> None:
        self.step, self.rows = 0, []  # type: ignore[var-annotated]
        self.by_step, self.kinds, self.recent, self.counts = {}, set(), deque(maxlen=3), Counter({"log": 0})  # type: ignore[var-annotated]

    def log(self, value: float) -> None:
        self.rows.append((self.step, {"loss": value}))
        self.by_step[self.step] = value
        self.kinds.add(round(value, 1))
        self.recent.append(value)
        self.counts["log"] += 1
        self.step += 1


class Logging(optim.SGD):
    """An optimizer that counts its steps and logs the norms of its gradients."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.steps, self.norms = 0, []  # type: ignore[var-annotated]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        self.norms.append(float(torch.stack([grad.norm() for grad in grads]).norm()))
        super().step()


SYSTEM = random.SystemRandom()


def counting_both(net: Any, x: Tensor, hidden: Tensor) -> None:
    if net.training:
        net.training_calls += 1
    else:
        net.others += 1


HARMLESS: dict[str, Callable[[], dict[str, Any]]] = {
    "a count of calls": lambda: of(counting, calls=int),
    "printing each thirtieth step": lambda: of(printing, step=int),
    "printing a mean each third step": lambda: of(averaging, step=int, total=float),
    "a shape, a tensor, the clock and a history": lambda: of(remembering, history=list),
    "positions for each batch size": lambda: of(cached, rows=int),
    "a cache by shapes": lambda: of(cached_by_shape, kept=dict),
    "a meter of the loss": lambda: beside(meter, {"sum": 0.0, "count": 0, "mean": 0.0, "smooth": 1.0}),
    "the best loss so far": lambda: beside(best, {"n": 0, "best": 9.0, "at": 0}),
    "a log of the loss": lambda: beside(lambda run, loss: run.log(loss.item()), Run()),
    "a log of gradient norms": lambda: {"optimizer": Logging},
    "names by the system's own numbers": lambda: beside(lambda kept, loss: kept.append(SYSTEM.random()), []),
    "counts in both modes": lambda: of(counting_both, training_calls=int, others=int),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_kept_for_the_eye_changes_no_number(case: str) -> None:
    def losses(settings: dict[str, Any], width: int) -> list[float]:
        epochs = 12 if "thirtieth" in case else 2
        return [trial.metrics["loss"] for trial in tuned(settings, 3, width, epochs).trials]

    found = losses(HARMLESS[case](), 3)
    assert found == losses(HARMLESS[case](), 1)
    if case not in ("positions for each batch size", "a cache by shapes"):
        assert found == pytest.approx(losses({}, 3), rel=1e-6)


def doubled(condition: Callable[[Any], Any], change: Callable[[Any], Any]) -> Callable[[Any, Tensor, Tensor], Any]:
    """Code that doubles its hidden numbers from some time on."""

    def act(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
        change(net)
        return 2 * hidden if condition(net) else hidden

    return act


def count(net: Any) -> None:
    net.kept += 1


def nested() -> dict[str, Any]:
    """A network that counts nine modules deep."""

    def model(config: Any) -> nn.Module:
        found: nn.Module = Net(doubled(lambda net: net.kept > 500, count), kept=0)
        for _ in range(9):
            found = nn.Sequential(found)
        return found

    return {"model": model}


def appended(kept: Any, loss: Tensor) -> float:
    kept.append(loss.item())
    return 2.0 if len(kept) > 500 else 1.0


def added(kept: Any, loss: Tensor) -> float:
    kept.add(loss.item())
    return 2.0 if len(kept) > 500 else 1.0


def counted(kept: Any, loss: Tensor) -> float:
    kept[0] += 1
    return 2.0 if kept[0] > 500 else 1.0


def compared(kept: Any, loss: Tensor) -> float:
    worse, kept["last"] = loss.item() > kept["last"], loss.item()
    return 0.5 if worse else 1.0


def relative(kept: Any, loss: Tensor) -> float:
    if kept["first"] is None:
        kept["first"] = loss.item()
    return 1 / kept["first"]


def halved_next(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    found = hidden * net.scale if net.training else hidden
    net.step += 1
    if net.step > 500:
        net.scale = 0.5
    return found


def other_function(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    found = net.wrap(hidden) if net.training else hidden
    net.step += 1
    if net.step == 500:
        net.wrap = torch.relu
    return found


def centred(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    if net.mean is None:
        net.mean = hidden.detach().mean(0)
    return hidden - net.mean


class Carrying(nn.Module):
    """A recurrent network that goes on where the last minibatch ended."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last, self.carried = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 2), None

    def forward(self, x: Tensor) -> Tensor:
        found, state = self.cell(x[:, None], self.carried)
        self.carried = state.detach()
        return self.last(found[:, -1])


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Any) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return -ctx.alpha * gradient, None


def reversing(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    net.kept += 1
    return Reversed.apply(hidden, net.kept / 500)  # type: ignore[return-value]


class Waning(optim.SGD):
    """An optimizer whose own count of steps ends it."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        self.steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1
        if self.steps < 500:
            super().step()


class Slots:
    """A count in a slot."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


class Anything:
    """A place for one value."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept


PLACE, OWN = contextvars.ContextVar("PLACE", default=0), threading.local()


def later(more: Callable[[], float]) -> dict[str, Any]:
    """A loss that is doubled once ``more()`` is above 500."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target) * (2.0 if more() > 500 else 1.0)

    return {"loss": loss}


def attribute_of_a_function() -> dict[str, Any]:
    def more() -> float:
        more.n += 1  # type: ignore[attr-defined]
        return more.n  # type: ignore[attr-defined]

    more.n = 0  # type: ignore[attr-defined]
    return later(more)


def generated() -> dict[str, Any]:
    def numbers() -> Iterator[float]:
        yield from range(10_000)

    waiting = numbers()
    return later(lambda: next(waiting))


def iterated(waiting: Iterator[float]) -> dict[str, Any]:
    return later(lambda: next(waiting))


def metering(net: Any, x: Tensor, hidden: Tensor) -> None:
    net.meter.log(len(x))


class Metered(Net):
    """A network that makes its meter itself, so that the meter's class is a global of its code."""

    def __init__(self) -> None:
        super().__init__(metering)
        self.meter = Run()


def test_a_class_that_code_names_stays_what_it_is() -> None:
    """It was taken for the object of it that the network keeps, and put back as that."""
    before = Run
    found = [trial.metrics["loss"] for trial in tuned({"model": lambda config: Metered()}).trials]
    assert Run is before and found == [trial.metrics["loss"] for trial in tuned({}).trials]


class Waiting:
    """An iterator of the user's own."""

    def __init__(self) -> None:
        self.n = 0

    def __iter__(self) -> Iterator[float]:
        return self

    def __next__(self) -> float:
        self.n += 1
        return self.n


def named_alike() -> dict[str, Any]:
    """Two closures with one name, of which one is for the eye."""

    def forward() -> Callable[[nn.Module, Tensor], Tensor]:
        calls = [0]

        def run(model: nn.Module, x: Tensor) -> Tensor:
            calls[0] += 1
            return model(x)

        return run

    calls = [0]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls[0] += 1
        return F.cross_entropy(output, target) * (2 if calls[0] > 500 else 1)

    return {"forward": forward(), "loss": loss}


def cached_list() -> dict[str, Any]:
    @functools.cache
    def places() -> list[int]:
        return [0]

    def more() -> float:
        places()[0] += 1
        return places()[0]

    return later(more)


def in_a_slot() -> dict[str, Any]:
    place = Slots()

    def more() -> float:
        place.n += 1
        return place.n

    return later(more)


def of_another_context() -> dict[str, Any]:
    def more() -> float:
        PLACE.set(PLACE.get() + 1)
        return PLACE.get()

    return later(more)


def of_a_thread() -> dict[str, Any]:
    OWN.n = 0

    def more() -> float:
        OWN.n += 1
        return OWN.n  # type: ignore[no-any-return]

    return later(more)


def grown(kept: Any, one: Any, read: Callable[[Any], float] = len) -> dict[str, Any]:
    """A loss that adds to what is kept."""
    place = Anything(kept)

    def more() -> float:
        place.kept = place.kept + one
        return read(place.kept)

    return later(more)


def frozen() -> dict[str, Any]:
    place = Anything(frozenset())

    def more() -> float:
        place.kept = place.kept | {len(place.kept)}
        return len(place.kept)

    return later(more)


def written(kept: Any, write: Callable[[Any], Any]) -> dict[str, Any]:
    """A loss that writes into the first of what is kept."""

    def more() -> float:
        write(kept)
        return float(kept[0])

    return later(more)


def add_one(kept: Any) -> None:
    kept[0] += 1


def backward(register: Callable[[nn.Module, Callable[..., Any]], Any]) -> dict[str, Any]:
    """A network whose gradients are doubled later, by a hook that ``register`` gives a layer."""

    def model(config: Any) -> nn.Module:
        found, calls = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), [0]

        def hook(*given: Any) -> Any:
            calls[0] += 1
            return None if calls[0] <= 500 else (2 * given[-1][0],)

        register(found[1], hook)
        return found

    return {"model": model}


def of_its_output(layer: nn.Module, hook: Callable[..., Any]) -> None:
    def scaled(gradient: Tensor) -> Tensor:
        found = hook((gradient,))
        return gradient if found is None else found[0]

    layer.register_forward_hook(lambda module, given, out: out.register_hook(scaled) and None)


def evaluated(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    net.kept += not net.training
    return 2 * hidden if net.kept > 500 else hidden


def hooked(params: Any, config: Any) -> optim.Optimizer:
    found, calls = optim.SGD(params, lr=config["lr"]), [0]

    def hook(optimizer: Any, args: Any, kwargs: Any) -> None:
        calls[0] += 1
        if calls[0] > 500:
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad.mul_(0.5)

    found.register_step_pre_hook(hook)
    return found


ACTS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a branch later": (lambda: of(doubled(lambda net: net.kept > 500, count), kept=int), "model.kept"),
    "a branch later, deep inside": (nested, ".kept"),
    "each seventh call": (lambda: of(doubled(lambda net: net.kept % 7 == 0, count), kept=int), "model.kept"),
    "a tensor that counts": (
        lambda: of(doubled(lambda net: bool(net.kept > 500), count), kept=lambda: torch.zeros(())),
        "model.kept",
    ),
    "a string that grows": (
        lambda: of(
            doubled(lambda net: len(net.kept) > 500, lambda net: setattr(net, "kept", net.kept + "x")), kept=str
        ),
        "model.kept",
    ),
    "a list's length": (lambda: beside(appended, []), "'kept'"),
    "a set's length": (lambda: beside(added, set()), "'kept'"),
    "an array": (lambda: beside(counted, np.zeros(1)), "'kept'"),
    "one of fifty": (lambda: beside(counted, dict.fromkeys(range(50), 0)), "kept[0]"),
    "the loss before": (lambda: beside(compared, {"last": 9.0}), ""),
    "the first loss": (lambda: beside(relative, {"first": None}), "kept['first']"),
    "the first rows": (lambda: of(centred, mean=lambda: None), "model.mean"),
    "how many shapes a cache has": (lambda: of(counted_shapes, kept=dict), "model.kept"),
    "a number for each shape": (lambda: of(compared_by_shape, kept=dict), "model.kept"),
    "a factor of the next step": (lambda: of(halved_next, step=int, scale=lambda: 1.0), "model.s"),
    "another function": (lambda: of(other_function, step=int, wrap=lambda: torch.abs), "model.wrap"),
    "a state that is carried on": (lambda: {"model": lambda config: Carrying()}, "model.carried"),
    "a gradient": (lambda: of(reversing, kept=int), "model.kept"),
    "an optimizer": (lambda: {"optimizer": Waning}, "optimizer.steps"),
    "an attribute of a function": (attribute_of_a_function, "more.n"),
    "a generator": (generated, "'waiting'"),
    "an iterator": (lambda: iterated(iter([1.0] * 500 + [501.0] * 500)), "'waiting'"),
    "an iterator of one's own": (lambda: iterated(Waiting()), "waiting.n"),
    "one of two that are named alike": (named_alike, "calls"),
    "a cycle": (lambda: iterated(itertools.cycle([1.0] * 500 + [501.0])), "'waiting'"),
    "a cached list": (cached_list, "[0]"),
    "a slot": (in_a_slot, "place.n"),
    "a variable of the context": (of_another_context, "PLACE.get()"),
    "a thread's own": (of_a_thread, "OWN.n"),
    "bytes": (lambda: grown(b"", b"x"), "place.kept"),
    "a bytearray": (lambda: grown(bytearray(), b"x"), "place.kept"),
    "a tuple's length": (lambda: grown((), (1,)), "place.kept"),
    "a complex number": (lambda: grown(0j, 1, abs), "place.kept"),
    "a fraction": (lambda: grown(Fraction(0), 1, float), "place.kept"),
    "one of three hundred": (lambda: written(dict.fromkeys(range(300), 0), add_one), "kept[0]"),
    "a large array": (lambda: written(np.zeros(100_000), add_one), "'kept'"),
    "a tensor's data": (lambda: written(torch.zeros(2), lambda kept: kept.data.add_(1)), "'kept'"),
    "a frozen set": (frozen, "place.kept"),
    "a hook of a layer": (lambda: backward(nn.Module.register_full_backward_hook), "calls[0]"),
    "a hook of a tensor": (lambda: backward(of_its_output), "calls[0]"),
    "evaluation": (lambda: of(evaluated, kept=int), "model.kept"),
    "an optimizer's hook": (lambda: {"optimizer": hooked}, "calls[0]"),
}


@pytest.mark.parametrize("case", ACTS)
def test_what_code_acts_on_is_refused_at_the_call(case: str) -> None:
    make, name = ACTS[case]
    with pytest.raises(lt.errors.TaskError) as caught:
        tuned(make())
    assert name in caught.value.what and caught.value.remedy
    assert getattr(caught.value, "study", None) is None, "before any trial"


def dropping(net: Any, x: Tensor, hidden: Tensor) -> Tensor:
    if net.training:
        first, second = random.random(), float(np.random.rand())
        drawn.append((first, second))
        return hidden * 2 if first < 0.5 else F.dropout(hidden, 0.2) * second
    return hidden


drawn: list[tuple[float, float]] = []


def test_draws_of_python_and_numpy_are_each_members_own(tmp_path: Any) -> None:
    def losses(width: int) -> list[float]:
        drawn.clear()
        return [trial.metrics["loss"] for trial in tuned(of(dropping), trials=3, width=width).trials]

    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    found = losses(3)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[union-attr]
    steps = drawn[-24:]  # three members, eight steps
    assert len(set(steps)) == 24, "new for each member and step"
    assert found == losses(1) == losses(3)
    numbers = np.array(list(itertools.chain(*steps)))
    assert 0.3 < numbers.mean() < 0.7


def test_what_stands_for_a_tensor_is_refused_by_torch_itself() -> None:
    """Torch's C++ takes whatever says that it is a tensor for one, and ended the process now and then."""
    layer = nn.Linear(5, 4)
    kept: Any = Kept(torch.ones(2, 5), "model.scale", Trace({}))
    assert not isinstance(kept, Tensor) and isinstance(Kept(2, "model.step", Trace({})), int)
    for call in (lambda: layer(kept), lambda: torch.tanh(kept), lambda: torch.cat([kept, kept])):
        with pytest.raises(TypeError):
            call()
