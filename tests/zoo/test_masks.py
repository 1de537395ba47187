"""What each kind of random operator draws for a member, injected into a plain loop of torch: the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Gamma, Normal
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from zoo.entry import Of

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.stack import random_operators as random

aten = torch.ops.aten
STEPS, MEMBERS, P = 3, 2, 0.3
DIGITS = lt.data.digits(flat=True, train=40, valid=16)
RRELU = {aten.rrelu_with_noise, aten.rrelu_with_noise_}


def between(function: Any, **parts: nn.Module) -> nn.Module:
    """Two layers, and something that draws between them."""
    return Of(lambda m, x: m.b(function(m, torch.tanh(m.a(x)))), a=nn.Linear(64, 16), b=nn.Linear(16, 10), **parts)


def images(m: Any, x: Tensor) -> Tensor:
    return F.dropout2d(x.view(-1, 4, 2, 2), P, m.training).flatten(1)


def attention(m: Any, x: Tensor) -> Tensor:
    q = x.view(-1, 2, 4, 2)
    return F.scaled_dot_product_attention(q, q, q, dropout_p=P if m.training else 0.0).flatten(1)


def layers(part: nn.Module) -> nn.Module:
    """A part that takes sequences of four numbers."""

    def call(m: Any, x: Tensor) -> Tensor:
        x = x.view(-1, 4, 4)
        found = m.part(x, x, x) if isinstance(m.part, nn.MultiheadAttention) else m.part(x)
        return (found[0] if isinstance(found, tuple) else found).flatten(1)

    return between(call, part=part)


def discrete(m: Any, x: Tensor) -> Tensor:
    chosen = torch.multinomial(x.detach().softmax(1), 3)
    return x + torch.poisson(x.detach().exp()) * 0.1 + chosen.sum(1, keepdim=True) * 0.01


SETTINGS = {"batch_first": True, "dropout": P}
KINDS: dict[str, Any] = {
    "nn.Dropout in code of one's own": lambda: between(lambda m, x: torch.sort(m.d(x)).values, d=nn.Dropout(P)),
    "F.dropout": lambda: between(lambda m, x: F.dropout(x, P, m.training)),
    "dropout2d": lambda: between(images),
    "alpha dropout": lambda: between(lambda m, x: F.alpha_dropout(x, P, m.training)),
    "feature alpha dropout": lambda: between(lambda m, x: m.d(x), d=nn.FeatureAlphaDropout(P)),
    "attention's dropout_p": lambda: between(attention),
    "MultiheadAttention": lambda: layers(nn.MultiheadAttention(4, 2, **SETTINGS)),
    "TransformerEncoderLayer": lambda: layers(nn.TransformerEncoderLayer(4, 2, 8, P, batch_first=True)),
    "LSTM": lambda: layers(nn.LSTM(4, 4, 2, **SETTINGS)),
    "GRU": lambda: layers(nn.GRU(4, 4, 3, **SETTINGS)),
    "RNN": lambda: layers(nn.RNN(4, 4, 2, **SETTINGS)),
    "rrelu": lambda: between(lambda m, x: m.r(x), r=nn.RReLU()),
    "bernoulli": lambda: between(lambda m, x: x * torch.bernoulli(torch.full_like(x, 0.6))),
    "rand": lambda: between(lambda m, x: x + torch.rand(len(x), 1)),
    "randn_like": lambda: between(lambda m, x: x + 0.1 * torch.randn_like(x)),
    "rsample": lambda: between(lambda m, x: Normal(x, 0.1).rsample()),
    "gamma's rsample": lambda: between(lambda m, x: x * Gamma(x.exp(), 1.0).rsample()),
    "gumbel_softmax": lambda: between(lambda m, x: F.gumbel_softmax(x, hard=True)),
    "multinomial, poisson": lambda: between(discrete),
}
MASKS = {name for name in KINDS if "rop" in name or name in ("LSTM", "GRU", "RNN", "MultiheadAttention")}


class Recorded:
    """The numbers that each member is given, by its key and step, in the order of the operators."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.numbers: dict[tuple[int, int], list[Tensor]] = {}
        for packet, answer in random.ANSWERS.items():
            patch.setitem(random.ANSWERS, packet, self._noting(packet, answer))

    def _noting(self, packet: Any, answer: Any) -> Any:
        def noting(mode: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
            found = answer(mode, func, *args, **kwargs)
            drawn = found[1] if packet is aten.native_dropout else args[1] if packet in RRELU else found
            members, seen = len(mode.noise.key), set()
            for i, part in enumerate(drawn.chunk(members) if mode.stacked else [drawn]):
                place = int(mode.noise.key[i]), int(mode.noise.step[i])
                if place not in seen:  # a lone member has a double beside it
                    self.numbers.setdefault(place, []).append(part.detach().clone())
                seen.add(place)
            return found

        return noting


class Injected(TorchDispatchMode):
    """Torch's operators as they are, on numbers that were drawn before."""

    def __init__(self, numbers: list[Tensor]) -> None:
        super().__init__()
        self.waiting = list(numbers)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        number, packet = self.waiting.pop(0), func.overloadpacket
        if packet is aten.native_dropout:
            keep = number.view(args[0].shape).bool()
            return args[0].masked_fill(~keep, 0.0) / (1 - args[1]), keep
        if packet in RRELU:
            args[1].copy_(number.view(args[1].shape))
            found = args[0] * args[1]
            return args[0].copy_(found) if packet is aten.rrelu_with_noise_ else found
        found = func(*args, **kwargs)  # for its shape and its type
        return found.copy_(number.view(found.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_a_member_in_a_plain_loop_give_its_weights(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def model(config: Any) -> nn.Module:
        torch.manual_seed(3)
        return KINDS[kind]()

    task = lt.TorchTask(
        space=lt.Space(lr=lt.Float(0.01, 0.5)), model=model, data=DIGITS, loss=F.cross_entropy, batch_size=40,
        dtype=torch.float64,
    )  # fmt: skip
    program, adapter = task.program({"lr": 0.1}), Plain()
    batch = program.sources.example(rows=40)
    state = pytree.tree_map(
        lambda *rows: torch.cat(rows), *[adapter.init(program, {"lr": 0.1 * (k + 1)}, k) for k in range(MEMBERS)]
    )
    recorded = Recorded(monkeypatch)
    for _ in range(STEPS):
        state, _ = adapter.step(program, state, [batch], None)
    for member in range(MEMBERS):
        plain = model({}).double()
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1 * (member + 1))
        for step in range(STEPS):
            optimizer.zero_grad()
            with Injected(recorded.numbers[member, step]) as injected:
                loss = F.cross_entropy(plain(batch[0]), batch[1])
            loss.backward()
            optimizer.step()
            assert not injected.waiting, "the plain loop draws less often"
        for name, p in plain.named_parameters():
            torch.testing.assert_close(state["params"][name][member], p.detach(), rtol=1e-8, atol=1e-10)
    drawn = [torch.cat([part.double().flatten() for part in parts]) for parts in recorded.numbers.values()]
    assert len(drawn) == STEPS * MEMBERS
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i]), "each step and member anew"
    if kind in MASKS:
        every = torch.cat(drawn)
        assert set(every.tolist()) == {0.0, 1.0}
        assert abs(float(every.mean()) - (1 - P)) < 5 * (P * (1 - P) / len(every)) ** 0.5
