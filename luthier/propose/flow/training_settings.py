"""Training settings of the learnt sampler."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.checks import one_of, real, require, whole
from luthier.propose.flow.objectives import OBJECTIVES
from luthier.propose.flow.policies import POLICIES


@dataclass(frozen=True)
class Settings:
    """Settings of :func:`luthier.propose.flow.learn`.

    In each round ``batch`` ways are drawn from the policy as it is, their leaves evaluated and kept, and ``updates``
    gradient steps taken on leaves that have been evaluated. The defaults are those that were best of the ones measured
    (benchmarks/gflownet.py); :data:`PAPER` are those of LaBash and Sepulveda.

    Args:
        evaluations: Ways drawn in all, each of which asks for a reward (a leaf's second reward is remembered).
        batch: Ways drawn in a round.
        updates: Gradient steps in a round.
        states: Approximate number of states in a round's updates: as many of the leaves evaluated so far take part as
            have this many states on their ways; 0 for only those just drawn.
        prioritised: Fraction of the weight in the loss that is in proportion to the rewards; the rest is equal for all.
        objective: One of OBJECTIVES.
        policy: One of POLICIES.
        hidden: Units of each hidden layer.
        layers: Hidden layers.
        lr: Learning rate of Adam; falls along a cosine to ``last_lr`` times itself.
        log_z_lr: The same for the learnt log Z.
        last_lr: Fraction of the learning rates that is left at the end.
        epsilon: At each step of a way, the probability of a uniform action instead of the policy's.
        temperature: Divides the policy's logits while ways are drawn.
        prior: True if the log flows begin as those of the mean reward everywhere.
    """

    evaluations: int = 10_000
    batch: int = 250
    updates: int = 10
    states: int = 16_384
    prioritised: float = 0.5
    objective: str = "trajectory_balance"
    policy: str = "shared"
    hidden: int = 128
    layers: int = 2
    lr: float = 1e-2
    log_z_lr: float = 0.1
    last_lr: float = 0.01
    epsilon: float = 0.1
    temperature: float = 2.0
    prior: bool = True

    def __post_init__(self) -> None:
        rules = {name: whole(1) for name in ("evaluations", "batch", "updates", "hidden", "layers")}
        rules |= {name: real(above=0) for name in ("lr", "log_z_lr", "temperature")}
        rules |= {name: real(0, 1) for name in ("prioritised", "last_lr", "epsilon")}
        rules |= {"states": whole(0), "objective": one_of(*OBJECTIVES), "policy": one_of(*POLICIES)}
        require(self, "flow settings", **rules)


PAPER = Settings(
    batch=32,
    updates=1,
    states=0,
    prioritised=0.0,
    objective="plain_flow_matching",
    policy="experts",
    lr=5e-5,
    last_lr=1.0,
    epsilon=0.0,
    temperature=1.0,
    prior=False,
)
"""LaBash and Sepulveda, section 3, as far as it is said there; the sizes of the networks are not."""
