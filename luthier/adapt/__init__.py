"""Methods that move hyperparameters during one training, and the contract they meet.

May import: task, policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.lazy import lazy

if TYPE_CHECKING:  # these import torch, which the contract itself does without
    from torch import Tensor

    from luthier.adapt import structures
    from luthier.adapt.best_response import BestResponse
    from luthier.adapt.bilevel import Bilevel
    from luthier.adapt.enas import Enas
    from luthier.adapt.hypergradient import Hypergradient
    from luthier.adapt.hypernet import Hypernet
    from luthier.policy.reinforce import Reinforce
    from luthier.space import Config
    from luthier.task.program import Batch, Program, State

__all__ = ["Adapter", "BestResponse", "Bilevel", "Enas", "Hypergradient", "Hypernet", "Reinforce", "structures"]

_PLACES = {  # the file of each method
    "BestResponse": "best_response",
    "Bilevel": "bilevel",
    "Enas": "enas",
    "Hypergradient": "hypergradient",
    "Hypernet": "hypernet",
    "Reinforce": "enas",
    "structures": "",
}

__getattr__, __dir__ = lazy(__name__, _PLACES)


@runtime_checkable
class Adapter(Protocol):
    """The part of training that goes beyond the descent of the weights.

    A state is a dict of ``params``, ``buffers``, ``opt`` (optimizer), ``t`` (steps done), ``key`` (noise), ``hyper``
    (dynamic hyperparameters) and ``own`` (the adapter's). Every tensor in it has the members axis first, and members
    never mix: stacking states, training and taking a row is the same as training it alone. ``params`` is always the
    network that one would evaluate.

    Optional attributes (their defaults are in :mod:`luthier.optional`):

    - ``traceable = False``: the step branches on values, and is never traced.
    - ``shares_weights = True``: it trains all options of the model's choices in one network, a program of
      ``TorchTask.sharing()``; what is measured then is called ``shared_loss`` and so on.
    - ``phase(tag) -> Adapter``: the adapter that trains a job, by the tag that the proposer gave it.
    - ``proposer``: the proposer that it comes with where it is given alone, by a method's name or ``"module:class"``.
    """

    @property
    def window(self) -> int:
        """Minibatches that one step takes. A training is rounded down to whole windows; one shorter is refused."""
        ...

    @property
    def needs_valid(self) -> bool:
        """True if a step takes a minibatch of the validation split too."""
        ...

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """The state of one member, a stack of one.

        Args:
            task: The step that is trained.
            config: The member's configuration.
            key: The member's randomness, in [0, 2**62).
            parent: The state to continue from.
            overwrite: Hyperparameters of a continuation whose value differs from the parent's; they are replaced, and
                the key with them; every other tensor is kept.
        """
        ...

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """One step of a stack: a pure function, traceable.

        Args:
            task: The step that is trained.
            state: The stack.
            batches: ``window`` minibatches.
            valid: A minibatch of the validation split; None where ``needs_valid`` is false.

        Returns:
            The next state, and metrics of the step, each (members,).
        """
        ...

    def hyperparameters(self, state: State) -> Mapping[str, Tensor]:
        """The hyperparameters that the adapter has moved, each (members,) or (members, d); none where none moves.

        Where weights are shared, a choice of modules or optimizers is the position of its option, int64.
        """
        ...
