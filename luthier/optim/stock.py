"""Any torch.optim optimizer as pure functions over stacks: one instance for all members where that is the same.

torch's elementwise optimizers do the same to every number, so one instance over (members, …) tensors does what an
instance a member would, as long as a setting that differs by member becomes a tensor where a kernel reads it. Others
run member by member. Which it is, is found by comparing both on random steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from luthier.errors import TaskError
from luthier.hidden import Code
from luthier.optim.adam import Adam
from luthier.optim.common import Scale, Tensors, clip_by_norm, read
from luthier.optim.held import WHERE, Held
from luthier.optim.rehearsed import follows, learn, sample, tried
from luthier.optim.settings_at import Key, Parts, constants, number, numbers
from luthier.optim.sgd import SGD

Make = Callable[[Mapping[str, Any]], torch.optim.Optimizer]

# those whose weight decay is an L2 penalty within the gradient (unless they say that it is decoupled)
PENALISED = tuple(
    getattr(torch.optim, name) for name in ("SGD", "Adam", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "RMSprop")
)
DECOUPLED = (torch.optim.AdamW,)
CODE = Code(
    where=WHERE,
    what="a step from the same weights, gradients and state",
    remedy="Keep it in the state of a parameter, or as a number in the parameter group; draw in the loss or in "
    "forward, whose draws luthier keys by member and step.",
)
# those whose step is not proportional to the learning rate of that step, whatever one step of them shows
UNEVEN = tuple(getattr(torch.optim, name) for name in ("LBFGS", "Rprop", "ASGD", "Adafactor"))


class TorchOptimizer:
    """An optimizer of torch.optim's kind, as :class:`luthier.optim.SGD` is one of luthier's.

    Its state is ``{slot: {parameter: tensor}}``, empty before the first step, in which torch's optimizers make their
    slots; ``"group"`` has, by setting, what differs by member and is no multiple of a hyperparameter.

    Args:
        make: configuration -> optimizer, over parameters of ``named``.
        named: One member's parameters under the names that updates have.
        configs: Configurations in which each continuous hyperparameter takes several values, the first one's first.
        values: Maps a stack's hyperparameters to each member's configuration.
        reads: The hyperparameters that ``make`` reads.
        clip_norm: Largest norm of a member's whole gradient, or None.
        owners: The user's functions that ``make`` calls, by name.

    Attributes:
        starts_empty: True if it makes its slots in the first step.
        in_turn: True if members are stepped one after the other.
        traceable: True if the step is a function of tensors alone.
    """

    decay_name = "weight_decay of every group"  # by which an adapter sets it, whatever the space has
    lr: float = 0.0  # there always is one: torch's optimizers have defaults

    def __init__(
        self,
        make: Make,
        named: Mapping[str, Tensor],
        configs: Sequence[Mapping[str, Any]],
        values: Callable[[Mapping[str, Tensor]], list[dict[str, Any]]],
        reads: tuple[str, ...],
        clip_norm: float | None = None,
        owners: Mapping[str, Any] | None = None,
    ) -> None:
        self._make, self._values = make, values
        self.reads, self.clip_norm = reads, clip_norm
        self._names = {id(parameter): name for name, parameter in named.items()}
        optimizer = self.instance(configs[0])
        refuse_closures(optimizer)
        self._code = replace(CODE, owners={"optimizer": optimizer, **(owners or {})})
        made = replace(self._code, what="it, made again under the same configuration,")
        groups = made.checked(lambda: self._parts(self.instance(configs[0])))
        self._held = Held(optimizer, groups, dict(named))
        self._bound, self._own = self._dependences(configs)
        self._scheduled: list[Key] = []  # what a scheduler writes beside learning rates
        self.in_turn, self.traceable, self.starts_empty = False, True, False
        self._choose()

    # -- what adapters and programs ask

    def instance(self, config: Mapping[str, Any]) -> torch.optim.Optimizer:
        """The optimizer that the user's code makes for one member.

        Raises:
            TaskError: If it makes something else.
        """
        optimizer = self._make(config)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TaskError(
                f"it gave {type(optimizer).__name__}, which is no torch.optim.Optimizer",
                where=WHERE,
                remedy="Give a class of torch.optim, or a function (params, config) -> optimizer. A step has one loss "
                "and one optimizer, with parameter groups: players with losses of their own, as in a GAN, are a "
                "lt.Trainable or a function.",
            )
        train: Any = getattr(optimizer, "train", None)
        if callable(train):  # schedule-free ones have two sets of weights
            train()
        return optimizer

    def decay(self, names: Sequence[str], hyper: Mapping[str, Tensor]) -> dict[str, Scale] | None:
        """The factor of ½‖w‖² whose gradient is added to the loss's, by parameter; None where it is none or unknown."""
        if not isinstance(self._held.optimizer, PENALISED) or isinstance(self._held.optimizer, DECOUPLED):
            return None
        found: dict[str, Scale] = {}
        settings = self._settings(hyper, {})
        for i, (members, group) in enumerate(self._held.groups):
            value = settings.get((i, "weight_decay"), group.get("weight_decay", 0.0))
            if group.get("decoupled_weight_decay") or (not isinstance(value, Tensor) and not value):
                continue
            found |= {name: value for name in names if name in members or self._held.strange(name)}
        return found or None

    @property
    def title(self) -> str:
        """The name of the class."""
        return type(self._held.optimizer).__name__

    @property
    def plain(self) -> bool:
        """A step is the gradient times lr, and remembers no earlier one."""
        still = all(group.get("momentum") == 0 for _, group in self._held.groups)
        return (
            type(self._held.optimizer) is torch.optim.SGD and still and all(key != "momentum" for _, key in self._bound)
        )

    @property
    def ours(self) -> SGD | Adam | None:
        """The optimizer of luthier's that steps alike: of torch's SGD, Adam and AdamW as they are mostly made."""
        bound = all(key[1] == name and scale == 1 for key, (name, scale) in self._bound.items())
        if len(self._held.groups) != 1 or not bound or self._own or self._scheduled:
            return None
        kind, group = type(self._held.optimizer), self._held.groups[0][1]
        if group.get("maximize") or group.get("amsgrad") or group.get("dampening"):
            return None
        shared = {"lr": float(group["lr"]), "weight_decay": float(group["weight_decay"]), "clip_norm": self.clip_norm}
        if kind is torch.optim.SGD:
            return SGD(momentum=group["momentum"], nesterov=group["nesterov"], **shared)
        if kind is torch.optim.Adam or kind is torch.optim.AdamW:
            decoupled = kind is torch.optim.AdamW or bool(group.get("decoupled_weight_decay"))
            beta1, beta2 = (float(beta) for beta in group["betas"])
            return Adam(beta1=beta1, beta2=beta2, eps=group["eps"], decoupled=decoupled, **shared)
        return None

    @property
    def proportional(self) -> bool:
        """A step is the hyperparameter lr times something that does not depend on it: tried on a second step."""
        everywhere = all(self._bound.get((i, "lr"), ("", 0.0))[0] == "lr" for i in range(len(self._held.groups)))
        if not everywhere or self._held.evolving or isinstance(self._held.optimizer, UNEVEN):
            return False
        one = sample(self._held, (*self._bound, *self._own, *self._scheduled), torch.float64)
        params, state = self._held.in_turn(one.start, one.gradients[0], {}, one.settings)
        steps = []
        for factor in (1.0, 2.0):
            given = {key: value * factor if key[1] == "lr" else value for key, value in one.settings.items()}
            after, _ = self._held.in_turn(params, one.gradients[1], state, given)
            steps.append({name: after[name] - params[name] for name in params})
        return all(torch.allclose(2 * steps[0][n], steps[1][n], rtol=1e-6, atol=1e-12) for n in params)

    def init(self, params: Tensors, hyper: Mapping[str, Tensor]) -> dict[str, Any]:
        """The state before the first step of a stack."""
        if not self._own:
            return {}
        rows = []
        for config in self._values(hyper):
            groups = self._parts(self.instance(config))
            self._check_same(groups)
            rows.append([number(groups[i][1], setting) for i, setting in self._own])
        device = next(iter(params.values())).device
        columns = torch.tensor(rows, dtype=torch.float64, device=device).unbind(1)
        return {"group": {f"{i}.{setting}": x.clone() for (i, setting), x in zip(self._own, columns, strict=True)}}

    def update(
        self,
        params: Tensors,  # (members, …)
        gradients: Tensors,  # (members, …), of those that have one
        state: dict[str, Any],
        hyper: Mapping[str, Tensor],
        step: Tensor,
        *,
        factor: Tensor | None = None,  # (members,) on all learning rates
        scheduled: Mapping[str, Tensor] | None = None,  # "<group>.<setting>": (members,) in place of the setting
    ) -> tuple[Tensors, dict[str, Any]]:
        """One step. A parameter without a gradient is left as it is, and so is one that is in no group."""
        settings: dict[Key, Any] = self._settings(hyper, state.get("group", {}))
        for name, value in (scheduled or {}).items():
            group, setting = name.split(".", 1)
            settings[int(group), setting] = value
        if factor is not None:
            for i, (_, group) in enumerate(self._held.groups):
                settings[i, "lr"] = settings.get((i, "lr"), group["lr"]) * factor
        reached: Mapping[str, Tensor] = getattr(gradients, "reached", {})  # before clipping, which gives a plain dict
        if self.clip_norm is not None or "clip_norm" in hyper:
            gradients = clip_by_norm(gradients, read("clip_norm", self.clip_norm, hyper))
        if not self.in_turn and not reached:
            return self._held.together(params, gradients, state, settings)
        return self._held.in_turn(params, gradients, state, settings, reached)

    def scheduled(self, keys: Iterable[str]) -> None:
        """Take settings that a scheduler writes, "<group>.<setting>" each, into account for the choice of form."""
        found = [(int(group), setting) for group, _, setting in (key.partition(".") for key in keys)]
        self._scheduled = [key for key in found if key[1] != "lr" and key not in self._bound and key not in self._own]
        if self._scheduled:
            self._choose()

    def measured(self, params: Tensors, state: Any, hyper: Mapping[str, Tensor]) -> Tensors:
        """The weights to be measured: others than those that are trained where the optimizer has a mode for it."""
        if not callable(getattr(self._held.optimizer, "eval", None)) or not set(state) - {"group"}:
            return params
        settings, rows = self._settings(hyper, state.get("group", {})), []
        for i in range(len(next(iter(params.values())))):
            leaves, groups, slots = self._held.loaded(params, {}, state, settings, i)
            with self._held.holding(groups, slots) as optimizer:
                optimizer.eval()  # type: ignore[attr-defined]
            rows.append(leaves)
        return {name: torch.stack([row[name] for row in rows]) for name in params}

    # -- settings

    def _settings(self, hyper: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[Key, Tensor]:
        """Settings that differ by member, (members,) each."""
        found = {key: hyper[name] if scale == 1 else hyper[name] * scale for key, (name, scale) in self._bound.items()}
        decay = hyper.get(self.decay_name)
        if decay is not None:
            found |= {(i, "weight_decay"): decay for i, (_, g) in enumerate(self._held.groups) if "weight_decay" in g}
        for name, value in own.items():
            group, setting = name.split(".", 1)
            found[int(group), setting] = value
        return found

    def _dependences(self, configs: Sequence[Mapping[str, Any]]) -> tuple[dict[Key, tuple[str, float]], list[Key]]:
        """Settings that are multiples of one hyperparameter, as (name, factor), and others that vary."""
        first = configs[0]
        seen: dict[Key, dict[str, list[tuple[float, float]]]] = {}
        for config in configs[1:]:
            name = next((n for n in config if config[n] != first[n]), None)
            if name is None:
                continue
            groups = self._parts(self.instance(config))
            for key, old in numbers(self._held.groups):
                there = dict(numbers(groups))
                new = there.get(key, old)
                if new != old:
                    seen.setdefault(key, {}).setdefault(name, []).append((config[name], new))
        bound: dict[Key, tuple[str, float]] = {}
        for key, names in seen.items():
            ((name, pairs), *more) = names.items()
            pairs = [(first[name], number(self._held.groups[key[0]][1], key[1])), *pairs]
            if more or not all(isinstance(x, int | float) for x, _ in pairs):
                continue
            ratios = [y / x for x, y in pairs if x]
            even = all(y == 0 for x, y in pairs if not x) and max(ratios) - min(ratios) <= 1e-9 * abs(ratios[0])
            if even:
                bound[key] = (name, 1.0 if abs(ratios[0] - 1) < 1e-9 else ratios[0])
        own = [key for key in seen if key not in bound]
        for config in configs[1:]:
            self._check_same(self._parts(self.instance(config)), {*bound, *own})
        return bound, own

    def _parts(self, optimizer: torch.optim.Optimizer) -> Parts:
        """The names of the parameters of each group, and its settings."""
        found = []
        for group in optimizer.param_groups:
            if any(id(parameter) not in self._names for parameter in group["params"]):
                raise TaskError(
                    "a parameter group holds a tensor that is no parameter of the network",
                    where=WHERE,
                    remedy="Make the groups of the parameters that the function is given.",
                )
            names = tuple(self._names[id(parameter)] for parameter in group["params"])
            found.append((names, {key: value for key, value in group.items() if key != "params"}))
        return found

    def _check_same(self, groups: Parts, varying: set[Key] | None = None) -> None:
        """Refuse an optimizer of another form under other continuous hyperparameters."""
        varying = {*self._bound, *self._own} if varying is None else varying
        there = [(names, constants(i, group, varying)) for i, (names, group) in enumerate(self._held.groups)]
        here = [(names, constants(i, group, varying)) for i, (names, group) in enumerate(groups)]
        if here != there:
            raise TaskError(
                "it gives an optimizer with other groups or settings where a continuous hyperparameter has another "
                f"value: {here} and {there}"[:400],
                where=WHERE,
                remedy="Let a lt.Choice or lt.Int decide on the form of the optimizer.",
            )

    # -- which of the two

    def _choose(self) -> None:
        """One instance over the stack where it gives, on three random steps of two members, what one each gives."""
        held = self._held
        if not any(p.requires_grad for p in held.named.values()):
            return
        one = sample(held, (*self._bound, *self._own, *self._scheduled))
        self.starts_empty = learn(held, one, {*self._bound, *self._own})
        self._code.checked(lambda: held.alone(one.start, one.gradients[0], {}, one.settings, 0), often=True)
        alone = tried(one, held.in_turn)
        try:
            together = tried(one, held.together)
        except Exception:
            together = None
        same = together is not None and all(
            torch.allclose(together[name], alone[name], rtol=1e-4, atol=1e-6) for name in one.start
        )
        self.in_turn = bool(held.evolving) or not same
        self.traceable = not self.in_turn and follows(held, one)


def refuse_closures(optimizer: torch.optim.Optimizer) -> None:
    """Refuse optimizers that evaluate the loss several times a step, such as LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TaskError(
            f"{type(optimizer).__name__} evaluates the loss several times a step, by a closure",
            where=WHERE,
            remedy="Give one that steps along a gradient, such as torch.optim.AdamW or lt.optim.SGD.",
        )
