"""Every random operator of torch inside ``with Keyed(...)`` is answered from the members' own noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.errors import TaskError
from luthier.stack.noise import Noise

aten = torch.ops.aten


class Keyed(TorchDispatchMode):
    """Answers what torch's generators would draw: below vmap(randomness="different") for all members at once.

    Args:
        noise: Of the members.
        stacked: Operators have the members' axis first, as they have below vmap; else they are those of one member.
    """

    def __init__(self, noise: Noise, *, stacked: bool) -> None:
        super().__init__()
        self.noise, self.stacked, self.site = noise, stacked, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        answer = ANSWERS.get(func.overloadpacket)
        if answer is None:
            raise TaskError(
                f"it draws by torch's {func}, which has no form that is the same alone and in a stack",
                where="model or loss",
                remedy="Draw by rand, randn, bernoulli, dropout, multinomial or their like.",
            )
        if kwargs.pop("generator", None) is not None:
            raise TaskError(
                f"it draws by {func} from a generator of its own",
                where="model or loss",
                remedy="Leave generator= out: luthier gives each member its own randomness.",
            )
        return answer(self, func, *args, **kwargs)

    def draw(self, kind: str, shape: Any, out: torch.dtype, **settings: Any) -> Tensor:
        """Numbers of :class:`Noise` in the shape of the operator's result."""
        shape, site = tuple(shape), self.site
        self.site += 1
        method: Callable[..., Tensor] = getattr(self.noise, kind)
        if not self.stacked:
            return method(site, shape, **settings)[0].to(out)
        members = len(self.noise.key)
        if not shape or shape[0] % members:
            raise TaskError(f"a draw of shape {shape} for {members} members", where="model", remedy="Report this.")
        return method(site, (shape[0] // members, *shape[1:]), **settings).reshape(shape).to(out)

    def uniform(self, shape: Any, dtype: torch.dtype) -> Tensor:
        return self.draw("uniform", shape, dtype, dtype=_wide(dtype))

    def normal(self, shape: Any, dtype: torch.dtype) -> Tensor:
        return self.draw("normal", shape, dtype, dtype=_wide(dtype))

    def exponential(self, shape: Any, dtype: torch.dtype) -> Tensor:
        return -torch.log1p(-self.uniform(shape, dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _type(kwargs: Any, like: Tensor | None = None) -> torch.dtype:
    return kwargs.get("dtype") or (like.dtype if like is not None else torch.get_default_dtype())


def _bernoulli(mode: Keyed, func: Any, x: Tensor, p: Any = None, **_: Any) -> Tensor:
    p = x if p is None and func is aten.bernoulli.default else 0.5 if p is None else p
    if isinstance(p, Tensor):
        new = (mode.uniform(x.shape, torch.float32) < p).to(x.dtype)
    else:
        new = mode.draw("keep", x.shape, x.dtype, rate=1 - p) if p > 0 else torch.zeros_like(x)
    return x.copy_(new) if func.overloadpacket is aten.bernoulli_ else new


def _dropout(mode: Keyed, func: Any, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if not train or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = mode.draw("keep", x.shape, torch.bool, rate=p)
    return x * keep * (1 / (1 - p) if p < 1 else 0.0), keep


def _range(mode: Keyed, shape: Any, low: int, high: int) -> Tensor:
    return (mode.uniform(shape, torch.float32) * (high - low) + low).floor().clamp(max=high - 1)


def _randint(mode: Keyed, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    *bounds, shape = args
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return _range(mode, shape, low, high).to(kwargs.get("dtype") or torch.int64)


def _randint_like(mode: Keyed, func: Any, x: Tensor, *bounds: int, **kwargs: Any) -> Tensor:
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return _range(mode, x.shape, low, high).to(_type(kwargs, x))


def _normal(mode: Keyed, func: Any, mean: Any, std: Any = 1.0, *args: Any, **kwargs: Any) -> Tensor:
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    shape = torch.broadcast_shapes(*(x.shape for x in given)) if given else args[0]
    return mode.normal(shape, given[0].dtype if given else _type(kwargs)) * std + mean


def _multinomial(mode: Keyed, func: Any, p: Tensor, count: int, replacement: bool = False, **_: Any) -> Tensor:
    if replacement and count > 1:
        return (mode.exponential((*p.shape[:-1], count, p.shape[-1]), p.dtype) / p.unsqueeze(-2)).argmin(-1)
    return (mode.exponential(p.shape, p.dtype) / p).topk(count, -1, largest=False).indices


def _randperm(mode: Keyed, func: Any, n: int, **_: Any) -> Tensor:
    if mode.stacked:
        raise TaskError("randperm in a stack", where="model", remedy="Write torch.rand(n).argsort().")
    return mode.uniform((n,), torch.float32).argsort()


ANSWERS: dict[Any, Callable[..., Any]] = {
    aten.bernoulli: _bernoulli,
    aten.bernoulli_: _bernoulli,
    aten.native_dropout: _dropout,
    aten.rand: lambda m, f, shape, **k: m.uniform(shape, _type(k)),
    aten.rand_like: lambda m, f, x, **k: m.uniform(x.shape, _type(k, x)),
    aten.randn: lambda m, f, shape, **k: m.normal(shape, _type(k)),
    aten.randn_like: lambda m, f, x, **k: m.normal(x.shape, _type(k, x)),
    aten.uniform_: lambda m, f, x, low=0.0, high=1.0: x.copy_(m.uniform(x.shape, x.dtype) * (high - low) + low),
    aten.normal_: lambda m, f, x, mean=0.0, std=1.0: x.copy_(m.normal(x.shape, x.dtype) * std + mean),
    aten.normal: _normal,
    aten.exponential_: lambda m, f, x, rate=1.0: x.copy_(m.exponential(x.shape, x.dtype) / rate),
    aten.randint: _randint,
    aten.randint_like: _randint_like,
    aten.multinomial: _multinomial,
    aten.randperm: _randperm,
}
