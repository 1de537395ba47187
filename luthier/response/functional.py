"""An unchanged nn.Module and a criterion as plain loss functions of (params, hyper, batch)."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.func import functional_call

from luthier.response.result import Loss, Tree


class Functional(NamedTuple):
    """Result of `functional`: the weights by name, and the two losses to pass on."""

    params: Tree
    train_loss: Loss
    valid_loss: Loss


def functional(
    model: nn.Module,
    loss: Callable[..., Tensor],
    penalty: Callable[[Tree, Tree], Tensor] | None = None,
) -> Functional:
    """Loss functions of a module that is not changed: neither its weights, nor its buffers, nor its mode.

    The training loss runs the module in the mode in which it is given, the validation loss in evaluation mode and
    without the penalty. Buffers (BatchNorm's statistics) are copies, taken from the module at each call.

    Args:
        model: Any module; the weights that require a gradient are the `params`.
        loss: (output, target) -> (); or (output, target, hyper) -> (), where the validation loss passes no
            hyperparameters (an empty dictionary).
        penalty: (params, hyper) -> (), added to the training loss.

    Returns:
        `params`, `train_loss`, `valid_loss`; a batch is (inputs, target), inputs a tensor or a tuple of them.

    Examples:
        >>> import torch
        >>> model, decay = nn.Linear(3, 1), lambda p, h: (h["decay"].exp() * p["weight"] ** 2).sum()
        >>> params, train_loss, valid_loss = functional(model, nn.functional.mse_loss, decay)
        >>> batch = (torch.ones(5, 3), torch.ones(5, 1))
        >>> sorted(params), train_loss(params, {"decay": torch.tensor(-2.0)}, batch).shape
        (['bias', 'weight'], torch.Size([]))
    """
    # Copies of the modules alone: weights and buffers are shared, and replaced in every call.
    shared: dict[int, Any] = {id(x): x for x in (*model.parameters(), *model.buffers())}
    train_model = copy.deepcopy(model, dict(shared))
    valid_model = copy.deepcopy(model, dict(shared)).eval()
    reads_hyper = _required_arguments(loss) >= 3

    def forward(network: nn.Module, params: Tree, inputs: Any) -> Tensor:
        buffers = {name: x.clone() for name, x in model.named_buffers()}
        return functional_call(network, {**params, **buffers}, inputs if isinstance(inputs, tuple) else (inputs,))

    def train_loss(params: Tree, hyper: Tree, batch: Any) -> Tensor:
        inputs, target = batch
        output = forward(train_model, params, inputs)
        value = loss(output, target, hyper) if reads_hyper else loss(output, target)
        return value if penalty is None else value + penalty(params, hyper)

    def valid_loss(params: Tree, hyper: Tree, batch: Any) -> Tensor:
        inputs, target = batch
        output = forward(valid_model, params, inputs)
        return loss(output, target, {}) if reads_hyper else loss(output, target)

    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return Functional(params, train_loss, valid_loss)


def _required_arguments(loss: Callable[..., Tensor]) -> int:
    try:
        parameters = inspect.signature(getattr(loss, "forward", loss)).parameters.values()
    except ValueError:  # built in, without a signature
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
