"""Methods that move hyperparameters during one training, and the contract they meet."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:  # these import torch, which the contract itself does without
    from torch import Tensor

    from luthier.adapt.hypergradient import Hypergradient
    from luthier.space import Config
    from luthier.task.program import Batch, Program, State

__all__ = ["Adapter", "Hypergradient"]

_PLACES = {"Hypergradient": "hypergradient"}  # the file of each method


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(importlib.import_module(f"luthier.adapt.{_PLACES[name]}"), name)
        globals()[name] = value  # the next use finds it without this function
        return value
    raise AttributeError(f"module 'luthier.adapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


@runtime_checkable
class Adapter(Protocol):
    """What happens in a training beside the descent of the weights.

    A state is a dict of ``params``, ``buffers``, ``opt`` (optimizer), ``t`` (steps done), ``key`` (noise), ``hyper``
    (dynamic hyperparameters) and ``own`` (the adapter's). Every tensor in it has the members axis first, and members
    never mix: stacking states, training and taking a row is the same as training it alone. ``params`` is always the
    network that one would evaluate.
    """

    @property
    def window(self) -> int:
        """Minibatches that one step takes."""
        ...

    @property
    def needs_valid(self) -> bool:
        """Whether a step takes a minibatch of the validation split too."""
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
            overwrite: Of a continuation: the hyperparameters whose value differs from the parent's, which are
                replaced, and the key with them; every other tensor is kept.
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
        """The hyperparameters that the adapter has moved, each (members,) or (members, d); none where none moves."""
        ...
