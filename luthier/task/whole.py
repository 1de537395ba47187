"""The step of a TorchTask whose member is one function, tensors, batch and noise to a loss: a stack is vmap of it."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.optim import SGD, Adam
from luthier.optim.stock import Stock, checked
from luthier.stack import Noise, batching, unstack_into
from luthier.stack.members import general_attention
from luthier.stack.random import Keyed
from luthier.task.program import Program
from luthier.task.reading import rows_of_tree

State = dict[str, Any]
GATHERED = 1 << 30  # bytes of gathered outputs


def call_model(model: nn.Module, inputs: Any) -> Any:
    """How a model is called without ``forward=``: by what the inputs are."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def parts(batch: Any) -> tuple[Any, Any]:
    """(inputs, target) of a batch: a pair is both, anything else stands for both."""
    return (batch[0], batch[1]) if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, batch)


class Member(nn.Module):
    """Model and loss of one member as one module, so that one call of functional_call runs both."""

    def __init__(self, model: nn.Module, loss: Any, forward: Callable[..., Any] | None, autocast: Any) -> None:
        super().__init__()
        self.model, self.loss, self._forward, self._autocast = model, loss, forward or call_model, autocast

    def forward(self, batch: Any) -> tuple[Any, Any]:
        inputs, target = parts(batch)
        with torch.autocast("cpu", self._autocast, enabled=self._autocast is not None):
            output = self._forward(self.model, inputs)
            return self.loss(output, target), output


class WholeProgram(Program):
    """:class:`Program` without rewriting: what adapters step with is the same."""

    def __init__(self, task: Any, config: Any) -> None:
        batching.install()
        _refuse_unread(task)
        self.task, self.static = task, task.static(config)
        self.device = torch.device(task.device or "cpu")
        self.sources = task.sources(config)
        self.sources.check()
        self.batch_size, self.epoch_steps = task.rows_in_batch(config), task.epoch_steps(config)
        self.schedules = task.schedule if isinstance(task.schedule, tuple) else (task.schedule,)
        self.traces, self.choices, self.owners = {}, {}, {}
        self._template = self._member(config, 0)
        self._names = {id(t): n for n, t in [*self._template.named_parameters(), *self._template.named_buffers()]}
        self._fused = not any(isinstance(part, nn.LSTM) for part in self._template.modules())
        self._metrics, self._costs, self._penalty = task.metrics, {}, None
        self._loop = False
        example = self._small(self.sources.example())
        self._rank = _first(example).ndim
        self.optimizer = self._optimizer(config)
        self._choose(config, example)
        if isinstance(self.optimizer, Stock):
            state = self.init(config, 0)
            self.optimizer = checked(self.optimizer, state["params"], state["hyper"])

    # -- state

    def init(self, config: Any, key: int, parent: State | None = None, overwrite: Any = None) -> State:
        if parent is not None:
            return super().init(config, key, parent, overwrite)
        member, hyper = self._member(config, key), self.hyper(config)
        named = [(n, p) for n, p in member.named_parameters()]
        params = {n: p.detach().clone()[None] for n, p in named if p.requires_grad}
        fixed = {n: p.detach().clone()[None] for n, p in named if not p.requires_grad}
        return {
            "params": params,
            "buffers": fixed | {n: b.detach().clone()[None] for n, b in member.named_buffers()},
            "opt": self.optimizer.init(params, hyper),
            "t": torch.zeros(1, dtype=torch.int64, device=self.device),
            "key": torch.tensor([key], device=self.device),
            "hyper": hyper,
            "own": {},
        }

    # -- the pure step

    def losses(self, params: Any, buffers: Any, hyper: Any, batch: Any, noise: Noise) -> Any:
        (losses, _), buffers = self._run(params, buffers, batch, noise, training=True)
        return losses, buffers

    def gradient(self, state: State, hyper: Any, batch: Any) -> Any:
        params = {name: p.detach().requires_grad_() for name, p in state["params"].items()}
        micro = [batch] if self.task.accumulate == 1 else self._micro(batch)
        buffers, total, sums = state["buffers"], 0.0, {}
        for i, part in enumerate(micro):
            noise = Noise(state["key"], state["t"], site=i << 16)
            losses, buffers = self.losses(params, buffers, hyper, part, noise)
            found = torch.autograd.grad(losses.sum() / len(micro), list(params.values()), allow_unused=True)
            for name, g in zip(params, found, strict=True):
                if g is not None:  # those that the loss does not reach keep no gradient, as in torch
                    sums[name] = sums[name] + g if name in sums else g
            total = total + losses.detach() / len(micro)
            buffers = {n: b.detach() for n, b in buffers.items()}
        return total, sums, buffers

    def apply(self, state: State, hyper: Any, gradients: Any, buffers: Any) -> State:
        if isinstance(self.optimizer, Stock):
            params, opt = self.optimizer.update(state["params"], gradients, state["opt"], hyper, state["t"])
            return {**state, "params": params, "opt": opt, "buffers": buffers, "t": state["t"] + 1}
        reached = {**state, "params": {n: p for n, p in state["params"].items() if n in gradients}}
        reached["opt"] = {s: {n: v for n, v in t.items() if n in gradients} for s, t in state["opt"].items()}
        after = super().apply(reached, hyper, gradients, buffers)
        opt = {s: {**t, **after["opt"].get(s, {})} for s, t in state["opt"].items()}
        return {**after, "params": {**state["params"], **after["params"]}, "opt": opt}

    @torch.no_grad()
    def evaluate(self, state: State, split: str) -> dict[str, Tensor]:
        """Loss and metrics of the whole split, on gathered outputs: none need be a mean over rows."""
        outputs, targets, held = [], [], 0
        losses: Any = 0.0
        rows = 0
        for batch in self.sources[split].in_order(self.batch_size):
            (loss, output), _ = self._run(state["params"], state["buffers"], batch, None, training=False)
            outputs.append(output)
            targets.append(parts(batch)[1])
            count = len(pytree.tree_leaves(batch)[0])
            losses, rows = losses + loss.double() * count, rows + count
            held += sum(leaf.nbytes for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
            if held > GATHERED:
                raise TaskError(
                    f"the outputs on the split {split!r} are larger than {GATHERED >> 20} MiB",
                    where="TorchTask(metrics=…)",
                    remedy="Write a metric as lt.metrics.Mean(function), which needs a batch at a time.",
                )

        def joined(axis: int) -> Callable[..., Any]:
            def join(*leaves: Any) -> Any:
                first = leaves[0]
                return torch.cat(leaves, axis) if isinstance(first, Tensor) and first.ndim > axis else first

            return join

        output, target = pytree.tree_map(joined(1), *outputs), pytree.tree_map(joined(0), *targets)
        members = len(state["t"])
        found = {"loss": self._loss_of(output, target, members, losses / rows)}
        for name, metric in self._metrics.items():
            values = [metric(rows_of_tree(output, i), target) for i in range(members)]
            found[name] = torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in values])
        return found

    def _loss_of(self, output: Any, target: Any, members: int, mean: Tensor) -> Tensor:
        loss = self._template.loss
        if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            return mean
        return torch.stack([loss(rows_of_tree(output, i), target).double() for i in range(members)])

    def objective(self, params: Any, buffers: Any, hyper: Any, batch: Any, name: str = "loss") -> Tensor:
        (losses, output), _ = self._run(params, buffers, batch, None, training=False)
        if name == "loss":
            return losses
        return torch.stack([self._metrics[name](rows_of_tree(output, i), parts(batch)[1]) for i in range(len(losses))])

    def module(self, config: Any, state: State) -> nn.Module:
        member = self._member(config, 0)
        params = {n for n, _ in member.named_parameters()}
        all_ = {**state["params"], **state["buffers"]}
        unstack_into(
            member, {n: t for n, t in all_.items() if n in params}, {n: t for n, t in all_.items() if n not in params}
        )
        return member.model.eval()

    # -- how a member runs for all members

    def _run(self, params: Any, buffers: Any, batch: Any, noise: Noise | None, *, training: bool) -> Any:
        members = len(next(iter(params.values())))
        if noise is None:
            zero = torch.zeros(members, dtype=torch.int64, device=self.device)
            noise = Noise(zero, zero)
        own = _first(batch).ndim > self._rank
        tensors = {**params, **buffers}
        self._template.train(training)
        with _one_dnn(self._fused), general_attention():
            if self._loop:
                rows = [
                    self._one(rows_of_tree(tensors, i), rows_of_tree(batch, i) if own else batch, buffers, noise, i)
                    for i in range(members)
                ]
                result, new = pytree.tree_map(
                    lambda *leaves: torch.stack(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *rows
                )
                return result, new
            padded = members == 1  # kernels for one matrix differ from those for several
            if padded:
                grow = lambda t: t.expand(2, *t.shape[1:])  # noqa: E731
                tensors = {n: grow(t) for n, t in tensors.items()}
                noise = Noise(grow(noise.key), grow(noise.step), noise.site, noise.differentiable)
                batch = pytree.tree_map_only(Tensor, grow, batch) if own else batch

            def one(tensors: Any, batch: Any) -> Any:
                tensors = {n: t.clone() if n in buffers else t for n, t in tensors.items()}
                result = functional_call(self._template, tensors, (batch,))
                return result, {n: tensors[n] for n in buffers}

            with Keyed(noise, stacked=True):
                result = vmap(one, in_dims=(0, 0 if own else None), randomness="different")(tensors, batch)
        return pytree.tree_map_only(Tensor, lambda t: t[:1], result) if padded else result

    def _one(self, tensors: Any, batch: Any, buffers: Any, noise: Noise, i: int) -> Any:
        tensors = {n: t.clone() if n in buffers else t for n, t in tensors.items()}
        with Keyed(Noise(noise.key[i : i + 1], noise.step[i : i + 1], noise.site), stacked=False):
            result = functional_call(self._template, tensors, (batch,))
        return result, {n: tensors[n] for n in buffers}

    def _choose(self, config: Any, example: Any) -> None:
        """vmap where it runs and gives what a loop gives, else the loop."""
        state = self.init(config, 0)
        two = pytree.tree_map(
            lambda t: torch.cat([t, t]), {k: state[k] for k in ("params", "buffers", "t", "key", "hyper")}
        )
        two["params"] = {
            n: p * torch.tensor([1.0, 1.1], dtype=p.dtype).view(2, *[1] * (p.ndim - 1))
            for n, p in two["params"].items()
        }
        results, before = [], (random.getstate(), pickle.dumps(np.random.get_state()))
        for loop in (True, False):
            self._loop = loop
            try:
                loss, gradients, buffers = self.gradient(two, two["hyper"], example)
                results.append([loss, *gradients.values(), *buffers.values()])
            except Exception:
                if loop:
                    raise
        if before != (random.getstate(), pickle.dumps(np.random.get_state())):
            raise TaskError(
                "it draws from a generator of Python or NumPy: a member would not be the same alone and in a stack",
                where="model or loss",
                remedy="Draw by torch: torch.rand(()) < 0.1 instead of random.random() < 0.1.",
            )
        scale = max(float(t.double().abs().max()) for t in results[0] if t.numel())
        agrees = len(results) == 2 and all(
            torch.allclose(
                a.double(),
                b.double(),
                rtol=1e-3,
                atol=(1e-3 if self.task.autocast is None else 3e-2) * scale,
                equal_nan=True,
            )
            for a, b in zip(*results, strict=True)
        )
        self._loop = not agrees
        self.form = "vmap" if agrees else "loop"

    def _micro(self, batch: Any) -> list[Any]:
        n = self.task.accumulate
        rows = len(pytree.tree_leaves(batch)[0]) // n
        return [rows_of_tree(batch, slice(i * rows, (i + 1) * rows)) for i in range(n)]

    def _small(self, batch: Any) -> Any:
        return batch

    def _member(self, config: Any, key: int) -> Member:
        model = self._model(config, key)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            loss = self.task.loss
            loss = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
        return Member(model, loss, self.task.forward, self.task.autocast)

    def _optimizer(self, config: Any) -> Any:
        given = self.task.optimizer
        if isinstance(given, SGD | Adam):
            return given
        if isinstance(given, type) and issubclass(given, torch.optim.Optimizer):
            defaults = (
                [n for n in given.__init__.__code__.co_varnames if n in self.task.space.domains]
                if hasattr(given.__init__, "__code__")
                else list(self.task.space.domains)
            )
            names = [
                n for n in ("lr", "momentum", "weight_decay", "alpha", "eps", *defaults) if n in self.task.space.domains
            ]
            return Stock(
                lambda params, settings: given(
                    params, **{n: settings[n] for n in dict.fromkeys(names) if n in settings}
                ),
                tuple(names),
            )
        return Stock(given, tuple(self.task.space.domains))


def _first(tree: Any) -> Tensor:
    """The first tensor of a nest."""
    return next(leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))


@contextmanager
def _one_dnn(enabled: bool) -> Iterator[None]:
    """oneDNN on or off: its fused LSTM has no form for several members. (torch's own context manager warns.)"""
    before = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(enabled and bool(before))
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(bool(before))


def _refuse_unread(task: Any) -> None:
    """Raise for settings that this form of the step does not read yet, so that none is ignored in silence."""
    stock = not isinstance(task.optimizer, SGD | Adam)
    given = {
        "penalty": task.penalty is not None,
        "augment": task.augment is not None,
        "costs": bool(task.costs),
        "shared": task.shared,
        "schedule": bool(task.schedule) and stock,
    }
    for name, there in given.items():
        if there:
            remedy = "Leave it out, or leave whole= out."
            raise TaskError(f"{name} is not read where whole=True", where=f"TorchTask({name}=…)", remedy=remedy)
