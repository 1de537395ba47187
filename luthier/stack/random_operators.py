"""Every random operator of torch inside ``with Keyed(…)`` is answered from the members' own noise."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.errors import TaskError
from luthier.stack.noise import Lone, Noise

aten = torch.ops.aten
ROUNDS = 16  # of rejection for a gamma number, each of which accepts at least 95 of 100
BISECTIONS = 32


class Keyed(TorchDispatchMode):
    """Answers what torch's generators would draw: below vmap(randomness="different") for all members at once.

    Args:
        noise: The members' noise.
        stacked: Operators have the members' axis first, as they have below vmap; else they are those of one member.

    Attributes:
        site: Draws so far: those of a step are told apart by their order.
    """

    def __init__(self, noise: Noise, *, stacked: bool) -> None:
        super().__init__()
        self.noise, self.stacked, self.site = noise, stacked, 0
        self._waiting: list[Tensor] = []  # permutations that vmap will ask for, one member after the other

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch would import its compiler, which takes a second, to say so to it
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        return self.answer(func, *args, **(kwargs or {}))

    def answer(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """The members' own numbers for what a random operator asks for.

        Raises:
            TaskError: If it has no form that is the same alone and in a stack, or a generator of its own.
        """
        if "out" in kwargs:
            out: Tensor = kwargs.pop("out")
            return out.copy_(self.answer(func, *args, **kwargs))
        answer = ANSWERS.get(func.overloadpacket)
        if answer is None:
            raise TaskError(
                f"it draws by torch's {func.overloadpacket}, which has no form that is the same alone and in a stack",
                where="model or loss",
                remedy="Draw by rand, randn, bernoulli, dropout, multinomial or their like.",
            )
        if kwargs.pop("generator", None) is not None:
            raise TaskError(
                f"it draws by {func.overloadpacket} from a generator of its own",
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
        assert shape and shape[0] % members == 0, "vmap puts the members first"
        return method(site, (shape[0] // members, *shape[1:]), **settings).reshape(shape).to(out)

    def uniform(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return self.draw("uniform", shape, dtype, dtype=_wide(dtype))

    def normal(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """Standard normal numbers."""
        return self.draw("normal", shape, dtype, dtype=_wide(dtype))

    def exponential(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """Numbers of the exponential distribution of rate 1."""
        return -torch.log1p(-self.uniform(shape, dtype))

    def permutation(self, count: int) -> Tensor:
        """A permutation of ``count`` numbers; vmap asks for one per member, in turn."""
        if not self._waiting:
            site, self.site = self.site, self.site + 1
            self._waiting = list(torch.sort(self.noise.uniform(site, (count,)), dim=-1, stable=True).indices.unbind(0))
        return self._waiting.pop(0)


RANDOM = "CustomRNGKeyId"  # torch's key, below those of gradients, for generators that are not its own
COMPOSITE = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
_RUNNING: list[Keyed] = []  # those that answer below dispatch
_ENTERED: list[Keyed] = []  # those and the dispatch modes


@functools.cache
def install() -> list[torch.library.Library]:
    """Register, once a process, what random operators do below :func:`answered`; all others fall through."""
    below, library = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    below.fallback(torch.library.fallthrough_kernel, RANDOM)
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in torch._C._dispatch_get_all_op_names():
        if not name.startswith("aten::"):
            continue
        base, _, overload = name.removeprefix("aten::").partition(".")
        func, composite = getattr(getattr(aten, base, None), overload or "default", None), has(name, COMPOSITE[0])
        if func is not None and torch.Tag.nondeterministic_seeded in func.tags and not composite:
            library.impl(name.removeprefix("aten::"), functools.partial(_running, func), RANDOM)
        elif has(name, "CPU") and any(has(name, key) for key in COMPOSITE):
            # torch would take the decomposition, of other last bits, for the kernel of this key before the fallback
            library.impl(name.removeprefix("aten::"), torch.library.fallthrough_kernel, RANDOM)
    return [below, library]


def _running(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _RUNNING[-1].answer(func, *args, **kwargs)


def unseen() -> bool:
    """Return True if nobody traces or watches the operators."""
    return torch._C._len_torch_dispatch_stack() == 0


@contextmanager
def answered(noise: Noise, *, stacked: bool) -> Iterator[None]:
    """:class:`Keyed`, on a CPU at no cost to operators that draw nothing where nobody watches them."""
    if not unseen() or noise.key.device.type != "cpu":
        with Keyed(noise, stacked=stacked) as mode:
            _ENTERED.append(mode)
            try:
                yield
            finally:
                _ENTERED.pop()
        return
    install()
    include = torch._C._dispatch_tls_set_dispatch_key_included  # type: ignore[attr-defined]
    _RUNNING.append(Keyed(noise if stacked else Lone(noise), stacked=stacked))
    _ENTERED.append(_RUNNING[-1])
    include(RANDOM, True)
    try:
        yield
    finally:
        include(RANDOM, len(_RUNNING) > 1)
        _RUNNING.pop()
        _ENTERED.pop()


def drawn() -> int:
    """Draws so far of what is answered now."""
    return _ENTERED[-1].site if _ENTERED else 0


@contextmanager
def drawing_again(site: int) -> Iterator[None]:
    """Give the numbers from the draw ``site`` on once more, and go on after that where it was."""
    if not _ENTERED:
        yield
        return
    mode = _ENTERED[-1]
    before, mode.site = mode.site, site
    try:
        yield
    finally:
        mode.site = before


def _wide(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def _type(kwargs: Any, like: Tensor | None = None) -> torch.dtype:
    return kwargs.get("dtype") or (like.dtype if like is not None else torch.get_default_dtype())


def _bernoulli(mode: Keyed, func: Any, x: Tensor, p: Any = None, **_: Any) -> Tensor:
    p = x if p is None and func is aten.bernoulli.default else 0.5 if p is None else p
    if isinstance(p, Tensor):
        new = (mode.uniform(x.shape, torch.float32) < p).to(x.dtype)
    else:
        new = mode.draw("keep", x.shape, torch.bool, rate=1 - p) if p > 0 else torch.zeros_like(x)
    return x.copy_(new) if func.overloadpacket is aten.bernoulli_ else new.to(x.dtype)


def _dropout(mode: Keyed, func: Any, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if not train or p == 0:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    keep = mode.draw("keep", x.shape, torch.bool, rate=p) if p < 1 else torch.zeros_like(x, dtype=torch.bool)
    return x * keep * (1 / (1 - p) if p < 1 else 0.0), keep


def _range(mode: Keyed, shape: Any, low: int, high: int) -> Tensor:
    return (mode.uniform(shape, torch.float64) * (high - low) + low).floor().clamp(max=high - 1)


def _randint(mode: Keyed, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    *bounds, shape = args
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return _range(mode, shape, low, high).to(kwargs.get("dtype") or torch.int64)


def _randint_like(mode: Keyed, func: Any, x: Tensor, *bounds: int, **kwargs: Any) -> Tensor:
    low, high = (0, bounds[0]) if len(bounds) == 1 else bounds
    return _range(mode, x.shape, low, high).to(_type(kwargs, x))


def _random(mode: Keyed, func: Any, x: Tensor, *bounds: int | None, **_: Any) -> Tensor:
    whole = 1 << 24 if x.is_floating_point() else min(1 << 24, torch.iinfo(x.dtype).max)
    low, high = (0, whole) if not bounds else (0, bounds[0]) if len(bounds) == 1 else bounds
    return x.copy_(_range(mode, x.shape, int(low or 0), whole if high is None else int(high)))


def _normal(mode: Keyed, func: Any, mean: Any, std: Any = 1.0, *args: Any, **kwargs: Any) -> Tensor:
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    shape = torch.broadcast_shapes(*(x.shape for x in given)) if given else args[0]
    return mode.normal(shape, given[0].dtype if given else _type(kwargs)) * std + mean


def _multinomial(mode: Keyed, func: Any, p: Tensor, count: int, replacement: bool = False, **_: Any) -> Tensor:
    if replacement and count > 1:
        return (mode.exponential((*p.shape[:-1], count, p.shape[-1]), p.dtype) / p.unsqueeze(-2)).argmin(-1)
    return (mode.exponential(p.shape, p.dtype) / p).topk(count, -1, largest=False).indices


def _gamma(mode: Keyed, func: Any, shape: Tensor, **_: Any) -> Tensor:
    """Marsaglia and Tsang 2000, A simple method for generating gamma variables, in a fixed number of rounds."""
    a = shape.double()
    boost = torch.where(a < 1, mode.uniform(a.shape, torch.float64).clamp(min=2.0**-25).pow(1 / a), 1.0)
    d = torch.where(a < 1, a + 1, a) - 1 / 3
    found, open_ = d.clone(), torch.ones_like(d, dtype=torch.bool)
    for _round in range(ROUNDS):
        x, u = mode.normal(a.shape, torch.float64), mode.uniform(a.shape, torch.float64).clamp(min=2.0**-25)
        v = (1 + x / (9 * d).sqrt()).pow(3)
        accepted = (v > 0) & (u.log() < 0.5 * x.square() + d - d * v + d * v.clamp(min=1e-30).log())
        found = torch.where(open_ & accepted, d * v, found)
        open_ = open_ & ~accepted
    return (found * boost).to(shape.dtype).clamp(min=torch.finfo(shape.dtype).tiny)


def _dirichlet(mode: Keyed, func: Any, shape: Tensor, **_: Any) -> Tensor:
    parts = _gamma(mode, func, shape)
    return parts / parts.sum(-1, keepdim=True)


def _poisson(mode: Keyed, func: Any, rate: Tensor, **_: Any) -> Tensor:
    """The least k with P(X ≤ k) = Q(k + 1, rate) above a uniform number, found by bisection."""
    mean = rate.double()
    u = mode.uniform(mean.shape, torch.float64)
    low, high = torch.full_like(mean, -1.0), (mean + 12 * mean.sqrt() + 30).ceil()
    for _round in range(BISECTIONS):
        middle = ((low + high) / 2).floor()
        enough = torch.special.gammaincc(middle + 1, mean) > u
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        high = torch.maximum(high, low + 1)
    return torch.where(mean > 0, high, 0.0).to(rate.dtype)


def _rrelu(mode: Keyed, func: Any, x: Tensor, noise: Tensor, *args: Any, **_: Any) -> Tensor:
    lower, upper, training = [*args, *(0.125, 1 / 3, False)[len(args) :]][:3]
    if not training:
        return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)
    slope = mode.uniform(x.shape, x.dtype) * (upper - lower) + lower
    noise.copy_(torch.where(x <= 0, slope, 1.0))
    new = x * noise
    return x.copy_(new) if func.overloadpacket is aten.rrelu_with_noise_ else new


def _cauchy(mode: Keyed, func: Any, x: Tensor, median: float = 0.0, sigma: float = 1.0, **_: Any) -> Tensor:
    return x.copy_(torch.tan(math.pi * (mode.uniform(x.shape, x.dtype) - 0.5)) * sigma + median)


def _geometric(mode: Keyed, func: Any, x: Tensor, p: float, **_: Any) -> Tensor:
    return x.copy_((mode.exponential(x.shape, torch.float32) / -math.log1p(-p)).floor() + 1)


def _attention(mode: Keyed, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Torch's kernels of attention, which draw nothing where their dropout is 0: others it runs in plain operators."""
    include = torch._C._dispatch_tls_set_dispatch_key_included  # type: ignore[attr-defined]
    below = torch._C._dispatch_tls_is_dispatch_key_included(RANDOM)  # type: ignore[attr-defined]
    include(RANDOM, False)
    try:
        return func(*args, **kwargs)
    finally:
        include(RANDOM, below)


ANSWERS: dict[Any, Callable[..., Any]] = {
    aten.bernoulli: _bernoulli,
    aten.bernoulli_: _bernoulli,
    aten.native_dropout: _dropout,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.rand: lambda m, f, shape, **k: m.uniform(shape, _type(k)),
    aten.rand_like: lambda m, f, x, **k: m.uniform(x.shape, _type(k, x)),
    aten.randn: lambda m, f, shape, **k: m.normal(shape, _type(k)),
    aten.randn_like: lambda m, f, x, **k: m.normal(x.shape, _type(k, x)),
    aten.uniform_: lambda m, f, x, low=0.0, high=1.0: x.copy_(m.uniform(x.shape, x.dtype) * (high - low) + low),
    aten.normal_: lambda m, f, x, mean=0.0, std=1.0: x.copy_(m.normal(x.shape, x.dtype) * std + mean),
    aten.normal: _normal,
    aten.log_normal_: lambda m, f, x, mean=1.0, std=2.0: x.copy_((m.normal(x.shape, x.dtype) * std + mean).exp()),
    aten.exponential_: lambda m, f, x, rate=1.0: x.copy_(m.exponential(x.shape, x.dtype) / rate),
    aten.cauchy_: _cauchy,
    aten.geometric_: _geometric,
    aten.random_: _random,
    aten.randint: _randint,
    aten.randint_like: _randint_like,
    aten.multinomial: _multinomial,
    aten.randperm: lambda m, f, count, **_: m.permutation(count),
    aten._standard_gamma: _gamma,
    aten._sample_dirichlet: _dirichlet,
    aten.poisson: _poisson,
    aten.rrelu_with_noise: _rrelu,
    aten.rrelu_with_noise_: _rrelu,
}
