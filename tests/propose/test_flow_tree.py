"""The tree over a space, and the exact sampler on it, against counting, brute force and integrals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from propose.flow_spaces import TREES, conditionals, modes
from spaces import spaces

from luthier.errors import MethodError
from luthier.propose.flow import Tree, distance, exact, log_rewards, terminating
from luthier.space import Choice, Float, Int, Space

EVERY = pytest.mark.parametrize("tree", TREES.values(), ids=TREES)


@EVERY
def test_leaves_are_all_different_counted_and_numbered(tree):
    leaves = tree.all
    assert len(leaves) == tree.size == len({row.tobytes() for row in leaves.actions})
    np.testing.assert_array_equal(tree.rank(leaves), np.arange(tree.size))
    np.testing.assert_array_equal(np.lexsort(leaves.actions.T[::-1]), np.arange(tree.size))


def test_size_is_that_of_the_space_where_every_value_is_a_bin():
    space = Space(
        a=Int(1, 5),
        b=Choice(list("xyz"), when={"a": [2, 3]}),
        c=Int(1, 4, log=True, when={"b": ["x", "z"], "a": 3}),
        d=Choice([True, False]),
    )
    tree = Tree(space)
    assert tree.size == space.size
    configs = tree.configs(tree.all)
    assert len({repr(config) for config in configs}) == tree.size


@given(spaces())
def test_leaf_of_a_config_and_back(space):
    tree = Tree(space, bins=3)
    rng = np.random.default_rng(0)
    configs = space.sample(rng, 20)
    leaves = tree.leaves(configs)
    codes, mask = space.encode(configs)
    np.testing.assert_array_equal(leaves.mask, mask)
    np.testing.assert_array_equal(leaves.codes, codes)
    inside = tree.place(leaves.actions, rng.random(codes.shape))
    for one in (inside, tree.place(leaves.actions)):
        again = tree.leaves(tree.configs(one))
        np.testing.assert_array_equal(again.actions, leaves.actions)
        np.testing.assert_allclose(again.codes, one.codes, atol=1e-9)


def test_no_bin_holds_values_on_both_sides_of_a_condition():
    tree = Tree(Space(k=Int(1, 100), z=Float(0.0, 1.0, when={"k": [3, 50, 51]})), bins=4)
    configs = [{"k": k, **({"z": 0.5} if k in (3, 50, 51) else {})} for k in range(1, 101)]
    np.testing.assert_array_equal(tree.leaves(configs).mask, tree.space.encode(configs)[1])


def test_density_integrates_to_one_with_conditions_and_values_that_share_a_bin():
    space = Space(k=Int(1, 9, log=True), x=Float(0.0, 1.0, when={"k": [1, 7]}), y=Choice(list("ab"), when={"k": 2}))
    tree = Tree(space, bins=4)
    assert tree.widths[0] < 9  # some bins hold several values
    sampler = exact(tree, lambda leaves: np.sin(5 * leaves.codes).sum(axis=1))
    grid = (np.arange(400) + 0.5) / 400  # the density is constant inside bins, so the midpoint rule is exact
    total = 0.0
    for k in range(1, 10):
        if k in (1, 7):
            found = sampler.log_prob(tree.leaves([{"k": k, "x": float(x)} for x in grid]))
            total += float(np.exp(found).mean())
        else:
            rest = [{"y": "a"}, {"y": "b"}] if k == 2 else [{}]
            total += float(np.exp(sampler.log_prob(tree.leaves([{"k": k, **one} for one in rest]))).sum())
    assert total == pytest.approx(1.0, abs=1e-12)


def test_volumes_are_the_frequencies_of_uniform_samples():
    tree = TREES["conditional"]
    assert np.exp(tree.log_volume(tree.all)).sum() == pytest.approx(1.0, abs=1e-12)


@EVERY
def test_exact_sampler_is_the_target(tree):
    reward = modes(tree, 0)
    sampler = exact(tree, reward)
    rewards = np.exp(reward(tree.all))
    np.testing.assert_allclose(terminating(sampler), rewards / rewards.sum(), atol=1e-14)
    assert sampler.log_z == pytest.approx(np.log(rewards.sum()), abs=1e-12)
    # the conditionals multiply up to the same
    mass = np.zeros(1)
    for parent, step in zip(sampler.parents, conditionals(sampler), strict=True):
        mass = mass[parent] + step
    np.testing.assert_allclose(np.exp(mass), rewards / rewards.sum(), atol=1e-14)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 10.0])
def test_temperature_divides_the_logits_of_every_step(temperature):
    tree = Tree(Space(a=Choice(list("xyz")), b=Choice(list("uv"), when={"a": ["x", "z"]})))
    rewards = {"xu": 1.0, "xv": 5.0, "y": 2.0, "zu": 0.0, "zv": 4.0}
    first = np.array([6.0, 2.0, 4.0]) ** (1 / temperature)
    first /= first.sum()
    second = np.array([1.0, 5.0 ** (1 / temperature)]) / (1 + 5.0 ** (1 / temperature))
    expected = [first[0] * second[0], first[0] * second[1], first[1], 0.0, first[2]]
    sampler = exact(tree, lambda leaves: log_rewards(np.array(list(rewards.values()))))
    np.testing.assert_allclose(terminating(sampler, temperature), expected, atol=1e-12)
    drawn = tree.rank(sampler.sample(20_000, rng=np.random.default_rng(0), temperature=temperature))
    frequency = np.bincount(drawn, minlength=5) / 20_000
    np.testing.assert_allclose(frequency, expected, atol=4 * 0.5 / np.sqrt(20_000))
    assert frequency[3] == 0


def test_million_leaves():
    tree = Tree(Space({name: Float(0.0, 1.0) for name in "abcde"}), bins=16)
    sampler = exact(tree, lambda leaves: 3 * np.sin(9 * leaves.codes).sum(axis=1))
    one = np.exp(3 * np.sin(9 * (np.arange(16) + 0.5) / 16)).sum()
    assert sampler.evaluations == tree.size == 16**5
    assert sampler.log_z == pytest.approx(5 * np.log(one), abs=1e-9)  # the reward is a product: so is Z


def test_samples_are_reproducible_and_their_beginning_does_not_depend_on_how_many_are_drawn():
    tree = TREES["conditional"]
    sampler = exact(tree, modes(tree, 1))
    many, few = (sampler.sample(n, rng=np.random.default_rng(3)) for n in (50, 5))
    np.testing.assert_array_equal(many.codes[:5], few.codes)
    np.testing.assert_array_equal(tree.leaves(tree.configs(many)).actions, many.actions)


def test_edges_one_leaf_no_column_and_equal_rewards():
    for space in (Space(a=Int(3, 3), b=Choice(["only"])), Space()):
        sampler = exact(Tree(space), lambda leaves: np.full(len(leaves), 0.7))
        assert sampler.log_z == pytest.approx(0.7) and terminating(sampler).tolist() == [1.0]
        assert len(sampler.tree.configs(sampler.sample(3, rng=np.random.default_rng(0)))) == 3
    tree = TREES["conditional"]
    equal = exact(tree, lambda leaves: np.zeros(len(leaves)))
    np.testing.assert_allclose(terminating(equal), 1 / tree.size)
    assert distance(equal, equal) == 0


@pytest.mark.parametrize("wrong", [-0.5, float("nan"), float("inf")])
def test_rewards_that_cannot_be(wrong):
    with pytest.raises(MethodError, match=r"reward: the reward .* cannot be"):
        log_rewards(np.array([1.0, wrong]))
    tree = Tree(Space(a=Choice(list("xy"))))
    with pytest.raises(MethodError, match="log_reward"):
        exact(tree, lambda leaves: np.array([0.0, np.nan if wrong < 0 else wrong]))


def test_other_mistakes_are_named():
    tree = Tree(Space(a=Choice(list("xy"))))
    with pytest.raises(MethodError, match="all of 2 rewards are zero"):
        exact(tree, lambda leaves: log_rewards(np.zeros(len(leaves))))
    with pytest.raises(MethodError, match="1 log rewards were returned for 2 leaves"):
        exact(tree, lambda leaves: np.zeros(1))
    with pytest.raises(MethodError, match="beta=0 cannot be"):
        log_rewards(np.ones(2), beta=0)
    with pytest.raises(MethodError, match=r"temperature must be .* got 0"):
        exact(tree, lambda leaves: np.zeros(2)).sample(1, rng=np.random.default_rng(0), temperature=0)
    with pytest.raises(MethodError, match=r"bins must be .* got 0"):
        Tree(Space(a=Float(0.0, 1.0)), bins=0)
    wide = Tree(Space({f"x{i}": Float(0.0, 1.0) for i in range(40)}))
    assert wide.size == 16**40
    with pytest.raises(MethodError, match="a learnt sampler"):
        exact(wide, lambda leaves: np.zeros(len(leaves)))
