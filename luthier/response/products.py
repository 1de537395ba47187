"""Products with the second derivatives of the training loss, H = ∂²L_T/∂w² and M = ∂²L_T/∂w∂λ.

By double backward on one retained graph; where a module has no second derivative, by central differences of the
gradient, H v ≈ [∂L_T/∂w(w + εv) - ∂L_T/∂w(w - εv)] / 2ε and likewise vᵀM, with ε = radius / ‖v‖ (Liu, Simonyan & Yang,
DARTS, ICLR 2019, eq. 8).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from luthier.checks import checked, maybe, one_of, real
from luthier.response.problem import Losses, filled, gradients
from luthier.response.result import ResponseWarning
from luthier.response.trees import norm, scaled, shifted

Mode = Literal["auto", "double_backward", "finite_difference"]
_MISSING = re.compile(r"derivative for .* is not implemented|once_differentiable|double backward|differentiated twice")
CUT_OFF = "a function marked with once_differentiable"


class Products:
    """H v and vᵀM at one point and on one set of batches.

    Args:
        losses: The losses, their `members` known.
        params: Leaves at which to differentiate.
        batches: The minibatches whose mean loss is differentiated, the same in every product.
        mode: "double_backward", "finite_difference", or "auto": the first, and the second with a warning if a module
            has no second derivative.
        radius: Distance ‖εv‖ of a finite difference; None: the cube root of the rounding unit times max(1, ‖w‖).
        random: The state of the generators to be used in a finite difference; None: the present one.
    """

    def __init__(
        self,
        losses: Losses,
        params: list[Tensor],
        batches: Sequence[Any],
        mode: Mode,
        radius: float | None,
        random: Randomness | None = None,
    ) -> None:
        check_mode(mode, radius)
        self.losses, self.params, self.batches, self.mode, self.radius = losses, params, batches, mode, radius
        self.random = random or Randomness(params[0].device, losses.traced)
        self._grads: list[Tensor] = []
        if mode == "finite_difference":
            self.gradient = losses.train_gradient(params, losses.hyper, batches)  # ∂L_T/∂w, constant
        else:
            loss = losses.train(params, losses.hyper, batches)
            self._grads = filled(params, gradients(loss, params, create_graph=True))
            self.gradient = [g.detach() for g in self._grads]
            if not losses.traced and cut_off(self._grads):
                self._fall_back(RuntimeError(CUT_OFF))

    def hessian(self, v: Sequence[Tensor]) -> list[Tensor]:
        """H v, shaped as the weights."""
        if self.mode != "finite_difference":
            try:
                return filled(self.params, self._backward(v, self.params))
            except RuntimeError as error:
                self._fall_back(error)
        return self.differences(v)[0]

    def mixed(self, v: Sequence[Tensor]) -> list[Tensor | None]:
        """vᵀM, shaped as the hyperparameters; None where the training gradient does not depend on one."""
        if self.mode != "finite_difference":
            try:
                return self._backward(v, self.losses.hyper)
            except RuntimeError as error:
                self._fall_back(error)
        return self.differences(v)[1]

    def _backward(self, v: Sequence[Tensor], inputs: list[Tensor]) -> list[Tensor | None]:
        outputs = [(g, x) for g, x in zip(self._grads, v, strict=True) if g.requires_grad]
        if not outputs:
            return [None] * len(inputs)
        grads, vectors = zip(*outputs, strict=True)
        return list(torch.autograd.grad(grads, inputs, grad_outputs=vectors, retain_graph=True, allow_unused=True))

    def _fall_back(self, error: RuntimeError) -> None:
        if self.mode != "auto" or not lacks_second_derivative(error):
            raise error
        warn_fall_back(error)
        self.mode = "finite_difference"
        self._grads = []  # frees the graph

    def differences(self, v: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor | None]]:
        """H v and vᵀM by finite differences, two gradients together."""
        losses = self.losses
        with torch.no_grad():
            length = norm(v, losses.members)
            epsilon = self._radius() / torch.where(length > 0, length, torch.ones_like(length))
        sides = []
        with self.random.kept():
            for sign in (1.0, -1.0):
                self.random.restore()
                with torch.no_grad():
                    moved = shifted(self.params, sign * epsilon, v)
                moved = [w.requires_grad_() for w in moved]
                loss = losses.train(moved, losses.hyper, self.batches)
                sides.append(gradients(loss, [*moved, *losses.hyper]))
        out: list[Tensor | None] = []
        for plus, minus in zip(*sides, strict=True):
            out.append(None if plus is None or minus is None else scaled(0.5 / epsilon, [plus - minus])[0])
        count = len(self.params)
        return filled(self.params, out[:count]), out[count:]

    def _radius(self) -> Tensor | float:
        if self.radius is not None:
            return self.radius
        unit = max(torch.finfo(p.dtype).eps ** (1 / 3) for p in self.params)
        return unit * norm(self.params, self.losses.members).detach().clamp(min=1.0)


class Randomness:
    """The state of torch's generators at one moment, so that dropout can be drawn again. Off when traced."""

    def __init__(self, device: torch.device, traced: bool) -> None:
        self.device, self.traced = device, traced
        self.state = self._read()

    def restore(self) -> None:
        """Put the generators back to that moment."""
        self._write(self.state)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block after which the generators are where they were before it."""
        before = self._read()
        try:
            yield
        finally:
            self._write(before)

    def _read(self) -> tuple[Tensor, ...]:
        if self.traced:
            return ()
        if self.device.type == "cuda":
            return torch.get_rng_state(), torch.cuda.get_rng_state(self.device)
        return (torch.get_rng_state(),)

    def _write(self, state: tuple[Tensor, ...]) -> None:
        if state:
            torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state(state[1], self.device)


def check_mode(mode: str, radius: float | None, where: str = "response") -> None:
    """Refuse an unknown ``products`` or a radius that is not positive."""
    checked("products", mode, one_of("auto", "double_backward", "finite_difference"), where=where)
    checked("radius", radius, maybe(real(above=0)), where=where)


def lacks_second_derivative(error: RuntimeError) -> bool:
    """True if the error is PyTorch's about an operation without a second derivative."""
    return _MISSING.search(str(error)) is not None


def cut_off(grads: Sequence[Tensor]) -> bool:
    """True if a function marked with once_differentiable is in the gradients' graph.

    Its node would raise only when it is reached; as nothing lies behind it autograd.grad never goes there, and the
    function's second derivative would silently count as zero.
    """
    todo = [g.grad_fn for g in grads if g.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if type(node).__name__ == "Error":
            return True
        for after, _ in node.next_functions:
            if after is not None and after not in seen:
                seen.add(after)
                todo.append(after)
    return False


def warn_fall_back(error: RuntimeError) -> None:
    """Say that finite differences stand in."""
    warnings.warn(
        f"No second derivative ({str(error).splitlines()[0]}): finite differences of the gradient are used instead; "
        'say products="finite_difference" to choose them.',
        ResponseWarning,
        stacklevel=4,
    )
