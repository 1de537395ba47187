"""Hyperparameter tuning by a hypernetwork that learns how the best weights respond (Lorraine and Duvenaud 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from luthier.adapt import draws, tangent, unconstrained
from luthier.adapt import samples as folding
from luthier.adapt.best_response import BestResponse
from luthier.adapt.gate import Gate
from luthier.adapt.hypergradient import movable_rate
from luthier.adapt.hypernet_descent import descend
from luthier.adapt.hypernet_moves import move
from luthier.adapt.hypernetwork import (
    domains_of,
    evaluated,
    follows,
    own_of,
    phi,
    place_of,
    settled,
    structure_of,
    weights,
    with_own,
)
from luthier.adapt.objective import check_objective
from luthier.adapt.plain import trained
from luthier.adapt.structures import STRUCTURES
from luthier.adapt.unconstrained import decayed_by, tunable
from luthier.checks import checked, maybe, one_of, real, require, whole
from luthier.errors import MethodError
from luthier.optim import Adam
from luthier.space import Config
from luthier.stack import Noise
from luthier.task.program import Batch, Program, State

FRESH = 1 << 23  # site of what a fresh response draws: beyond those of the descent and of the moves


@dataclass(frozen=True)
class Hypernet:
    """Learns the best weights as a function of the hyperparameters, and moves the hyperparameters down that function.

    Weights w(λ) come from a hypernetwork φ, which descends the training loss at hyperparameters λ that are drawn anew
    at every step, so that it learns not one network but how the weights respond; the validation loss of w(λ̂) then has
    a derivative by the current λ̂. The model is not changed: its weights are replaced. Hyperparameters need not be
    differentiable in the training loss (dropout, augmentation), but they must enter it: a learning rate does not, and
    is moved by ``rate`` alone, and left where it enters the loss too. A training in which conditions of the space leave
    nothing active that could move is plain.

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
        inner_steps: Steps of φ, each on a minibatch, between two moves of the hyperparameters. A training is rounded
            down to whole ones: with 5, 27 steps are 25, and 3 are refused.
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
        rate: The learning rate moves too, down the validation loss along the way that the weights have gone since the
            last move (`luthier.adapt.way`). It must be in the space, and steps must be in proportion to it.

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
    structure: Literal["auto", "linear", "low_rank", "gated", "mlp"] = "auto"
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
    rate: bool = False

    needs_valid: ClassVar[bool] = True
    must_move: ClassVar[bool] = True
    earlier: ClassVar[Any] = ({"rate": False}, {"follow": False, "gate": 0.0, "rate": False})

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
        changed = config if overwrite is None else overwrite
        kept = {name: part for name, part in state["own"].items() if name != "hypernet"}
        if parent is not None and len(kept) < len(state["own"]) and parent["hyper"].keys() == state["hyper"].keys():
            return evaluated(self, task, with_own(state, self._continued(task, state, changed)))
        state, entering = {**state, "own": kept}, draws.entering(task, state)
        domains = tunable(task, state, self.names, "Hypernet", decayed_by(task, state), entering)
        if not domains:
            return state
        check_objective(task, state, domains, self.objective, "Hypernet")
        place = draws.free(domains, state["hyper"])
        moving = {"free": place}
        if self.learns_width:
            width = torch.full_like(place, self.scale)
            moving["width"] = width + (-torch.expm1(-width)).log()  # the inverse of softplus
        if self.rate:
            domain = movable_rate(task, "Hypernet(rate=True)", state)
            moving["rate"] = unconstrained.free(domain, state["hyper"]["lr"]).unsqueeze(1)
        noise = Noise(state["key"], torch.zeros_like(state["t"]), FRESH)
        structure = STRUCTURES[structure_of(self, state["params"], domains)]
        response = structure.init(state["params"], draws.count(domains), noise, self.rank, self.hidden)
        made = partial(tangent.slots, task) if follows(self, task, state["params"], domains) else task.slots
        base = {} if self.centred else {"base": {name: param.clone() for name, param in state["params"].items()}}
        own = {
            **moving,
            **base,
            "free": draws.apart(domains, place),
            "response": response,
            "smooth": {name: tensor.clone() for name, tensor in response.items()},
            "opt": made(response, state["hyper"]),
            "gate": Gate(self.gate).init(torch.cat([moving[name] for name in ("free", "rate") if name in moving], 1)),
            "outer": Adam().init(moving, {}),
            "moves": torch.zeros_like(state["t"]),
        }
        return evaluated(self, task, with_own(state, own))

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """``inner_steps`` steps of the hypernetwork and one of the hyperparameters; metrics are (members,) each."""
        assert valid is not None, "needs_valid"
        if "hypernet" not in state["own"]:
            return trained(task, state, batches)
        losses, (start, _) = [], phi(self, state)
        for batch in batches:
            state, loss = descend(self, task, state, batch)
            losses.append(loss)
        gone = {name: param - start[name] for name, param in phi(self, state)[0].items()} if self.rate else None
        state, metrics = move(self, task, state, valid, gone)
        return evaluated(self, task, state), {"train_loss": folding.mean(torch.stack(losses, 1)), **metrics}

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """The hyperparameters that move, each (members,) or (members, d)."""
        if "hypernet" not in state["own"]:
            return {}
        return {name: state["hyper"][name] for name in (*own_of(state)["free"], *(("lr",) if self.rate else ()))}

    def response(self, task: Program, config: Config, state: State) -> BestResponse:
        """Return the response learnt by a training run, a stack of one: weights for any hyperparameters.

        Raises:
            MethodError: If it learnt none.
        """
        if "hypernet" not in state["own"]:
            remedy = "Look at a training in which one is."
            raise MethodError(
                "no hyperparameter that it could move is active", where=f"Hypernet, {config}", remedy=remedy
            )
        domains, (base, response) = domains_of(task, state), settled(self, state)
        at = partial(weights, self, domains, base, response, place=place_of(domains, state))
        return BestResponse(task, config, state, domains, structure_of(self, base, domains), at)

    @property
    def learns_width(self) -> bool:
        """True if the width of the draws is learnt."""
        return self.mode == "local" and self.scale > 0 and self.entropy is not None

    def _continued(self, task: Program, state: State, changed: Mapping[str, Any]) -> dict[str, Any]:
        """This adapter's part of the parent's state, at the values that were changed."""
        own, domains = own_of(state), domains_of(task, state)
        fresh = draws.apart(domains, draws.free(domains, state["hyper"]))
        own = {**own, "free": {name: fresh[name] if name in changed else old for name, old in own["free"].items()}}
        if "rate" in own and "lr" in changed:
            own["rate"] = unconstrained.free(movable_rate(task, "Hypernet(rate=True)"), state["hyper"]["lr"]).unsqueeze(
                1
            )
        return own


def _check(settings: Hypernet) -> None:
    """Refuse settings that make no sense."""
    require(
        settings,
        "Hypernet",
        mode=one_of("local", "global"),
        entropy=maybe(real(0)),
        samples=maybe(whole(1)),
        **{name: one_of(True, False) for name in ("follow", "rate")},
        smoothing=real(0, below=1),
        **{name: whole(1) for name in ("inner_steps", "rank", "hidden")},
        **{name: real(0) for name in ("scale", "warmup", "outer_lr", "gate")},
    )
    remedy = "For thousands of hyperparameters, one a weight, use lt.adapt.Bilevel()."
    checked("structure", settings.structure, one_of("auto", *STRUCTURES), where="Hypernet", remedy=remedy)
    if isinstance(settings.names, str):
        what = f"names must be several, got {settings.names!r}"
        raise MethodError(what, where="Hypernet", remedy=f"Give names=({settings.names!r},).")
    if settings.mode == "local" and settings.scale == 0 and settings.centred:
        raise MethodError(
            "scale=0 with centred=True: the hypernetwork would see nothing but 0",
            where="Hypernet",
            remedy="The simplified form is Hypernet(scale=0, centred=False); the usual one draws, with scale=0.5.",
        )
