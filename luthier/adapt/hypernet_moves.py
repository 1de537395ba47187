"""One move of the hyperparameters down the validation loss of the weights that a hypernetwork gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.adapt import draws, way
from luthier.adapt import samples as folding
from luthier.adapt.gate import Gate
from luthier.adapt.hypergradient import movable_rate
from luthier.adapt.hypernet_descent import in_widths
from luthier.adapt.hypernetwork import domains_of, own_of, place_of, recentred, settled, weights, with_own
from luthier.optim import Adam
from luthier.optim.common import Tensors
from luthier.stack.layout import aligned
from luthier.task.program import Batch, Program, State

if TYPE_CHECKING:
    from luthier.adapt.hypernet import Hypernet

OUTER = 1 << 22  # site of the draws here: beyond those of the descent


def move(
    net: Hypernet, task: Program, state: State, valid: Batch, gone: Tensors | None = None
) -> tuple[State, dict[str, Tensor]]:
    """One step of λ̂, of the width of the draws and of the learning rate, down the validation loss of w(λ̂).

    Args:
        net: The settings.
        task: The step that is trained.
        state: The stack.
        valid: A minibatch of the validation split.
        gone: Distance that the weights have gone since the last move, where the learning rate moves.
    """
    domains, own = domains_of(task, state), own_of(state)
    place = place_of(domains, state)
    old = {"free": place} | {name: own[name] for name in ("width", "rate") if name in own}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in old.items()}
    base, response = settled(net, state)
    if gone is not None:
        base = way.scaled(movable_rate(task), base, gone, leaves["rate"])
    loss, objective = _valid_loss(net, task, state, (base, response), place, leaves, valid)
    found = torch.autograd.grad(objective.sum(), list(leaves.values()))
    gradients = dict(zip(leaves, found, strict=True))

    started = state["t"] > net.warmup * task.epoch_steps  # (members,)
    new, outer = Adam(lr=net.outer_lr).update(old, gradients, own["outer"], {}, own["moves"])
    gate, gated = Gate(net.gate), [name for name in ("free", "rate") if name in old]
    signals = torch.cat([gradients[name] for name in gated], 1)
    opened, seen = gate.update(own.get("gate") or gate.init(signals), signals)
    opened = opened & started.unsqueeze(1)
    new["free"] = new["free"].clamp(*draws.bounds(domains, place))
    new, outer = (folding.chosen(started, *both) for both in ((new, old), (outer, own["outer"])))
    for name, allowed in zip(gated, opened.split([old[name].shape[1] for name in gated], 1), strict=True):
        new[name] = torch.where(allowed, new[name], old[name])
    moves_it = draws.apart(domains, opened[:, : place.shape[1]])
    values = {
        name: torch.where(moves_it[name], value, state["hyper"][name])
        for name, value in draws.values(domains, new["free"]).items()
    }
    if "rate" in new:
        new["rate"], values["lr"] = way.moved(movable_rate(task), new["rate"], opened[:, -1], state["hyper"]["lr"])
    moves = own["moves"] + started.to(own["moves"].dtype)
    own = {**own, **new, "free": draws.apart(domains, new["free"]), "outer": outer, "moves": moves, "gate": seen}
    metrics = {"valid_loss": loss, "hypergradient": folding.total(gradients["free"].square()).sqrt()}
    if "width" in new:
        width = aligned(F.softplus, new["width"])
        metrics["perturbation"] = folding.total(width) / width.shape[1]
    moved = with_own({**state, "hyper": {**state["hyper"], **values}}, own)
    return recentred(net, domains, moved, place, new["free"]), metrics


def _valid_loss(
    net: Hypernet,
    task: Program,
    state: State,
    phi: tuple[Tensors, Tensors],
    place: Tensor,
    leaves: Tensors,
    valid: Batch,
) -> tuple[Tensor, Tensor]:
    """The validation loss, (members,), of w(λ̂), and the same less the entropy.

    Where the width of the draws is learnt it is the mean over draws around λ̂ (MacKay et al., eq. 14).
    """
    domains, points = domains_of(task, state), leaves["free"].unsqueeze(1)
    if "width" in leaves:
        noise = in_widths(net, state, OUTER, points.shape[2])
        points = draws.around(domains, leaves["free"], aligned(F.softplus, leaves["width"]), noise)
    many = points.shape[1]
    losses = task.objective(
        weights(net, domains, *phi, points, place),
        folding.repeated(state["buffers"], many),
        {**folding.repeated(state["hyper"], many), **draws.values(domains, points.flatten(0, 1))},
        folding.repeated_batch(valid, many, task.task.own_batches),
        net.objective,
    )
    loss = folding.mean(losses.unflatten(0, (-1, many)))
    if "width" not in leaves:
        return loss.detach(), loss
    assert net.entropy is not None, "or there would be no width"
    entropy = folding.total(aligned(lambda s: F.softplus(s).log(), leaves["width"]))  # but for a constant
    return loss.detach(), loss - net.entropy * entropy
