"""Spaces that hypothesis draws, and one of every kind of domain, for the tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from luthier.space import Choice, Config, Domain, Float, Int, Space


@st.composite
def floats(draw: st.DrawFn) -> Float:
    shape = draw(st.sampled_from([(), (), (), (1,), (3,)]))
    if draw(st.booleans()):
        low, high = sorted(draw(st.tuples(st.floats(-30, 30), st.floats(-30, 30)).filter(lambda p: p[0] != p[1])))
        if 10.0**low < 10.0**high and math.log10(10.0**low) < math.log10(10.0**high):
            return Float(10.0**low, 10.0**high, log=True, shape=shape)
    limit = draw(st.sampled_from([1.0, 1e-6, 1e6, 1e300]))
    low, high = sorted(
        draw(st.tuples(st.floats(-limit, limit), st.floats(-limit, limit)).filter(lambda p: p[0] != p[1]))
    )
    return Float(low, high, shape=shape)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -1000, 1000) | st.integers(1 if log else -(2**40), 2**40))
    high = draw(st.integers(low, min(low + 5, 2**40)) | st.integers(low, 2**40))
    return Int(low, high, log=log)


OPTIONS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2, allow_nan=False) | st.text(max_size=3)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    return Choice(draw(st.lists(OPTIONS, min_size=1, max_size=4, unique=True)), ordered=draw(st.booleans()))


def conditional(domain: Domain, when: dict[str, Any]) -> Domain:
    if isinstance(domain, Choice):
        return Choice(domain.options, ordered=domain.ordered, when=when)
    if isinstance(domain, Int):
        return Int(domain.low, domain.high, log=domain.log, when=when)
    return Float(domain.low, domain.high, log=domain.log, shape=domain.shape, when=when)


@st.composite
def spaces(draw: st.DrawFn, domains: st.SearchStrategy[Domain] | None = None) -> Space:
    """One to six names, each perhaps conditional on one or two earlier ones."""
    found: dict[str, Domain] = {}
    for i in range(draw(st.integers(1, 6))):
        domain: Domain = draw(st.one_of(floats(), ints(), choices()) if domains is None else domains)
        when = {}
        for name, other in found.items():
            if isinstance(other, Float) or not draw(st.sampled_from([True, False, False])):
                continue
            options = (
                other.options if isinstance(other, Choice) else range(other.low, min(other.low + 3, other.high + 1))
            )
            when[name] = draw(st.lists(st.sampled_from(list(options)), min_size=1, unique=True))
        found[f"x{i}"] = conditional(domain, when) if when else domain
    return Space(found)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


SPACE = Space(
    lr=Float(1e-4, 1.0, log=True),
    layers=Int(1, 4),
    width=Int(16, 1024, log=True),
    batch=Choice([16, 32, 64, 128], ordered=True),
    optimizer=Choice(["sgd", "adam", None]),
    momentum=Float(0.0, 0.9, when={"optimizer": "sgd"}),
    nesterov=Choice([True, False], when={"optimizer": "sgd"}),
    dropout=Float(0.0, 0.8, shape=(3,), when={"layers": [2, 3, 4]}),
)

GOOD: Config = {
    "lr": 0.1, "layers": 2, "width": 64, "batch": 32, "optimizer": "sgd",
    "momentum": 0.9, "nesterov": True, "dropout": [0.0, 0.1, 0.8],
}  # fmt: skip
