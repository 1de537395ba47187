"""Hyperparameters moved down the validation loss while the weights train, by response gradients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from luthier import response
from luthier.adapt import samples as folding
from luthier.adapt import unconstrained, way
from luthier.adapt.differentiable import InnerTraining, Update
from luthier.adapt.hypergradient import movable_rate
from luthier.adapt.objective import check_objective
from luthier.adapt.plain import trained
from luthier.checks import checked, one_of, real, require, whole
from luthier.errors import MethodError
from luthier.optim import SGD, Adam
from luthier.optim.common import norm, total
from luthier.optim.stock import TorchOptimizer
from luthier.response import Hypergradient
from luthier.space import Config, Float
from luthier.task.program import Batch, Program, State

RESPONSES = {
    method.__name__: method
    for method in (
        response.implicit,
        response.unrolled,
        response.identity,
        response.finite_difference,
        response.exact,
    )
}
OURS = ("optimizer", "state", "steps")  # arguments of a response that the adapter gives
OUTER: dict[str, Callable[[float], SGD | Adam]] = {
    "adam": lambda lr: Adam(lr=lr),
    "rmsprop": lambda lr: Adam(lr=lr, beta1=0.0, beta2=0.99),
    "sgd": lambda lr: SGD(lr=lr),
}


@dataclass(frozen=True)
class Bilevel:
    """Moves continuous hyperparameters against the gradient of the validation loss, once every few training steps.

    After ``inner_steps`` steps of the weights w comes one outer step of the hyperparameters λ, down
    dL_V/dλ = ∂L_V/∂λ + (dw/dλ)ᵀ ∂L_V/∂w on a minibatch of the validation split, the response dw/dλ by one of the
    estimators of ``luthier.response``. λ is whatever enters the training loss smoothly: the weight decay of an
    optimizer that adds it to the gradient, what ``penalty``, ``augment`` and ``loss`` read, rates of
    :class:`luthier.nn.Dropout`; ``unrolled`` moves what the optimizer and the schedule read too. The proposer says
    where λ starts, and chooses everything else. A training in which conditions of the space leave nothing of λ active
    is plain. Of what the optimizer reads beside the loss only ``unrolled`` has the whole derivative: others leave it.

    Outer steps are made in unconstrained numbers, see `luthier.adapt.unconstrained`: natural logarithms where the
    domain is logarithmic, so that 0.01 is one percent. Metrics of the last outer step before each measurement:
    ``"hypergradient"``, its norm in these numbers; ``"valid_loss"``, the minibatch's; and ``"residual"`` of the linear
    system, where there is one.

    Args:
        response: A function of ``luthier.response``, its name, or a ``functools.partial`` of it with settings:
            ``partial(lt.response.implicit, iterations=10)``.
        inner_steps: Training minibatches between two outer steps; the steps that ``unrolled`` goes back through. A
            training is rounded down to whole ones: with 5, 27 steps are 25, and 3 are refused.
        outer_lr: Learning rate of the outer steps.
        outer: Their optimizer: ``"adam"``, ``"rmsprop"`` (with Adam's correction of the first steps), ``"sgd"``, or one
            of ``luthier.optim`` with a learning rate of its own.
        warmup: Epochs before the first outer step. Its hypergradients are computed, and shown, all the same.
        names: The hyperparameters to move; None is every one that can be.
        objective: Quantity minimised on the validation split: ``"loss"``, or a metric of the task that can be
            differentiated. It must not read the hyperparameters itself.
        batches: The last so many minibatches give the derivatives of the training loss; ``unrolled`` uses all.
        settings: Further settings of the response, by name.
        rate: The learning rate moves too, down the validation loss along the way that the weights have gone since the
            last outer step (`luthier.adapt.way`). It must be in the space, and steps must be in proportion to it;
            ``unrolled`` moves it by itself.

    Raises:
        MethodError: If a setting makes no sense.

    Examples:
        >>> Bilevel(response.implicit, inner_steps=10)
        Bilevel(response='implicit', inner_steps=10)

    References:
        Pedregosa 2016, Hyperparameter optimization with approximate gradient; Lorraine, Vicol and Duvenaud 2020,
        Optimizing millions of hyperparameters by implicit differentiation, algorithm 1; Maclaurin, Duvenaud and Adams
        2015, Gradient-based hyperparameter optimization through reversible learning.
    """

    response: str | Callable[..., Hypergradient] = "implicit"
    inner_steps: int = 5
    outer_lr: float = 0.02
    outer: Literal["adam", "rmsprop", "sgd"] | SGD | Adam = "adam"
    warmup: float = 0.0
    names: Sequence[str] | None = None
    objective: str = "loss"
    batches: int = 1
    settings: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    rate: bool = False

    needs_valid: ClassVar[bool] = True
    must_move: ClassVar[bool] = True
    earlier: ClassVar[Any] = ({"rate": False},)

    def __post_init__(self) -> None:
        name, settings = _named(self.response, dict(self.settings))
        object.__setattr__(self, "response", name)
        object.__setattr__(self, "settings", tuple(sorted(settings.items())))
        if self.names is not None:
            object.__setattr__(self, "names", (self.names,) if isinstance(self.names, str) else tuple(self.names))
        _check(self)

    def __repr__(self) -> str:
        fields = {name: field.default for name, field in self.__dataclass_fields__.items()}
        shown = [f"{n}={getattr(self, n)!r}" for n, default in fields.items() if getattr(self, n) != default]
        first = [] if any(text.startswith("response=") for text in shown) else [f"response={self.response!r}"]
        return f"Bilevel({', '.join(first + shown)})"

    @property
    def window(self) -> int:
        """Minibatches between two outer steps."""
        return self.inner_steps

    def init(
        self, task: Program, config: Config, key: int, parent: State | None = None, overwrite: Config | None = None
    ) -> State:
        """A fresh training, or the continuation of ``parent``, which any adapter may have trained.

        Raises:
            MethodError: If a hyperparameter that is asked for cannot be moved, or none can.
        """
        state = task.init(config, key, parent, overwrite)
        domains = self._domains(task, state)
        own = state["own"].get("bilevel")
        if own is None or set(own["hypergradient"]) != set(domains):
            moved = {name: state["hyper"][name] for name in domains}
            own = {
                "hypergradient": {name: torch.zeros_like(value) for name, value in moved.items()},
                "outer": self._optimizer.init(moved, {}),
                "moves": torch.zeros_like(state["t"]),
            }
        return {**state, "own": {**state["own"], "bilevel": own}}

    def step(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch | None
    ) -> tuple[State, Mapping[str, Tensor]]:
        """``inner_steps`` steps of the weights and one of the hyperparameters; the metrics are (members,) each."""
        assert valid is not None, "needs_valid"
        if not state["own"]["bilevel"]["hypergradient"]:
            return trained(task, state, batches)
        members, least = len(state["t"]), task.network.at_once
        if members < least:  # torch sums over a lone member's numbers, as for a hyperparameter, in an order of its own
            state = pytree.tree_map(lambda t: torch.cat([t] * least), state)
            *batches, valid = (_repeated(task, batch, least) for batch in (*batches, valid))
            return pytree.tree_map(lambda t: t[:members], self.step(task, state, batches, valid))
        names = list(state["own"]["bilevel"]["hypergradient"])
        if self.response == "unrolled":
            state, losses, found = self._unrolled(task, state, batches, valid, names)
        else:
            state, losses, found = self._at_the_end(task, state, batches, valid, names)
        state, length = self._outer_step(task, state, found)
        metrics = {"train_loss": total(losses) / len(losses), "hypergradient": length, "valid_loss": found.valid_loss}
        if found.residual is not None:
            metrics["residual"] = found.residual
        return state, metrics

    def hyperparameters(self, state: State) -> dict[str, Any]:
        """Return the hyperparameters that are moved, (members,) or (members, d) each."""
        return {name: state["hyper"][name] for name in state["own"]["bilevel"]["hypergradient"]}

    def _domains(self, task: Program, state: State) -> dict[str, Float]:
        """Return the domains of the hyperparameters that are moved.

        Raises:
            MethodError: Under the conditions of :meth:`init`.
        """
        unrolled = self.response == "unrolled"
        if unrolled and isinstance(task.optimizer, TorchOptimizer):
            remedy = "Use lt.optim.SGD, Adam or AdamW, or the response 'implicit'."
            raise MethodError(
                "steps of torch.optim cannot be gone back through", where="Bilevel(unrolled)", remedy=remedy
            )
        optimizer = unconstrained.decayed_by(task, state)
        if unrolled:
            optimizer = {*task.optimizer.reads, *(name for schedule in task.schedules for name in schedule.reads)}
        domains = unconstrained.tunable(task, state, self.names, f"Bilevel({self.response})", optimizer)
        check_objective(task, state, domains, self.objective, "Bilevel")
        rate = self.rate and domains
        return {**domains, "lr": movable_rate(task, "Bilevel(rate=True)", state)} if rate else domains

    def _at_the_end(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch, names: list[str]
    ) -> tuple[State, list[Tensor], Hypergradient]:
        """The window's training, then the hypergradient at the weights that it ends with."""
        losses, start = [], state["params"]
        for batch in batches:
            loss, gradients, buffers = task.gradient(state, state["hyper"], batch)
            state = task.apply(state, state["hyper"], gradients, buffers)
            losses.append(loss)
        inner = InnerTraining(task, state, self.objective)
        last = len(batches)
        seen = [(i - last, batches[i]) for i in range(max(0, last - self.batches), last)]
        moved = {name: state["hyper"][name] for name in names if not (self.rate and name == "lr")}
        estimator: Any = RESPONSES[str(self.response)]
        problem = response.Problem(inner.train_loss, inner.valid_loss, state["params"], moved, seen, valid, traced=True)
        found = estimator(problem, **dict(self.settings))
        if self.rate:
            found = way.with_rate(found, lambda params: inner.valid_loss(params, moved, valid), start, state)
        return state, losses, found

    def _unrolled(
        self, task: Program, state: State, batches: Sequence[Batch], valid: Batch, names: list[str]
    ) -> tuple[State, list[Tensor], Hypergradient]:
        """The window's training by the task's own optimizer, gone back through."""
        inner = InnerTraining(task, state, self.objective, decay=False)
        rule = Update(task, state)
        moved, steps = {name: state["hyper"][name] for name in names}, list(enumerate(batches))
        params = state["params"]
        problem = response.Problem(inner.train_loss, inner.valid_loss, params, moved, steps, valid, traced=True)
        found = response.unrolled(problem, optimizer=rule, state=rule.init(params), **dict(self.settings))
        state = {**state, "params": found.params, **found.state, "buffers": inner.buffers[len(batches)]}
        return state, [inner.losses[i] for i in range(len(batches))], found

    def _outer_step(self, task: Program, state: State, found: Hypergradient) -> tuple[State, Tensor]:
        """The state after the outer step, and the norm of the hypergradient, (members,), in unconstrained numbers."""
        own = state["own"]["bilevel"]
        domains: Mapping[str, Any] = task.task.space.domains  # those that move are Floats
        place, gradient = {}, {}
        for name, slope in found.total.items():
            place[name] = unconstrained.free(domains[name], state["hyper"][name])
            gradient[name] = slope * unconstrained.slope(domains[name], place[name])
        length = norm(gradient)
        warm = state["t"].to(torch.float64) / task.epoch_steps >= self.warmup
        moves = torch.isfinite(length) & warm  # a member that diverged keeps its values, and harms no other
        there = folding.chosen(moves, gradient, pytree.tree_map(torch.zeros_like, gradient))
        after, slots = self._optimizer.update(place, there, own["outer"], {}, own["moves"])
        values = {name: unconstrained.value(domains[name], numbers) for name, numbers in after.items()}
        hyper = state["hyper"] | folding.chosen(moves, values, {name: state["hyper"][name] for name in values})
        outer = folding.chosen(moves, slots, own["outer"])
        own = {"hypergradient": gradient, "outer": outer, "moves": own["moves"] + moves.to(torch.int64)}
        return {**state, "hyper": hyper, "own": {**state["own"], "bilevel": own}}, length

    @property
    def _optimizer(self) -> SGD | Adam:
        return OUTER[self.outer](self.outer_lr) if isinstance(self.outer, str) else self.outer


def _repeated(task: Program, batch: Batch, times: int) -> Batch:
    """A minibatch of one member, or a list of them, for so many copies of it."""
    if isinstance(batch, list):
        return [_repeated(task, part, times) for part in batch]
    leaves, spec = pytree.tree_flatten(batch)
    pairs = zip(leaves, task.network.own(batch), strict=True)
    return pytree.tree_unflatten([torch.cat([leaf] * times) if own else leaf for leaf, own in pairs], spec)


def _named(method: Any, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A response by its name, and its settings.

    Raises:
        MethodError: If it is not one of `luthier.response`.
    """
    if isinstance(method, functools.partial) and not method.args:
        settings = {**method.keywords, **settings}
        method = method.func
    name = method if isinstance(method, str) else getattr(method, "__name__", repr(method))
    if name not in RESPONSES or (callable(method) and method is not RESPONSES[name]):
        raise MethodError(
            f"response={method!r} is not an estimator that it knows",
            where="Bilevel",
            remedy=f"Give one of lt.response: {', '.join(RESPONSES)}.",
        )
    known = inspect.signature(RESPONSES[name]).parameters
    for setting, value in settings.items():
        if setting not in known or setting in OURS or known[setting].kind is not inspect.Parameter.KEYWORD_ONLY:
            free = [n for n, p in known.items() if p.kind is inspect.Parameter.KEYWORD_ONLY and n not in OURS]
            raise MethodError(
                f"{setting}={value!r} is not a setting of lt.response.{name} to be chosen",
                where="Bilevel",
                remedy=f"Its settings are {', '.join(free)}.",
            )
    return name, settings


def _check(chosen: Bilevel) -> None:
    """Refuse settings that make no sense."""
    require(
        chosen,
        "Bilevel",
        inner_steps=whole(1),
        batches=whole(1),
        outer_lr=real(above=0),
        warmup=real(0),
        rate=one_of(True, False),
    )
    if chosen.rate and chosen.response == "unrolled":
        remedy = "Leave rate out, or take another response, such as 'implicit'."
        raise MethodError("the response 'unrolled' moves the learning rate by itself", where="Bilevel", remedy=remedy)
    if isinstance(chosen.outer, str):
        remedy = f"Give one of {', '.join(OUTER)}, or an optimizer such as lt.optim.Adam(lr=0.01)."
        checked("outer", chosen.outer, one_of(*OUTER), where="Bilevel", remedy=remedy)
    elif not isinstance(chosen.outer, SGD | Adam) or chosen.outer.lr is None:
        remedy = "Give lt.optim.Adam(lr=0.01), lt.optim.SGD(lr=0.1, momentum=0.9), or the name of one."
        raise MethodError(f"outer={chosen.outer!r} has no learning rate", where="Bilevel", remedy=remedy)
