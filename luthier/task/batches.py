"""Minibatches as a function of the step: the same order alone, in any stack, and after a resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from luthier.seeds import Seeds
from luthier.task.reading import InMemory

if TYPE_CHECKING:
    from luthier.task.program import Batch, Program

KEPT = 16  # minibatches that can be asked for again without another pass: tracing looks a few steps ahead


class Batches:
    """The minibatches of one split.

    One pass of the data feeds all members. Where a step accumulates the gradients of several minibatches, it gets a
    list of them; what an epoch has beyond whole steps is left out.

    Args:
        program: Gives the batch size and the data.
        split: ``"train"`` or ``"valid"``.
        seeds: The study's seeds, for an order that all members share.
        keys: One key a member for orders of their own, (members,); batches are then (members, batch, …).

    """

    def __init__(self, program: Program, split: str, seeds: Seeds, keys: torch.Tensor | None = None) -> None:
        source = program.sources[split]
        size, purpose = program.sources.size(split), f"shuffle {split}"
        if keys is None:
            self._at = kept(source.stream(size, seeds, purpose))
        else:
            assert isinstance(source, InMemory), "Sources has refused it"
            self._at = source.own_streams(size, [Seeds(int(key)) for key in keys], purpose)
        self._count = source.steps(size)
        self._together = program.task.accumulate if split == "train" else 1

    def at(self, step: int) -> Batch:
        """The minibatch of training step ``step``, counted from 0 over the whole lineage."""
        n = self._together
        if n == 1:
            return self._at(step)
        epoch, position = divmod(step, self._count // n)
        first = epoch * self._count + position * n
        return [self._at(first + i) for i in range(n)]  # type: ignore[return-value]


def kept(at: Callable[[int], Any]) -> Callable[[int], Any]:
    """``at``, with its last answers at hand."""
    answers: dict[int, Any] = {}

    def again(number: int) -> Any:
        if number not in answers:
            answers[number] = at(number)
            if len(answers) > KEPT:
                del answers[next(iter(answers))]
        return answers[number]

    return again
