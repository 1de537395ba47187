"""Noise is uniform, independent, and the same alone, in a stack, traced and in any order of draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from luthier.stack import Noise
from luthier.stack.noise import Lone

torch.set_num_threads(1)
scipy_stats = pytest.importorskip("scipy.stats")

KEYS = torch.tensor([0, 1, 2, 3, 12345, (1 << 62) - 1, 1 << 40, 987654321987654321])


def noise(step: int = 0, keys: Tensor = KEYS, site: int = 0) -> Noise:
    return Noise(keys, torch.full_like(keys, step), site)


def correlations(rows: Tensor) -> Tensor:
    """Correlation of each pair of rows, times the root of their length: standard normal where they are independent."""
    rows = rows.double() - 0.5
    matrix = rows @ rows.t() / rows.shape[1] * 12 * rows.shape[1] ** 0.5
    first, second = torch.triu_indices(len(rows), len(rows), 1).unbind(0)
    return matrix[first, second]


def assert_standard_normal(values: Tensor) -> None:
    assert scipy_stats.kstest(values.numpy(), "norm").pvalue > 1e-4


def test_numbers_are_uniform() -> None:
    numbers = noise().uniform(0, (64, 128))
    assert numbers.shape == (8, 64, 128) and numbers.dtype == torch.float32
    assert 0 <= numbers.min() and numbers.max() < 1
    for row in numbers.flatten(1):
        assert scipy_stats.kstest(row.numpy(), "uniform").pvalue > 1e-4
        counts = torch.histc(row, 64, 0, 1).numpy()
        assert scipy_stats.chisquare(counts).pvalue > 1e-4


def test_one_element_is_uniform_over_keys_steps_and_sites() -> None:
    over_keys = Noise(torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64)).uniform(3, (2,))
    over_steps = Noise(torch.full((20_000,), 7), torch.arange(20_000)).uniform(3, (2,))
    over_sites = torch.cat([Noise(torch.tensor([7]), torch.tensor([7])).uniform(site, (2,)) for site in range(2000)])
    for draws in (over_keys, over_steps, over_sites):
        for column in draws.t():
            assert scipy_stats.kstest(column.numpy(), "uniform").pvalue > 1e-4
        assert abs(float(correlations(draws.t()))) < 4  # two elements of a draw, over draws


@pytest.mark.parametrize("what", ["members", "steps", "sites", "elements"])
def test_draws_are_independent(what: str) -> None:
    keys = torch.arange(100)
    if what == "members":
        rows = noise(keys=keys).uniform(0, (4000,))
    elif what == "steps":
        rows = torch.cat([noise(step, KEYS[4:5]).uniform(0, (4000,)) for step in range(100)])
    elif what == "sites":
        rows = torch.cat([noise(5, KEYS[4:5]).uniform(site, (4000,)) for site in range(100)])
    else:  # of one member, over its steps
        rows = Noise(torch.full((4000,), 77), torch.arange(4000)).uniform(0, (100,)).t()
    assert_standard_normal(correlations(rows))


def test_masks_of_two_members_overlap_as_chance_has_it() -> None:
    keys = torch.arange(60)
    keep = noise(keys=keys).keep(0, (64, 128), torch.full((60,), 0.3))
    both = (keep[:30] & keep[30:]).flatten(1).double().mean(1)
    deviation = (0.49 * 0.51 / 8192) ** 0.5
    assert_standard_normal((both - 0.49) / deviation)


def test_three_elements_are_jointly_uniform() -> None:
    cube = (Noise(torch.full((40_000,), 5), torch.arange(40_000)).uniform(1, (3,)) * 4).long()
    counts = torch.bincount(cube[:, 0] * 16 + cube[:, 1] * 4 + cube[:, 2], minlength=64)
    assert scipy_stats.chisquare(counts.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 2, 3)])
def test_a_member_alone_draws_what_it_draws_in_a_stack(shape: tuple[int, ...]) -> None:
    steps = torch.arange(8) * 3
    rate = torch.linspace(0, 0.9, 8)
    together = Noise(KEYS, steps, 5)
    for k in range(8):
        single = Noise(KEYS[k : k + 1], steps[k : k + 1], 5)
        assert torch.equal(single.uniform(2, shape)[0], together.uniform(2, shape)[k])
        assert torch.equal(single.normal(2, shape)[0], together.normal(2, shape)[k])
        assert torch.equal(single.keep(2, shape, rate[k : k + 1])[0], together.keep(2, shape, rate)[k])


@pytest.mark.parametrize("key", [0, -1, 2**62, -(2**63), 2**63 - 1, 0x1234567890ABCDEF])
def test_one_member_whose_key_is_read_draws_the_same(key: int) -> None:
    plain = Noise(torch.tensor([key]), torch.tensor([77]), 1 << 20)
    for site, shape in ((0, (7,)), (123, (300, 5)), (1 << 24, ())):
        assert torch.equal(Lone(plain).bits(site, shape), plain.bits(site, shape))
        assert torch.equal(Lone(plain).keep(site, shape, 0.3), plain.keep(site, shape, 0.3))
        assert torch.equal(Lone(plain).normal(site, shape), plain.normal(site, shape))


def test_a_smaller_batch_draws_the_first_rows() -> None:
    assert torch.equal(noise().uniform(0, (3, 5)), noise().uniform(0, (10, 5))[:, :3])


def test_sites_add_up() -> None:
    assert torch.equal(noise(site=1 << 20).uniform(3, (9,)), noise().uniform((1 << 20) + 3, (9,)))
    assert not torch.equal(noise(site=1).uniform(0, (9,)), noise().uniform(0, (9,)))


def test_keep_is_the_comparison_with_the_rate() -> None:
    rate = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999, 1e-9])
    keep = noise().keep(4, (50, 30), rate)
    assert torch.equal(keep, noise().uniform(4, (50, 30)) >= rate.view(-1, 1, 1))
    assert keep[0].all()
    assert torch.equal(noise().keep(4, (50, 30), rate, batch_last=True), keep.transpose(1, 2))


def test_normal_numbers_are_standard_normal() -> None:
    numbers = noise().normal(0, (64, 128))
    assert numbers.isfinite().all() and numbers.dtype == torch.float32
    for row in numbers.flatten(1):
        assert scipy_stats.kstest(row.numpy(), "norm").pvalue > 1e-4
    assert noise().normal(0, (3,), dtype=torch.float64).dtype == torch.float64


def test_a_trace_draws_the_same_and_follows_key_and_step() -> None:
    def draw(key: Tensor, step: Tensor, rate: Tensor) -> tuple[Tensor, ...]:
        own = Noise(key, step)
        return own.uniform(1, (6, 5)), own.normal(2, (4,)), own.keep(3, (6, 5), rate, batch_last=True)

    rate = torch.linspace(0, 0.9, 8)
    traced = make_fx(draw, tracing_mode="real")(KEYS, torch.zeros_like(KEYS), rate)
    for step in (0, 1, 1000):
        given = KEYS.flip(0), torch.full_like(KEYS, step), rate.flip(0)
        for a, b in zip(traced(*given), draw(*given), strict=True):
            assert torch.equal(a, b)


def test_nothing_is_drawn_from_torch_s_generator() -> None:
    state = torch.get_rng_state()
    noise().uniform(0, (9,))
    assert torch.equal(state, torch.get_rng_state())
