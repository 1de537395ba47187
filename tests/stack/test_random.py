"""What user code draws from torch is answered by numbers of the distribution that it asked for: SciPy is the judge."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.errors import TaskError
from luthier.stack import Noise
from luthier.stack.random_operators import Keyed, answered

torch.set_num_threads(1)
stats = pytest.importorskip("scipy.stats")

MEMBERS, COUNT = 4, 5_000
SIZE = (MEMBERS, COUNT)


def full(value: float) -> Tensor:
    return torch.full(SIZE, value)


CONTINUOUS: dict[str, tuple[Callable[[], Tensor], Any]] = {
    "rand": (lambda: torch.rand(SIZE), stats.uniform()),
    "rand_like": (lambda: torch.rand_like(full(0.0)), stats.uniform()),
    "uniform_": (lambda: full(0.0).uniform_(-2.0, 3.0), stats.uniform(-2.0, 5.0)),
    "randn": (lambda: torch.randn(SIZE), stats.norm()),
    "randn_like": (lambda: torch.randn_like(full(0.0)), stats.norm()),
    "normal_": (lambda: full(0.0).normal_(1.0, 0.5), stats.norm(1.0, 0.5)),
    "normal of tensors": (lambda: torch.normal(full(2.0), full(3.0)), stats.norm(2.0, 3.0)),
    "normal of a mean": (lambda: torch.normal(full(2.0), 0.1), stats.norm(2.0, 0.1)),
    "normal of numbers": (lambda: torch.normal(2.0, 0.1, SIZE), stats.norm(2.0, 0.1)),
    "log_normal_": (lambda: full(0.0).log_normal_(0.5, 0.25), stats.lognorm(0.25, scale=np.exp(0.5))),
    "exponential_": (lambda: full(0.0).exponential_(4.0), stats.expon(scale=0.25)),
    "cauchy_": (lambda: full(0.0).cauchy_(1.0, 2.0), stats.cauchy(1.0, 2.0)),
    "gamma below 1": (lambda: torch._standard_gamma(full(0.3)), stats.gamma(0.3)),
    "gamma above 1": (lambda: torch._standard_gamma(full(2.5)), stats.gamma(2.5)),
    "dirichlet": (lambda: torch._sample_dirichlet(torch.tensor([2.0, 3.0]).expand(*SIZE, 2))[..., 0], stats.beta(2, 3)),
    "rrelu": (lambda: F.rrelu(full(-1.0), 0.2, 0.6, training=True), stats.uniform(-0.6, 0.4)),
}
DISCRETE: dict[str, tuple[Callable[[], Tensor], Any]] = {
    "bernoulli of tensors": (lambda: torch.bernoulli(full(0.3)), stats.bernoulli(0.3)),
    "bernoulli_": (lambda: full(0.0).bernoulli_(0.7), stats.bernoulli(0.7)),
    "dropout": (lambda: F.dropout(full(1.0), 0.2) * 0.8, stats.bernoulli(0.8)),
    "randint": (lambda: torch.randint(3, 9, SIZE), stats.randint(3, 9)),
    "randint_like": (lambda: torch.randint_like(full(0.0), 5), stats.randint(0, 5)),
    "randint_like between": (lambda: torch.randint_like(full(0.0), 3, 9), stats.randint(3, 9)),
    "random_ of bytes": (lambda: full(0).to(torch.int8).random_() // 32, stats.randint(0, 4)),
    "random_": (lambda: full(0.0).random_(2, 6), stats.randint(2, 6)),
    "geometric_": (lambda: full(0.0).geometric_(0.4), stats.geom(0.4)),
    "poisson of little": (lambda: torch.poisson(full(0.7)), stats.poisson(0.7)),
    "poisson of much": (lambda: torch.poisson(full(40.0)), stats.poisson(40.0)),
    "multinomial": (
        lambda: torch.multinomial(torch.tensor([1.0, 3.0, 6.0]).expand(MEMBERS * COUNT, 3), 1).view(SIZE),
        stats.rv_discrete(values=([0, 1, 2], [0.1, 0.3, 0.6])),
    ),
    "multinomial with replacement": (
        lambda: torch.multinomial(torch.tensor([1.0, 3.0, 6.0]).expand(MEMBERS, 3), COUNT, replacement=True),
        stats.rv_discrete(values=([0, 1, 2], [0.1, 0.3, 0.6])),
    ),
}


def drawn(draw: Callable[[], Tensor]) -> np.ndarray:
    """The numbers of all members, (members, count), drawn as below vmap."""
    keys = torch.arange(MEMBERS) * 7919
    with Keyed(Noise(keys, torch.zeros_like(keys)), stacked=True):
        return draw().view(SIZE).double().numpy()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_continuous_draw_has_its_distribution(name: str) -> None:
    draw, expected = CONTINUOUS[name]
    values = drawn(draw)
    assert all(stats.kstest(row, expected.cdf).pvalue > 1e-4 for row in values)
    assert np.abs(np.corrcoef(stats.rankdata(values, axis=1))[np.triu_indices(MEMBERS, 1)]).max() < 0.07


@pytest.mark.parametrize("name", DISCRETE)
def test_a_discrete_draw_has_its_distribution(name: str) -> None:
    draw, expected = DISCRETE[name]
    for row in drawn(draw).round(6):
        low, high = (int(x) for x in expected.ppf([0.001, 0.999]))
        cells = np.arange(low, high + 1)
        shares = expected.pmf(cells)
        shares[0], shares[-1] = expected.cdf(low), expected.sf(high - 1)
        counts = np.bincount(np.clip(row, low, high).astype(int) - low, minlength=len(cells))
        assert (row == row.astype(int)).all() and stats.chisquare(counts, COUNT * shares / shares.sum()).pvalue > 1e-4


def test_draws_without_replacement_and_permutations_are_all_different() -> None:
    keys = torch.tensor([1, 2])
    with Keyed(Noise(keys, torch.zeros_like(keys)), stacked=True):
        taken = torch.multinomial(torch.ones(2, 20), 12)
        order = [torch.randperm(50), torch.randperm(50)]
    assert all(len(set(row.tolist())) == 12 for row in taken)
    assert all(sorted(one.tolist()) == list(range(50)) for one in order) and not torch.equal(*order)


def test_a_member_alone_draws_what_it_draws_in_a_stack() -> None:
    keys = torch.tensor([5, 6, 7])
    shape = torch.tensor([0.3, 1.0, 2.5])
    with Keyed(Noise(keys, torch.zeros_like(keys)), stacked=True):
        stack = torch._standard_gamma(shape.expand(3, 3).contiguous())
    for i in range(3):
        with Keyed(Noise(keys[i : i + 1], torch.zeros(1, dtype=torch.int64)), stacked=False):
            assert torch.equal(torch._standard_gamma(shape), stack[i])


def test_types_stay_and_what_is_only_read_is_not_written() -> None:
    with Keyed(Noise(torch.tensor([1]), torch.tensor([0])), stacked=False):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            like = torch.full((64,), -1.0, dtype=dtype)
            draws = (torch.rand(64, dtype=dtype), torch.randn_like(like), torch.randint_like(like, 9), like.cauchy_())
            assert {draw.dtype for draw in draws} == {dtype}
        assert (
            torch.rand(64).dtype == torch.float32 and torch.rand_like(like, dtype=torch.float16).dtype == torch.float16
        )
        chances, slopes = torch.full((64,), 0.5), torch.full((64,), -1.0)
        torch.bernoulli(chances)
        F.rrelu(slopes, training=True)
        assert (chances == 0.5).all() and (slopes == -1.0).all()
        assert not F.dropout(chances, 1.0).any() and torch.equal(F.dropout(chances, 0.5, training=False), chances)


def test_a_generator_of_ones_own_is_refused() -> None:
    with (
        pytest.raises(TaskError, match="from a generator of its own"),
        Keyed(Noise(torch.tensor([1]), torch.tensor([0])), stacked=False),
    ):
        torch.rand(3, generator=torch.Generator())


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_what_is_answered_below_dispatch_is_what_a_mode_answers(name: str) -> None:
    draw, _ = {**CONTINUOUS, **DISCRETE}[name]
    for keys, stacked in ((torch.arange(MEMBERS) * 7919, True), (torch.tensor([-(2**61) - 3]), False)):
        noise, before = Noise(keys, torch.full_like(keys, 12), site=5), torch.get_rng_state()
        with Keyed(noise, stacked=stacked):
            expected = draw(), draw()
        with answered(noise, stacked=stacked):
            found = draw(), draw()
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1]), "the same, in the same order"
        assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    unkeyed = torch.rand(9)
    with pytest.raises(TaskError, match="generator of its own"), answered(noise, stacked=False):
        torch.rand(3, generator=torch.Generator())
    torch.manual_seed(0)
    assert torch.equal(torch.rand(9), unkeyed), "outside, torch's generator draws"


LAYERS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer_norm": lambda x: F.layer_norm(x, (48,)),
    "group_norm": lambda x: F.group_norm(x.view(4, 12, 48), 3),
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "logsumexp": lambda x: x.logsumexp(1),
    "softmax": lambda x: torch.softmax(x @ x.T, 1) @ x,
    "glu": F.glu,
    "pool": lambda x: F.adaptive_avg_pool2d(x.view(4, 3, 16, 12), 3),
    "upsample": lambda x: F.interpolate(x.view(4, 3, 16, 12), scale_factor=2, mode="bicubic"),
    "norm": lambda x: F.normalize(x),
    "conv": lambda x: F.conv2d(x.view(4, 3, 16, 12), x.view(-1)[:270].view(10, 3, 3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_operators_that_draw_nothing_keep_their_bits_below_it(name: str) -> None:
    x = torch.randn(48, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    results = []
    for inside in (nullcontext(), answered(Noise(torch.tensor([1]), torch.tensor([0])), stacked=False)):
        with inside:
            out = LAYERS[name](x)
            results.append((out, *torch.autograd.grad(out.sin().sum(), x)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
