"""The codes of the values of finite domains: those of the space, there and back, and the places between them."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.space import Choice, Float, Int, Space
from luthier.space.encoder import levels_of

DOMAINS = {
    "int": Int(-7, 93),
    "log": Int(8, 512, log=True),
    "options": Choice(["a", "b", "c"]),
    "ordered": Choice([1, 2, 4, 8], ordered=True),
    "steps": Float(0.0, 1.0, step=0.125),
}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_levels_are_the_values_of_the_space(domain):
    levels = levels_of(domain)
    assert levels is not None and domain.axis is not None
    index = np.arange(levels.count)
    codes, _ = Space(x=domain).encode([{"x": value} for value in domain.axis])
    np.testing.assert_allclose(levels.code(index), codes[:, 0], rtol=0, atol=1e-12)
    assert levels.at(levels.code(index)).tolist() == index.tolist()
    np.testing.assert_allclose(levels.places(levels.code(index)), index, atol=1e-9)
    between = levels.code(index[1:] - 0.5)
    assert levels.at(between - 1e-9).tolist() == index[:-1].tolist()
    assert levels.at(between + 1e-9).tolist() == index[1:].tolist()
    random = np.random.default_rng(0).random(1000)
    decoded = [config["x"] for config in Space(x=domain).decode(random[:, None])]
    assert [domain.axis[i] for i in levels.at(random)] == decoded


def test_a_real_number_has_no_levels():
    assert levels_of(Float(0.0, 1.0)) is None
