"""Any torch.optim optimizer, over the stacked parameters of all members at once, with settings that differ by member.

torch's elementwise optimizers do the same to every number, so one instance over (members, …) tensors does what an
instance a member would, as long as a setting that differs by member becomes a tensor where a kernel reads it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Tensors = dict[str, Tensor]


class PerMember(float):
    """A number for each member: a float (the first one's) to who asks for one, and arithmetic keeps them all."""

    values: Tensor

    def __new__(cls, values: Tensor, nominal: float) -> PerMember:
        self = float.__new__(cls, nominal)  # not read from the tensor, which may be one of a trace
        self.values = values
        return self

    def at(self, like: Tensor) -> Tensor:
        """(members, 1, …) to multiply ``like``."""
        values = self.values.to(like.dtype) if like.is_floating_point() else self.values
        return values.view(-1, *[1] * (like.ndim - 1))

    def __neg__(self) -> PerMember:
        return PerMember(-self.values, -float(self))

    def __deepcopy__(self, memo: Any) -> PerMember:
        return self


def _arithmetic(name: str, swap: bool) -> Callable[[PerMember, Any], Any]:
    function = getattr(operator, name)

    def method(self: PerMember, other: Any) -> Any:
        if isinstance(other, Tensor) and other.ndim:
            return function(other, self.at(other)) if swap else function(self.at(other), other)
        number = other.values if isinstance(other, PerMember) else other
        if not isinstance(number, int | float | Tensor):
            return NotImplemented
        nominal = 1.0 if isinstance(other, Tensor) else float(other)
        pair = (nominal, float(self)) if swap else (float(self), nominal)
        return PerMember(function(number, self.values) if swap else function(self.values, number), function(*pair))

    return method


for _name in ("add", "sub", "mul", "truediv", "pow"):
    setattr(PerMember, f"__{_name}__", _arithmetic(_name, False))
    setattr(PerMember, f"__r{_name}__", _arithmetic(_name, True))


class Settings(TorchFunctionMode):
    """Gives a kernel the tensor of a :class:`PerMember` number (alpha=, value=, a weight, a factor)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(value, PerMember) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        scale = kwargs.get("alpha", kwargs.get("value"))
        if isinstance(scale, PerMember):
            x, first, *rest = args
            step = first if "alpha" in kwargs else first / rest[0] if "cdiv" in name else first * rest[0]
            scale = scale.at(x) if "sub" not in name else -scale.at(x)
            new = torch.addcmul(x, step, scale)
            return x.copy_(new) if name.endswith("_") else new
        like = next(value for value in args if isinstance(value, Tensor))
        args, given = (
            [v.at(like) if isinstance(v, PerMember) else v for v in args],
            {k: v.at(like) if isinstance(v, PerMember) else v for k, v in kwargs.items()},
        )
        return func(*args, **given)


class Stock:
    """A torch.optim optimizer as the pure functions ``init`` and ``update`` over stacks.

    Args:
        make: (parameters, settings) -> optimizer. ``settings`` are the member's hyperparameters, PerMember floats.
        reads: The names that ``make`` may read.
        in_turn: One instance a member: what is not elementwise (Muon, Adafactor, LBFGS without a closure, …).
    """

    def __init__(self, make: Callable[..., torch.optim.Optimizer], reads: tuple[str, ...], *, in_turn: bool = False):
        self.make, self.reads, self.in_turn = make, reads, in_turn
        self.starts_empty = True  # torch's optimizers make their slots in the first step
        self.lr = 0.0  # the factory has one of its own
        self.nominal: dict[str, float] = {}  # a value of each setting, for the optimizer's own checks
        self.clip_norm: float | None = None
        self.weight_decay, self.decoupled = 0.0, True  # as adapters ask for it; known from the first instance

    def init(self, params: Tensors, hyper: Mapping[str, Tensor]) -> dict[str, Any]:
        """The state after no step; slots that the optimizer makes in its first step are zero or as it makes them."""
        for name, value in hyper.items():
            if value.ndim == 1 and not self.nominal.get(name):
                self.nominal[name] = float(value[0])
        probe = self.make([torch.zeros_like(p[0]) for p in params.values()], dict(self.nominal))
        group = probe.param_groups[0]
        self.weight_decay = float(group.get("weight_decay", 0.0))
        self.decoupled = type(probe) not in PENALISED or bool(group.get("decoupled_weight_decay", False))
        return {}  # torch's optimizers make their slots in the first step

    def update(
        self, params: Tensors, gradients: Tensors, state: Any, hyper: Mapping[str, Tensor], step: Tensor
    ) -> tuple[Tensors, Any]:
        """One step, on copies. A parameter without a gradient is left as it is, as torch.optim does."""
        return self._step({name: p.clone() for name, p in params.items()}, gradients, state, hyper)

    def _step(self, params: Tensors, gradients: Tensors, state: Any, hyper: Any) -> tuple[Tensors, Any]:
        if self.in_turn:
            members = len(next(iter(params.values())))
            rows = []
            for i in range(members):
                pick = lambda tree: {k: pick(v) if isinstance(v, dict) else v[i : i + 1] for k, v in tree.items()}  # noqa: B023,E731
                rows.append(self._one(pick(params), pick(gradients), state and pick(state), pick(hyper), squeeze=True))
            return _join([row[0] for row in rows]), _join([row[1] for row in rows])
        return self._one(params, gradients, state, hyper, squeeze=False)

    def _one(self, params: Any, gradients: Any, state: Any, hyper: Any, *, squeeze: bool) -> Any:
        members = len(next(iter(params.values())))
        leaves = {name: (p[0] if squeeze else p).detach().clone() for name, p in params.items()}
        settings = {
            n: float(v[0]) if squeeze else PerMember(v, self.nominal.get(n, 1.0))
            for n, v in hyper.items()
            if v.ndim == 1
        }
        optimizer = self.make(list(leaves.values()), settings)
        for group in optimizer.param_groups:
            group.update({name: False for name in ("foreach", "fused") if name in group})
            if not squeeze and not isinstance(group["lr"], PerMember):  # a step size is made of it, and of the step
                like = next(iter(params.values()))
                group["lr"] = PerMember(torch.full((members,), group["lr"], device=like.device), group["lr"])
        for name, leaf in leaves.items():
            if name in gradients:
                leaf.grad = gradients[name][0].clone() if squeeze else gradients[name]
            if state and name in state.get("slots", {}):
                optimizer.state[leaf] = {
                    slot: (v[0] if squeeze or slot in SHARED else v).clone() for slot, v in state["slots"][name].items()
                }
        with nullcontext() if squeeze else Settings(), nullcontext() if squeeze else _steps_stay_tensors():
            optimizer.step()
        slots = {
            name: {
                slot: (v[None] if squeeze else v.double().expand(members).clone() if v.ndim == 0 else v)
                for slot, v in optimizer.state[leaf].items()
                if isinstance(v, Tensor)
            }
            for name, leaf in leaves.items()
            if leaf in optimizer.state
        }
        new = {name: leaf[None] if squeeze else leaf for name, leaf in leaves.items()}
        return new, {"slots": slots}


@contextmanager
def _steps_stay_tensors() -> Iterator[None]:
    """torch's optimizers read their count of steps by item(), unless they are being compiled."""
    before, torch.compiler._is_compiling_flag = torch.compiler._is_compiling_flag, True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


PENALISED = tuple(
    getattr(torch.optim, name) for name in ("SGD", "Adam", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "RMSprop")
)
SHARED = ("step", "mu_product")  # one number for all members, which are of one age


def _join(rows: list[Any]) -> Any:
    first = rows[0]
    return {
        k: _join([r[k] for r in rows]) if isinstance(v, dict) else torch.cat([r[k] for r in rows])
        for k, v in first.items()
    }


def checked(stock: Stock, params: Tensors, hyper: Mapping[str, Tensor]) -> Stock:
    """The optimizer over the stacks where two random steps of it give what an instance a member does, else those."""
    stock.init(params, hyper)
    alone = Stock(stock.make, stock.reads, in_turn=True)
    generator = torch.Generator().manual_seed(0)
    params = {n: torch.cat([p, p * 1.1]) for n, p in params.items()}
    hyper = {n: torch.cat([h, h * 0.7]) for n, h in hyper.items()}
    results = []
    gradients = [{n: torch.randn(p.shape, generator=generator).to(p) for n, p in params.items()} for _ in range(2)]
    for form in (stock, alone):
        try:
            now, state = params, None
            for gradient in gradients:
                now, state = form._step({n: p.clone() for n, p in now.items()}, gradient, state, hyper)
            results.append(now)
        except Exception:
            if form is alone:
                raise
            return alone
    same = all(torch.allclose(results[0][n], results[1][n], rtol=1e-4, atol=1e-6) for n in params)
    return stock if same else alone
