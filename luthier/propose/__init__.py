"""Proposers: between trainings, they read the history and name the next jobs.

May import: jobs, policy.

A proposer is a pure function of the history. It keeps nothing between calls but caches that can be dropped, so
resuming after a crash, joining a running study from another machine and replaying one for a test are the same thing:
read the history, and propose. To write one, see :class:`Proposer`; to test it, subclass
:class:`luthier.testing.ProposerContract`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from luthier.jobs import Budget, History, Job
from luthier.lazy import lazy
from luthier.seeds import Seeds

if TYPE_CHECKING:
    from luthier.propose.asha import ASHA
    from luthier.propose.derive import Derive
    from luthier.propose.diverse import Diverse
    from luthier.propose.freeze_thaw import FreezeThaw
    from luthier.propose.genetic import Genetic
    from luthier.propose.gflownet import GFlowNet
    from luthier.propose.gp import GaussianProcess
    from luthier.propose.grid import Grid
    from luthier.propose.hyperband import Hyperband
    from luthier.propose.median import Median
    from luthier.propose.pb2 import PB2
    from luthier.propose.pbt import PBT
    from luthier.propose.random import Random
    from luthier.propose.replay import Replay
    from luthier.propose.stopping import Stopping
    from luthier.propose.surrogate import Surrogate

__all__ = [
    "ASHA",
    "PB2",
    "PBT",
    "Derive",
    "Diverse",
    "FreezeThaw",
    "GFlowNet",
    "GaussianProcess",
    "Genetic",
    "Grid",
    "Hyperband",
    "Median",
    "Proposer",
    "Random",
    "Replay",
    "Stopping",
    "Surrogate",
]

_FILES = {name: name.lower() for name in __all__ if name != "Proposer"}
_FILES |= {"GaussianProcess": "gp", "FreezeThaw": "freeze_thaw"}

__getattr__, __dir__ = lazy(__name__, _FILES)


class Proposer(Protocol):
    """The interface of every proposer: a frozen dataclass of settings with two methods.

    Optional methods, None or absent where there is none (their defaults are in :mod:`luthier.optional`):

    - ``stop(history, number) -> bool``: end the running job ``number`` early, judging by its reports so far.
    - ``parents(history) -> set[int]``: the jobs that a later job may still continue from; the checkpoints of all
      others may be removed.
    - ``stopping() -> Proposer``: for a method that continues training runs, the form that only stops them early. It
      stands in for the method where the task is a function, which cannot be continued.
    - ``size(space) -> int``: of a method that visits so many fixed points, each once.
    - ``suggest(history) -> Config``: the evaluated configuration that its model believes best.

    Optional attributes:

    - ``jobs``: jobs of the whole study, where they are known and are not its trials.
    - ``learns_known``: true where the method learns from trials that it did not propose. Known results, and those of
      another method that began the study, are then shown to it as jobs that have ended, ``history.before``; otherwise
      it sees its own alone. False where it learns from no results at all; without it ``tune(known=…)`` warns.
    - ``stops_early``: true where most trials end before their steps are spent, so that a budget of trials says little
      of the training that it costs.
    - ``repeats``: ``"late"`` where a configuration of a finite space may be begun again once all were tried,
      ``"always"`` where it may be at any time.
    - ``extendable``: true where a finished study may go on under a larger budget, and ends as if it had had that budget
      at first.
    """

    def bind(self, budget: Budget) -> Self:
        """The proposer under a budget; called once, before the first proposal.

        Raises:
            MethodError: If the settings do not fit the budget.
        """
        ...

    def propose(self, history: History, count: int, seeds: Seeds) -> list[Job]:
        """Return the next jobs, numbered from ``len(history)`` on.

        Equal histories give equal answers, and ``history`` is left as it is. Randomness comes from
        ``seeds.rng(number of the job, "propose")``, so that an answer need not depend on how the calls were split.

        Args:
            history: All jobs, reports and results so far.
            count: Number of jobs that can be taken now; fewer may be returned.
            seeds: The study's seeds.

        Returns:
            At most ``count`` jobs. None while something is pending means "wait"; none while nothing is, "it is over".
        """
        ...
