"""A gate that holds a number where it is while its gradient cannot be told from noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 0.9  # decay of both running means: of some twenty gradients


@dataclass(frozen=True)
class Gate:
    """Opens for a number once the mean of its last gradients exceeds its standard error by a factor.

    With running means m of g and s of g², and the number k of gradients that count in them, it is open where
    |m| > errors · √(s / k): of k independent draws around 0 the mean is that large in one case out of twenty, if
    ``errors`` is 2.

    Args:
        errors: The factor, in standard errors; 0 is always open.
    """

    errors: float

    def init(self, place: Tensor) -> dict[str, Tensor]:
        """No gradient yet; place (members, numbers)."""
        return {
            "mean": torch.zeros_like(place),
            "square": torch.zeros_like(place),
            "seen": torch.zeros(len(place), dtype=torch.int64, device=place.device),
        }

    def update(self, state: dict[str, Tensor], gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Openings after one more gradient, (members, numbers), and the new state."""
        mean = torch.lerp(state["mean"], gradient, 1 - KEPT)
        square = torch.lerp(state["square"], gradient.square(), 1 - KEPT)
        seen = state["seen"] + 1
        left = KEPT ** seen.to(torch.float64)  # the weight of what was never seen
        count = (1 - left) * (1 + KEPT) / ((1 - KEPT) * (1 + left))  # gradients of equal weight that would be as good
        # with both means corrected for their start at 0: (m / (1 - left))² · count > errors² · s / (1 - left)
        opened = mean.square() * (count / (1 - left)).to(mean.dtype).unsqueeze(1) > self.errors**2 * square
        if not self.errors:
            opened = torch.ones_like(opened)
        return opened, {"mean": mean, "square": square, "seen": seen}
