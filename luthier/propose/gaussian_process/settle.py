"""From a code to a configuration that was not proposed before."""

from __future__ import annotations

import numpy as np

from luthier.propose.gaussian_process.design import sobol
from luthier.propose.gaussian_process.encoding import Encoding, keys
from luthier.seeds import Seeds
from luthier.space import Config


def settle(code: np.ndarray | None, encoding: Encoding, number: int, seen: set[bytes], seeds: Seeds) -> Config | None:
    """The configuration at a code (without one: of the design), or a random one where it was seen; None if all were."""
    space = encoding.space
    if space.size is not None and len(seen) >= space.size:
        return None
    code = sobol(encoding.width, number, seeds) if code is None else code
    for config in space.decode(code[None]):
        if keys(encoding.points([config]).codes)[0] not in seen:
            return config
    rng = seeds.rng(number, "unseen")
    for config in space.sample(rng, 100):
        if keys(encoding.points([config]).codes)[0] not in seen:
            return config
    if space.size is None:
        return space.sample(rng)
    combinations = space.finite
    assert combinations is not None, "the space has a size"
    begin = int(rng.integers(combinations.count))
    for i in range(combinations.count):
        config = combinations[(begin + i) % combinations.count]
        if keys(encoding.points([config]).codes)[0] not in seen:
            return config
    return None
