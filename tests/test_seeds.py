"""Seeds: a function of (study, number, purpose), the same everywhere, independent otherwise."""

from __future__ import annotations

import pickle

import numpy as np

from luthier.seeds import Seeds


def test_the_numbers_are_the_same_in_every_version_and_process() -> None:
    # written down: a change here would change every study that is resumed
    draws = Seeds(0).rng(0, "propose").random(3)
    assert draws.tolist() == [
        0.07641303595223503,
        0.01080070698115232,
        0.5838408292934976,
    ]
    assert [Seeds(0).key(0, "train"), Seeds(-1).key(7, "train")] == [1661070257129170050, 166396601498915932]


def test_equal_arguments_give_equal_numbers() -> None:
    assert Seeds(3).rng(5, "a").random() == Seeds(3).rng(5, "a").random()
    assert pickle.loads(pickle.dumps(Seeds(3))) == Seeds(3)


def test_different_arguments_give_different_numbers() -> None:
    places = [
        (s, n, p) for s in range(-5, 15) for n in (0, 1, 2, 11, 12, 111) for p in ("propose", "train", "1/propose")
    ]
    draws = {Seeds(s).rng(n, p).random() for s, n, p in places}
    keys = {Seeds(s).key(n, p) for s, n, p in places}
    assert len(draws) == len(keys) == len(places)


def test_keys_fit_a_signed_64_bit_tensor() -> None:
    keys = [Seeds(0).key(n, "train") for n in range(1000)]
    assert all(0 <= key < 2**62 for key in keys)
    assert max(keys) > 2**61  # the whole range is used


def test_numbers_of_neighbouring_jobs_are_uncorrelated() -> None:
    draws = np.array([Seeds(0).rng(n, "propose").random() for n in range(4000)])
    assert abs(draws.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05
    others = np.array([Seeds(1).rng(n, "propose").random() for n in range(4000)])
    assert abs(np.corrcoef(draws, others)[0, 1]) < 0.05
