"""A hypernetwork φ as the state of a training holds it: where its hyperparameters are, and the weights that it gives.

Everything here is a free function of the settings, a `luthier.adapt.hypernet.Hypernet`, and of a stack.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from luthier.adapt import draws, tangent
from luthier.adapt.structures import STRUCTURES, choose
from luthier.optim.common import Tensors
from luthier.space import Float
from luthier.task.program import Program, State

if TYPE_CHECKING:
    from luthier.adapt.hypernet import Hypernet


def own_of(state: State) -> dict[str, Any]:
    """The part of the state that is this adapter's."""
    return state["own"]["hypernet"]


def with_own(state: State, own: dict[str, Any]) -> State:
    """The state with another part of this adapter's."""
    return {**state, "own": {**state["own"], "hypernet": own}}


def smooth(own: dict[str, Any]) -> Tensors:
    """The running mean of the response; the response itself in a state that an earlier version has kept."""
    return own.get("smooth", own["response"])


def averaged(net: Hypernet, own: dict[str, Any], response: Tensors) -> dict[str, Any]:
    """The adapter's own part, with the running mean moved on."""
    means = {name: torch.lerp(mean, response[name], 1 - net.smoothing) for name, mean in smooth(own).items()}
    return {**own, "smooth": means}


def domains_of(task: Program, state: State) -> dict[str, Float]:
    """The domains of the hyperparameters that φ reads, in the order of the space."""
    names = own_of(state)["free"]
    return {name: domain for name, domain in task.task.space.domains.items() if name in names}  # type: ignore[misc]


def place_of(domains: draws.Domains, state: State) -> Tensor:
    """λ̂ on the scale without bounds, (members, n)."""
    return draws.together({name: own_of(state)["free"][name] for name in domains})


def structure_of(net: Hypernet, params: Tensors, domains: draws.Domains) -> str:
    """The name of the structure, ``"auto"`` by size."""
    if net.structure != "auto":
        return net.structure
    return choose(params, draws.count(domains), everywhere=net.mode == "global")


def follows(net: Hypernet, task: Program, params: Tensors, domains: draws.Domains) -> bool:
    """True if the response is moved by the step that moves the weights."""
    if not net.follow or not net.centred or net.mode == "global":
        return False
    return tangent.can_follow(task, structure_of(net, params, domains), net.samples)


def phi(net: Hypernet, state: State) -> tuple[Tensors, Tensors]:
    """φ: what it gives at its centre, which is the network itself if that is λ̂, and its response."""
    return state["params"] if net.centred else own_of(state)["base"], own_of(state)["response"]


def with_phi(net: Hypernet, state: State, base: Tensors, response: Tensors) -> State:
    """The state with another φ."""
    if net.centred:
        return with_own({**state, "params": base}, {**own_of(state), "response": response})
    return with_own(state, {**own_of(state), "base": base, "response": response})


def settled(net: Hypernet, state: State) -> tuple[Tensors, Tensors]:
    """φ with the running mean of its response, where its centre is λ̂ and so the network itself."""
    base, response = phi(net, state)
    return base, smooth(own_of(state)) if net.centred and net.mode == "local" else response


def weights(
    net: Hypernet, domains: draws.Domains, base: Tensors, response: Tensors, points: Tensor, place: Tensor
) -> Tensors:
    """w(λ) at ``points``, (members, samples, n), of every sample."""
    structure = STRUCTURES[structure_of(net, base, domains)]
    return structure.weights(base, response, _input(net, domains, points, place.unsqueeze(1)))


def _input(net: Hypernet, domains: draws.Domains, points: Tensor, place: Tensor) -> Tensor:
    """The hypernetwork's input."""
    if net.centred and net.mode == "local":
        return points - place
    low, high = draws.bounds(domains, points)
    return (points - (place if net.centred else (low + high) / 2)) * (2 / (high - low))


def recentred(net: Hypernet, domains: draws.Domains, state: State, old: Tensor, new: Tensor) -> State:
    """The same function about λ̂ where it is now: the weights follow their response as the hyperparameters move."""
    if not net.centred:
        return state
    base, response = phi(net, state)
    followed = weights(net, domains, base, response, new.unsqueeze(1), old)
    structure, step = STRUCTURES[structure_of(net, base, domains)], _input(net, domains, new, old)
    state = with_own(state, {**own_of(state), "smooth": structure.moved(smooth(own_of(state)), step)})
    return with_phi(net, state, followed, structure.moved(response, step))


def evaluated(net: Hypernet, task: Program, state: State) -> State:
    """The state with the weights at λ̂ as ``params``."""
    if net.centred:
        return state
    domains = domains_of(task, state)
    place = place_of(domains, state)
    return {**state, "params": weights(net, domains, *phi(net, state), place.unsqueeze(1), place)}
