"""Hyperparameter tuning by a hypernetwork that learns how the best weights respond (Lorraine and Duvenaud 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.adapt import draws, tangent
from luthier.adapt import samples as folding
from luthier.adapt.best_response import BestResponse
from luthier.adapt.differentiable import coupled_decay, half_square
from luthier.adapt.gate import Gate
from luthier.adapt.structures import MOST_GATED, STRUCTURES, choose
from luthier.adapt.unconstrained import tunable
from luthier.checks import maybe, one_of, real, require, whole
from luthier.errors import MethodError
from luthier.optim import Adam
from luthier.optim.common import Tensors
from luthier.space import Config, Float
from luthier.stack import Noise
from luthier.stack.layout import aligned
from luthier.task.program import Batch, Program, State

INNER, OUTER, FRESH = 1 << 21, 1 << 22, 1 << 23  # sites of the draws here: beyond the model's and augmentation's
PAIR = 2  # draws of all numbers, of opposite sign


@dataclass(frozen=True)
class Hypernet:
    """Learns the best weights as a function of the hyperparameters, and moves the hyperparameters down that function.

    Weights w(λ) come from a hypernetwork φ, which descends the training loss at hyperparameters λ that are drawn anew
    at every step, so that it learns not one network but how the weights respond; the validation loss of w(λ̂) then has
    a derivative by the current λ̂. The model is not changed: its weights are replaced. Hyperparameters need not be
    differentiable in the training loss (dropout, augmentation), but they must enter it: a learning rate does not.

    The task's optimizer descends φ, at its learning rate, but for a linear response, whose steps are in proportion to
    its own gradient (``follow``); the state's ``params`` are w(λ̂). Draws and moves are in unconstrained numbers, see
    `luthier.adapt.unconstrained`. Metrics of the last move before each measurement: ``"hypergradient"``, its norm in
    these numbers; ``"valid_loss"``, what was differentiated; and ``"perturbation"``, the mean width of the draws, where
    that is learnt.

    Args:
        names: The hyperparameters to move; None is every one that can be.
        mode: ``"local"``: λ is drawn around λ̂ (the paper's second algorithm). ``"global"``: λ is drawn from the whole
            space (its first), for `luthier.Study.response`; ``warmup`` should then be most of the training.
        structure: Structure of the hypernetwork, a row of `luthier.adapt.structures`; ``"auto"`` chooses by size, and
            the response says which.
        samples: Draws of λ a step, each with the whole minibatch; an even number comes in pairs of opposite sign. None
            is two for each number that moves: it alone up and down by the width, so that no other one's effect is taken
            for its own. Beyond 50 numbers, and in global mode, None is two draws of all. Where the response follows the
            training (``follow``), fewer draws mean that numbers take turns, with slower responses at less cost.
        scale: Width of the draws at first. 0 is the simplified local form, λ = λ̂, which needs ``centred=False`` and
            learns from the way of λ̂ alone.
        entropy: Weight τ of the draws' entropy, with which their width is learnt; None keeps it. Not in global mode.
        centred: The hypernetwork's input is λ - λ̂. Without it, as published, it is λ, from -1 to 1 over the domain, and
            the present weights and their response share their gradients.
        warmup: Epochs before the hyperparameters begin to move.
        inner_steps: Steps of φ, each on a minibatch, between two moves of the hyperparameters.
        outer_lr: Learning rate of the moves, which are Adam's.
        objective: Quantity minimised on the validation split: ``"loss"``, or a metric of the task that can be
            differentiated. It must not read the hyperparameters itself.
        rank: Rank of ``structure="low_rank"``.
        hidden: Units of ``structure="mlp"``.
        smoothing: Decay, a step of φ, of the running mean of the response by which the hyperparameters move.
        follow: The response of structure ``linear`` is moved by steps in proportion to its own gradient, at rates of
            the weights' optimizer (`luthier.adapt.tangent`): Adam's own steps have one size, in which a smaller
            response is lost. It needs SGD, Adam or AdamW, luthier's or torch's, and draws in pairs, and local mode with
            a centred input; elsewhere, and as published, φ descends as one.
        gate: A hyperparameter moves only while the mean of its last hypergradients, some twenty, is larger than so many
            of its standard errors; those of the warm-up count. 0: it always moves, as published.

    Raises:
        MethodError: If a setting makes no sense.

    Examples:
        >>> Hypernet(mode="global", warmup=20).structure
        'auto'

    References:
        Lorraine and Duvenaud 2018, Stochastic hyperparameter optimization through hypernetworks, algorithms 2 to 4.
        MacKay et al. 2019, Self-tuning networks: the learnt width; Bae and Grosse 2020, Delta-STN: the centred input.
    """

    names: tuple[str, ...] | None = None
    mode: Literal["local", "global"] = "local"
    structure: Literal["auto", "linear", "low_rank", "gated", "diagonal", "mlp"] = "auto"
    samples: int | None = None
    scale: float = 0.5
    entropy: float | None = 1e-3
    centred: bool = True
    warmup: float = 1.0
    inner_steps: int = 5
    outer_lr: float = 0.02
    objective: str = "loss"
    rank: int = 10
    hidden: int = 50
    smoothing: float = 0.99
    follow: bool = True
    gate: float = 2.0

    needs_valid: ClassVar[bool] = True
    earlier: ClassVar[Any] = ({"follow": False, "gate": 0.0},)

    def __post_init__(self) -> None:
        _check(self)
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))

    @property
    def window(self) -> int:
        """Minibatches between two moves of the hyperparameters."""
        return self.inner_steps

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """A fresh training, or the continuation of ``parent``, which any adapter may have trained.

        Raises:
            MethodError: If a hyperparameter that is asked for cannot be moved, or none can.
        """
        state = task.init(config, key, parent, overwrite)
        own = state["own"].get("hypernet")
        if own is not None:
            changed = config if overwrite is None else overwrite
            fresh = draws.apart(self._domains(task, state), draws.free(self._domains(task, state), state["hyper"]))
            free = {name: fresh[name] if name in changed else old for name, old in own["free"].items()}
            return self._evaluated(task, _with(state, {**own, "free": free}))
        movable = tunable(task, state, self.names, "Hypernet", draws.entering(task, state))
        domains = {name: domain for name, domain in movable.items() if name in state["hyper"]}
        self._check_objective(task, state, domains)
        place = draws.free(domains, state["hyper"])
        moving = {"free": place}
        if self._learns_width:
            width = torch.full_like(place, self.scale)
            moving["width"] = width + (-torch.expm1(-width)).log()  # the inverse of softplus
        noise = Noise(state["key"], torch.zeros_like(state["t"]), FRESH)
        structure = STRUCTURES[self._structure(state["params"], domains)]
        response = structure.init(state["params"], draws.count(domains), noise, self.rank, self.hidden)
        follows = self._follows(task, state["params"], domains)
        made = partial(tangent.slots, task) if follows else task.slots
        base = {} if self.centred else {"base": {name: param.clone() for name, param in state["params"].items()}}
        own = {
            **moving,
            **base,
            "free": draws.apart(domains, place),
            "response": response,
            "smooth": {name: tensor.clone() for name, tensor in response.items()},
            "opt": made(response, state["hyper"]),
            "gate": Gate(self.gate).init(place),
            "outer": Adam().init(moving, {}),
            "moves": torch.zeros_like(state["t"]),
        }
        return self._evaluated(task, _with(state, own))

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """``inner_steps`` steps of the hypernetwork and one of the hyperparameters; metrics are (members,) each."""
        assert valid is not None, "needs_valid"
        losses = []
        for batch in batches:
            state, loss = self._descend(task, state, batch)
            losses.append(loss)
        state, metrics = self._move(task, state, valid)
        return self._evaluated(task, state), {"train_loss": folding.mean(torch.stack(losses, 1)), **metrics}

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """The hyperparameters that move, each (members,) or (members, d)."""
        return {name: state["hyper"][name] for name in _own(state)["free"]}

    def response(self, task: Program, config: Config, state: State) -> BestResponse:
        """Return the response learnt by a training run, a stack of one: weights for any hyperparameters."""
        domains, (base, response) = self._domains(task, state), self._settled(state)
        place = self._place(domains, state)

        def weights(points: Tensor) -> Tensors:
            return self._weights(domains, base, response, points, place)

        return BestResponse(task, config, state, domains, self._structure(base, domains), weights)

    # -- the two kinds of step --------------------------------------------------------------------------------------

    def _descend(self, task: Program, state: State, batch: Batch) -> tuple[State, Tensor]:
        """One step of φ down the training loss at hyperparameters drawn anew; the loss, (members,)."""
        if self._follows(task, state["params"], self._domains(task, state)):
            return self._follow(task, state, batch)
        domains, own = self._domains(task, state), _own(state)
        place = self._place(domains, state)
        points = self._drawn(domains, state, place)  # (members, samples, n)
        base, response = self._phi(state)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in {**base, **response}.items()}
        params = self._weights(domains, *folding.parted(leaves, base), points, place)
        losses, buffers, undecayed = self._losses(task, state, domains, points, params, batch)
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
        return self._with_phi(_with(after, self._averaged(own, response)), base, response), loss.detach()

    def _follow(self, task: Program, state: State, batch: Batch) -> tuple[State, Tensor]:
        """The same, the response moved by the step that moves the weights; see `luthier.adapt.tangent`."""
        domains, own = self._domains(task, state), dict(_own(state))
        place = self._place(domains, state)
        points = self._drawn(domains, state, place, turns=True)
        base, response = self._phi(state)
        there = self._weights(domains, base, response, points, place)
        params = {name: weight.detach().requires_grad_() for name, weight in there.items()}
        losses, buffers, undecayed = self._losses(task, state, domains, points, params, batch)
        found = torch.autograd.grad(losses.sum(), list(params.values()), allow_unused=True, materialize_grads=True)
        each = {n: g.unflatten(0, (-1, points.shape[1])) for n, g in zip(params, found, strict=True)}
        hyper = {**state["hyper"], **undecayed}
        gradients = task.updater.clipped({n: folding.mean(g) for n, g in each.items()}, hyper)
        after = task.apply(state, hyper, gradients, buffers)
        slope, seen = tangent.slopes(each, points - place.unsqueeze(1))
        moved, moment = tangent.stepped(task, state, after, hyper, gradients, response, slope, own["opt"])
        response, own["opt"] = tangent.where(seen, (moved, moment), (response, own["opt"]))
        loss = folding.mean(losses.detach().unflatten(0, (-1, points.shape[1])))
        return self._with_phi(_with(after, self._averaged(own, response)), after["params"], response), loss

    def _losses(
        self, task: Program, state: State, domains: draws.Domains, points: Tensor, params: Tensors, batch: Batch
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

    def _move(self, task: Program, state: State, valid: Batch) -> tuple[State, dict[str, Tensor]]:
        """One step of λ̂, and of the width of the draws, down the validation loss of w(λ̂)."""
        domains, own = self._domains(task, state), _own(state)
        place = self._place(domains, state)
        old = {"free": place} | ({"width": own["width"]} if "width" in own else {})
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in old.items()}
        loss, objective = self._valid_loss(task, domains, state, place, leaves, valid)
        found = torch.autograd.grad(objective.sum(), list(leaves.values()))
        gradients = dict(zip(leaves, found, strict=True))

        started = state["t"] > self.warmup * task.epoch_steps  # (members,)
        new, outer = Adam(lr=self.outer_lr).update(old, gradients, own["outer"], {}, own["moves"])
        gate = Gate(self.gate)
        opened, seen = gate.update(own.get("gate") or gate.init(place), gradients["free"])
        opened = opened & started.unsqueeze(1)
        new["free"] = new["free"].clamp(*draws.bounds(domains, place))
        new, outer = (folding.chosen(started, *both) for both in ((new, old), (outer, own["outer"])))
        new["free"] = torch.where(opened, new["free"], place)
        moves_it = draws.apart(domains, opened)
        values = {
            name: torch.where(moves_it[name], value, state["hyper"][name])
            for name, value in draws.values(domains, new["free"]).items()
        }
        moves = own["moves"] + started.to(own["moves"].dtype)
        own = {**own, **new, "free": draws.apart(domains, new["free"]), "outer": outer, "moves": moves, "gate": seen}
        metrics = {"valid_loss": loss, "hypergradient": folding.total(gradients["free"].square()).sqrt()}
        if "width" in new:
            width = aligned(F.softplus, new["width"])
            metrics["perturbation"] = folding.total(width) / width.shape[1]
        moved = _with({**state, "hyper": {**state["hyper"], **values}}, own)
        return self._recentred(domains, moved, place, new["free"]), metrics

    def _valid_loss(
        self, task: Program, domains: draws.Domains, state: State, place: Tensor, leaves: Tensors, valid: Batch
    ) -> tuple[Tensor, Tensor]:
        """The validation loss, (members,), of w(λ̂), and the same less the entropy.

        Where the width of the draws is learnt it is the mean over draws around λ̂ (MacKay et al., eq. 14).
        """
        points = leaves["free"].unsqueeze(1)
        if "width" in leaves:
            noise = self._noise(state, OUTER, points.shape[2])
            points = draws.around(domains, leaves["free"], aligned(F.softplus, leaves["width"]), noise)
        many = points.shape[1]
        losses = task.objective(
            self._weights(domains, *self._settled(state), points, place),
            folding.repeated(state["buffers"], many),
            {**folding.repeated(state["hyper"], many), **draws.values(domains, points.flatten(0, 1))},
            folding.repeated_batch(valid, many, task.task.own_batches),
            self.objective,
        )
        loss = folding.mean(losses.unflatten(0, (-1, many)))
        if "width" not in leaves:
            return loss.detach(), loss
        assert self.entropy is not None, "or there would be no width"
        entropy = folding.total(aligned(lambda s: F.softplus(s).log(), leaves["width"]))  # but for a constant
        return loss.detach(), loss - self.entropy * entropy

    def _check_objective(self, task: Program, state: State, domains: draws.Domains) -> None:
        """Refuse an objective that a move of the hyperparameters makes small by itself, or that nothing measures."""
        if self.objective not in ("loss", *task.task.metrics):
            known = ", ".join(("loss", *task.task.metrics))
            raise MethodError(
                f"objective={self.objective!r} is not measured",
                where="Hypernet",
                remedy=f"The task measures {known}; add others by TorchTask(metrics={{name: function}}).",
            )
        leaves = {name: state["hyper"][name].detach().clone().requires_grad_() for name in domains}
        params = {name: param.detach().requires_grad_() for name, param in state["params"].items()}
        hyper = {**state["hyper"], **leaves}
        values = task.objective(params, state["buffers"], hyper, task.sources.example("valid", 2), self.objective)
        if not values.requires_grad:
            raise MethodError(
                f"the metric {self.objective!r} cannot be differentiated",
                where="Hypernet(objective=…)",
                remedy='Give a smooth one, such as the default, "loss".',
            )
        found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True)
        direct = [name for name, gradient in zip(leaves, found, strict=True) if gradient is not None]
        if direct:
            raise MethodError(
                f"{min(direct)} enters the validation {self.objective} itself, which would be made small by it alone",
                where="Hypernet(objective=…)",
                remedy="Name a metric of the task that does not read it: metrics={'cross_entropy': "
                "lt.losses.cross_entropy} and objective='cross_entropy'.",
            )

    # -- the hypernetwork -------------------------------------------------------------------------------------------

    @property
    def _learns_width(self) -> bool:
        return self.mode == "local" and self.scale > 0 and self.entropy is not None

    def _domains(self, task: Program, state: State) -> dict[str, Float]:
        names = _own(state)["free"]
        return {name: domain for name, domain in task.task.space.domains.items() if name in names}  # type: ignore[misc]

    def _structure(self, params: Tensors, domains: draws.Domains) -> str:
        if self.structure != "auto":
            return self.structure
        return choose(params, draws.count(domains), everywhere=self.mode == "global")

    def _place(self, domains: draws.Domains, state: State) -> Tensor:
        """λ̂ on the scale without bounds, (members, n)."""
        return draws.together({name: _own(state)["free"][name] for name in domains})

    def _drawn(self, domains: draws.Domains, state: State, place: Tensor, turns: bool = False) -> Tensor:
        """Return the points at which φ is trained, (members, samples, n); under ``turns`` numbers take turns."""
        if self.mode == "global":
            uniform = draws.noise(state, INNER, self.samples or PAIR, place.shape[1], uniform=True)
            return draws.everywhere(domains, uniform)
        if self.scale == 0:
            return place.unsqueeze(1)
        width = aligned(F.softplus, _own(state)["width"]) if self._learns_width else self.scale
        if turns and self.samples is not None:
            noise = draws.one_at_a_time(state, place.shape[1], self.samples // 2)
        else:
            noise = self._noise(state, INNER, place.shape[1])
        return draws.around(domains, place, width, noise)

    def _noise(self, state: State, site: int, count: int) -> Tensor:
        """The draws of the step at hand, in widths, (members, samples, count)."""
        if self.samples is None and count <= MOST_GATED:
            return draws.one_at_a_time(state, count)
        return draws.noise(state, site, self.samples or PAIR, count)

    def _follows(self, task: Program, params: Tensors, domains: draws.Domains) -> bool:
        """True if the response is moved by the step that moves the weights."""
        if not self.follow or not self.centred or self.mode == "global":
            return False
        return tangent.can_follow(task, self._structure(params, domains), self.samples)

    def _averaged(self, own: dict[str, Any], response: Tensors) -> dict[str, Any]:
        smooth = {name: torch.lerp(mean, response[name], 1 - self.smoothing) for name, mean in _smooth(own).items()}
        return {**own, "smooth": smooth}

    def _settled(self, state: State) -> tuple[Tensors, Tensors]:
        """φ with the running mean of its response, where its centre is λ̂ and so the network itself."""
        base, response = self._phi(state)
        return base, _smooth(_own(state)) if self.centred and self.mode == "local" else response

    def _phi(self, state: State) -> tuple[Tensors, Tensors]:
        """φ: what it gives at its centre, which is the network itself if that is λ̂, and its response."""
        return state["params"] if self.centred else _own(state)["base"], _own(state)["response"]

    def _with_phi(self, state: State, base: Tensors, response: Tensors) -> State:
        if self.centred:
            return _with({**state, "params": base}, {**_own(state), "response": response})
        return _with(state, {**_own(state), "base": base, "response": response})

    def _weights(
        self, domains: draws.Domains, base: Tensors, response: Tensors, points: Tensor, place: Tensor
    ) -> Tensors:
        """w(λ) at ``points``, (members, samples, n), of every sample."""
        structure = STRUCTURES[self._structure(base, domains)]
        return structure.weights(base, response, self._input(domains, points, place.unsqueeze(1)))

    def _input(self, domains: draws.Domains, points: Tensor, place: Tensor) -> Tensor:
        """Return the hypernetwork's input."""
        if self.centred and self.mode == "local":
            return points - place
        low, high = draws.bounds(domains, points)
        return (points - (place if self.centred else (low + high) / 2)) * (2 / (high - low))

    def _recentred(self, domains: draws.Domains, state: State, old: Tensor, new: Tensor) -> State:
        """The same function about λ̂ where it is now: the weights follow their response as the hyperparameters move."""
        if not self.centred:
            return state
        base, response = self._phi(state)
        followed = self._weights(domains, base, response, new.unsqueeze(1), old)
        structure, step = STRUCTURES[self._structure(base, domains)], self._input(domains, new, old)
        state = _with(state, {**_own(state), "smooth": structure.moved(_smooth(_own(state)), step)})
        return self._with_phi(state, followed, structure.moved(response, step))

    def _evaluated(self, task: Program, state: State) -> State:
        """The state with the weights at λ̂ as ``params``."""
        if self.centred:
            return state
        domains = self._domains(task, state)
        place = self._place(domains, state)
        return {**state, "params": self._weights(domains, *self._phi(state), place.unsqueeze(1), place)}


def _own(state: State) -> dict[str, Any]:
    """The part of the state that is this adapter's."""
    return state["own"]["hypernet"]


def _smooth(own: dict[str, Any]) -> Tensors:
    """The running mean of the response; the response itself in a state that an earlier version has kept."""
    return own.get("smooth", own["response"])


def _with(state: State, own: dict[str, Any]) -> State:
    return {**state, "own": {**state["own"], "hypernet": own}}


def _check(settings: Hypernet) -> None:
    """Refuse settings that make no sense."""
    require(
        settings,
        "Hypernet",
        mode=one_of("local", "global"),
        structure=one_of("auto", *STRUCTURES),
        entropy=maybe(real(0)),
        samples=maybe(whole(1)),
        follow=one_of(True, False),
        smoothing=real(0, below=1),
        **{name: whole(1) for name in ("inner_steps", "rank", "hidden")},
        **{name: real(0) for name in ("scale", "warmup", "outer_lr", "gate")},
    )
    if isinstance(settings.names, str):
        what = f"names must be several, got {settings.names!r}"
        raise MethodError(what, where="Hypernet", remedy=f"Give names=({settings.names!r},).")
    if settings.mode == "local" and settings.scale == 0 and settings.centred:
        raise MethodError(
            "scale=0 with centred=True: the hypernetwork would see nothing but 0",
            where="Hypernet",
            remedy="The simplified form is Hypernet(scale=0, centred=False); the usual one draws, with scale=0.5.",
        )
