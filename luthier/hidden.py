"""State that a user's code keeps where no training owns it: in globals, closures, classes, generators of its own.

Members of a stack would share it and a resumed training would not have it. It is found by running the code again from
the same arguments: another result, or a generator that has moved on.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier.errors import HiddenStateError
from luthier.places import Array, Look
from luthier.reach import reaching

SHARED = "members of a stack would share it, and a resumed training would not have it"


@dataclass(frozen=True)
class Code:
    """Something of the user's that has to give the same when it is run again.

    Args:
        where: Its place, for the error.
        what: Its name and what it is run on, as the beginning of a sentence.
        remedy: The way out, as a sentence.
        owners: The functions and objects that are run, by the names of their attributes in the error.
    """

    where: str
    what: str
    remedy: str
    owners: Mapping[str, Any] = field(default_factory=dict)

    def checked(self, run: Callable[[], Any], other: Callable[[], Any] | None = None, *, often: bool = False) -> Any:
        """The result of ``run``, a nest, which is run again to be compared.

        Args:
            run: Runs the code.
            other: Runs it on something else in between: a mean over all calls shows then.
            often: A training runs it at every step: what it keeps then is followed, for it may act on it later.

        Raises:
            TaskError: If it is another one, or a generator has moved on.
        """
        first = run()
        before, drawn = outside(self.owners), drawn_from()
        if other is not None and not often:
            with suppress(Exception):  # of what it was not made for
                other()
        again, now = run(), drawn_from()
        if often and drawn != now:
            raise self.error([next(name for name in now if now[name] != drawn[name])])
        self.compare(first, again, before, run if often else None, other)
        return first

    def compare(
        self,
        first: Any,
        again: Any,
        before: Mapping[str, Any],
        run: Callable[[], Any] | None = None,
        other: Callable[[], Any] | None = None,
    ) -> bool:
        """Compare two results, between which :func:`outside` was ``before``.

        Args:
            first: A result.
            again: The result of the same code on the same arguments.
            before: Everything outside as it was after the first one.
            run: Runs the code, which a training does at every step: what it keeps is followed.
            other: Runs it on something else: a loss that is kept shows then.

        Returns:
            True if something that is kept decides which code runs, as where every hundredth step is printed.

        Raises:
            HiddenStateError: If they differ, or may come to differ.
        """
        now = outside(self.owners)
        changed = moved(before, now)
        drawn = [name for name in changed if isinstance(now[name], bytes) or _grown(before[name], now[name])]
        if drawn or not alike(first, again):
            raise self.error(drawn or changed)
        if run is None:
            return False
        shapes: list[str] = []
        if other is not None:
            with suppress(Exception):  # of what it was not made for
                other()
            after = outside(self.owners)  # a tensor may be kept for each shape
            shapes = [name for name in moved(now, after) if not isinstance(after[name], Array) and name not in changed]
        if not changed and not shapes:
            return False
        reach = reaching(run, alike, self.owners, changed, shapes)
        if reach.name:
            raise self.error([reach.name])
        return bool(reach.compared.intersection(changed))  # not a shape, by which a cache is made anew

    def error(self, changed: list[str]) -> HiddenStateError:
        """The refusal, which names the first thing that has changed."""
        how = f"changes {changed[0]}" if changed else "gives something else when it is run again"
        return HiddenStateError(f"{self.what} {how}: {SHARED}", where=self.where, remedy=self.remedy)


def alike(one: Any, other: Any) -> bool:
    """Return True if two nests hold the same: to the bit on a CPU, where sums have one order."""
    (mine, here), (theirs, there) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return here == there and all(map(_same, mine, theirs))


def _same(a: Any, b: Any) -> bool:
    try:
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            return type(a) is type(b) and bool(a is b or np.all(a == b) or (a != a and b != b))
        return _same_numbers(a.detach(), b.detach())
    except Exception:  # a type that cannot be compared is no evidence
        return True


def _same_numbers(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (t if t.layout == torch.strided else t.to_dense() for t in (a, b))
    if a.device.type == "cpu" or not a.is_floating_point():
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max() if b.numel() else 0), equal_nan=True)


def _grown(one: Any, other: Any) -> bool:
    """Return True for a tuple of other length: nothing that stands for it could show that."""
    return isinstance(one, tuple) and isinstance(other, tuple) and len(one) != len(other)


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names whose values differ."""
    return [name for name, value in after.items() if name in before and not _same(before[name], value)]


def outside(owners: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a user's code can reach, by names in words: see :class:`luthier.places.Look`."""
    return Look(owners).found


def drawn_from(*, torchs: bool = True) -> dict[str, bytes]:
    """The states of the generators that the whole process has: Python's, NumPy's and, where asked for, torch's."""
    states = {"the generator of random": random.getstate(), "the generator of NumPy": np.random.get_state()}
    if torchs:
        states["the generator of torch"] = torch.get_rng_state().numpy().tobytes()
    return {name: pickle.dumps(state) for name, state in states.items()}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The generators of Python and NumPy set within, from the trailing 32 bits, and as they were after it."""
    kept = random.getstate(), np.random.get_state()
    random.seed(seed & 0xFFFFFFFF)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
