"""One training step of a hypernetwork: down the training loss at hyperparameters that are drawn anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.adapt import draws, tangent
from luthier.adapt import samples as folding
from luthier.adapt.differentiable import coupled_decay, half_square
from luthier.adapt.hypernetwork import averaged, domains_of, follows, own_of, phi, place_of, weights, with_own, with_phi
from luthier.adapt.structures import MOST_GATED
from luthier.optim.common import Tensors
from luthier.stack.layout import aligned
from luthier.task.program import Batch, Program, State

if TYPE_CHECKING:
    from luthier.adapt.hypernet import Hypernet

INNER = 1 << 21  # site of the draws here: beyond the model's and augmentation's
PAIR = 2  # draws of all numbers, of opposite sign


def descend(net: Hypernet, task: Program, state: State, batch: Batch) -> tuple[State, Tensor]:
    """One step of φ; the loss, (members,)."""
    domains, own = domains_of(task, state), own_of(state)
    if follows(net, task, state["params"], domains):
        return _follow(net, task, state, batch)
    place = place_of(domains, state)
    points = drawn(net, domains, state, place)  # (members, samples, n)
    base, response = phi(net, state)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in {**base, **response}.items()}
    params = weights(net, domains, *folding.parted(leaves, base), points, place)
    losses, buffers, undecayed = _losses(task, state, domains, points, params, batch)
    loss = folding.mean(losses.unflatten(0, (-1, points.shape[1])))
    found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    gradients = task.updater.clipped(dict(zip(leaves, found, strict=True)), state["hyper"])

    # φ descends as one: clipping, if any, is by the norm of all its gradients
    whole = {**state, "params": {**base, **response}, "opt": folding.joined(state["opt"], own["opt"])}
    after = task.apply(whole, {**state["hyper"], **undecayed}, gradients, buffers)
    base, response = folding.parted(after["params"], base)
    slots = {slot: folding.parted(tensors, base) for slot, tensors in after["opt"].items()}
    own = {**own, "opt": {slot: both[1] for slot, both in slots.items()}}
    after = {**after, "opt": {slot: both[0] for slot, both in slots.items()}, "params": state["params"]}
    return with_phi(net, with_own(after, averaged(net, own, response)), base, response), loss.detach()


def _follow(net: Hypernet, task: Program, state: State, batch: Batch) -> tuple[State, Tensor]:
    """The same, the response moved by the step that moves the weights; see `luthier.adapt.tangent`."""
    domains, own = domains_of(task, state), dict(own_of(state))
    place = place_of(domains, state)
    points = drawn(net, domains, state, place, turns=True)
    base, response = phi(net, state)
    there = weights(net, domains, base, response, points, place)
    params = {name: weight.detach().requires_grad_() for name, weight in there.items()}
    losses, buffers, undecayed = _losses(task, state, domains, points, params, batch)
    found = torch.autograd.grad(losses.sum(), list(params.values()), allow_unused=True, materialize_grads=True)
    each = {n: g.unflatten(0, (-1, points.shape[1])) for n, g in zip(params, found, strict=True)}
    hyper = {**state["hyper"], **undecayed}
    gradients = task.updater.clipped({n: folding.mean(g) for n, g in each.items()}, hyper)
    after = task.apply(state, hyper, gradients, buffers)
    slope, seen = tangent.slopes(each, points - place.unsqueeze(1))
    moved, moment = tangent.stepped(task, state, after, hyper, gradients, response, slope, own["opt"])
    response, own["opt"] = tangent.where(seen, (moved, moment), (response, own["opt"]))
    loss = folding.mean(losses.detach().unflatten(0, (-1, points.shape[1])))
    return with_phi(net, with_own(after, averaged(net, own, response)), after["params"], response), loss


def _losses(
    task: Program, state: State, domains: draws.Domains, points: Tensor, params: Tensors, batch: Batch
) -> tuple[Tensor, Tensors, dict[str, Tensor]]:
    """Training losses at ``points``, (members · samples,), the buffers after, and the decay that is in them now."""
    many = points.shape[1]
    hyper = {**folding.repeated(state["hyper"], many), **draws.values(domains, points.flatten(0, 1))}
    losses, buffers = task.losses(
        params,
        folding.repeated(state["buffers"], many),
        hyper,
        folding.repeated_batch(batch, many, task.task.own_batches),
        folding.repeated_noise(state, many),
    )
    buffers = folding.mean_buffers(buffers, many)
    decay = coupled_decay(task.optimizer, params, hyper)
    if decay is None:
        return losses, buffers, {}
    name = getattr(task.optimizer, "decay_name", "weight_decay")  # of the network's weights, and no longer of φ
    zero = torch.zeros_like(state["t"], dtype=losses.dtype)
    return losses + half_square(params, decay), buffers, {name: zero}


def drawn(net: Hypernet, domains: draws.Domains, state: State, place: Tensor, turns: bool = False) -> Tensor:
    """The points at which φ is trained, (members, samples, n); under ``turns`` numbers take turns."""
    if net.mode == "global":
        uniform = draws.noise(state, INNER, net.samples or PAIR, place.shape[1], uniform=True)
        return draws.everywhere(domains, uniform)
    if net.scale == 0:
        return place.unsqueeze(1)
    width = aligned(F.softplus, own_of(state)["width"]) if net.learns_width else net.scale
    if turns and net.samples is not None:
        noise = draws.one_at_a_time(state, place.shape[1], net.samples // 2)
    else:
        noise = in_widths(net, state, INNER, place.shape[1])
    return draws.around(domains, place, width, noise)


def in_widths(net: Hypernet, state: State, site: int, count: int) -> Tensor:
    """The draws of the step at hand, in widths, (members, samples, count)."""
    if net.samples is None and count <= MOST_GATED:
        return draws.one_at_a_time(state, count)
    return draws.noise(state, site, net.samples or PAIR, count)
