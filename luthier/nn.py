"""Layers whose settings are hyperparameters of the space, one value a member of a stack."""

from __future__ import annotations

from torch import Tensor, nn

from luthier.errors import TaskError


class Dropout(nn.Module):
    """Dropout whose rate is the hyperparameter ``name``, so that members of one stack may have different rates.

    ``nn.Dropout(config["dropout"])`` would fix the rate when the model is built, and only configurations of equal rate
    could train together. Inside luthier the mask is drawn from the member's own noise. A module taken out of luthier
    (an exported model, a quick check) is ``nn.Dropout(p)`` with torch's generator.

    Args:
        name: The hyperparameter that is the rate, in [0, 1].
        p: The rate outside luthier.

    Raises:
        TaskError: If ``name`` is not a name or ``p`` is not a rate.

    Example:
        >>> import torch
        >>> Dropout("dropout").eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, name: str, p: float = 0.5) -> None:
        super().__init__()
        if not isinstance(name, str) or not name:
            raise TaskError(
                f"{name!r} is not the name of a hyperparameter",
                where="lt.nn.Dropout(name)",
                remedy='Give the name that the space has: lt.nn.Dropout("dropout"); for a fixed rate, nn.Dropout(0.5).',
            )
        if not 0 <= p <= 1:
            raise TaskError(f"p={p} is outside [0, 1]", where=f"lt.nn.Dropout({name!r})", remedy="Give a rate.")
        self.dropout_hyperparameter, self.p = name, p  # luthier.stack knows the layer by this attribute

    def forward(self, inputs: Tensor) -> Tensor:
        """Dropout at the rate ``p``, from torch's generator: what runs outside luthier."""
        return nn.functional.dropout(inputs, self.p, self.training)

    def extra_repr(self) -> str:
        """The hyperparameter's name, for ``print(model)``."""
        return repr(self.dropout_hyperparameter)
