"""Any torch.optim optimizer as pure functions over stacks: one instance for all members where that is the same.

torch's elementwise optimizers do the same to every number, so one instance over (members, …) tensors does what an
instance a member would, as long as a setting that differs by member becomes a tensor where a kernel reads it. Others
run member by member. Which it is, is found by comparing both on random steps.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.hidden import Code
from luthier.optim.adam import Adam
from luthier.optim.common import Scale, Tensors, clip_by_norm, read
from luthier.optim.per_member import PerMember, Settings
from luthier.optim.sgd import SGD

Make = Callable[[Mapping[str, Any]], torch.optim.Optimizer]
Key = tuple[int, str]  # (parameter group, setting), "betas.0" for the first of two

WHERE = "TorchTask(optimizer=…)"
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


class Stock:
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
        self._make, self._named, self._values = make, dict(named), values
        self.reads, self.clip_norm = reads, clip_norm
        self._names = {id(parameter): name for name, parameter in named.items()}
        self._optimizer = self.instance(configs[0])
        refuse_closures(self._optimizer)
        self._code = replace(CODE, owners={"optimizer": self._optimizer, **(owners or {})})
        made = replace(self._code, what="it, made again under the same configuration,")
        self._groups = made.checked(lambda: self._parts(self.instance(configs[0])))
        self._bound, self._own = self._dependences(configs)
        self._scheduled: list[Key] = []  # what a scheduler writes beside learning rates
        self.in_turn, self.traceable, self.starts_empty = False, True, False
        self._kinds: dict[str, type] = {}  # of slots that are numbers of Python
        self._evolving: dict[Key, type] = {}  # settings that the optimizer itself changes
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
        if not isinstance(self._optimizer, PENALISED) or isinstance(self._optimizer, DECOUPLED):
            return None
        found: dict[str, Scale] = {}
        settings = self._settings(hyper, {})
        for i, (members, group) in enumerate(self._groups):
            value = settings.get((i, "weight_decay"), group.get("weight_decay", 0.0))
            if group.get("decoupled_weight_decay") or (not isinstance(value, Tensor) and not value):
                continue
            found |= {name: value for name in names if name in members or self._strange(name)}
        return found or None

    @property
    def title(self) -> str:
        """The name of the class."""
        return type(self._optimizer).__name__

    @property
    def plain(self) -> bool:
        """A step is the gradient times lr, and remembers no earlier one."""
        still = all(group.get("momentum") == 0 for _, group in self._groups)
        return type(self._optimizer) is torch.optim.SGD and still and all(key != "momentum" for _, key in self._bound)

    @property
    def ours(self) -> SGD | Adam | None:
        """The optimizer of luthier's that steps alike: of torch's SGD, Adam and AdamW as they are mostly made."""
        bound = all(key[1] == name and scale == 1 for key, (name, scale) in self._bound.items())
        if len(self._groups) != 1 or not bound or self._own or self._scheduled:
            return None
        kind, group = type(self._optimizer), self._groups[0][1]
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
        everywhere = all(self._bound.get((i, "lr"), ("", 0.0))[0] == "lr" for i in range(len(self._groups)))
        if not everywhere or self._evolving or isinstance(self._optimizer, UNEVEN):
            return False
        start, gradients, settings = self._trial(torch.float64)
        params, state = self._rows(start, gradients[0], {}, settings)
        steps = []
        for factor in (1.0, 2.0):
            given = {key: value * factor if key[1] == "lr" else value for key, value in settings.items()}
            after, _ = self._rows(params, gradients[1], state, given)
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
            rows.append([_number(groups[i][1], setting) for i, setting in self._own])
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
            for i, (_, group) in enumerate(self._groups):
                settings[i, "lr"] = settings.get((i, "lr"), group["lr"]) * factor
        reached: Mapping[str, Tensor] = getattr(gradients, "reached", {})  # before clipping, which gives a plain dict
        if self.clip_norm is not None or "clip_norm" in hyper:
            gradients = clip_by_norm(gradients, read("clip_norm", self.clip_norm, hyper))
        if not self.in_turn and not reached:
            return self._together(params, gradients, state, settings)
        members = len(next(iter(params.values())))
        rows = []
        for i in range(members):
            there = {n: g for n, g in gradients.items() if n not in reached or bool(reached[n][i])}
            rows.append(self._alone(params, there, state, settings, i))
        after = {name: torch.stack([row[0][name] for row in rows]) for name in params}
        return after, _stacked([row[1] for row in rows])

    def scheduled(self, keys: Iterable[str]) -> None:
        """Take settings that a scheduler writes, "<group>.<setting>" each, into account for the choice of form."""
        found = [(int(group), setting) for group, _, setting in (key.partition(".") for key in keys)]
        self._scheduled = [key for key in found if key[1] != "lr" and key not in self._bound and key not in self._own]
        if self._scheduled:
            self._choose()

    def measured(self, params: Tensors, state: Any, hyper: Mapping[str, Tensor]) -> Tensors:
        """The weights to be measured: others than those that are trained where the optimizer has a mode for it."""
        if not callable(getattr(self._optimizer, "eval", None)) or not set(state) - {"group"}:
            return params
        settings, rows = self._settings(hyper, state.get("group", {})), []
        for i in range(len(next(iter(params.values())))):
            leaves, groups, slots = self._loaded(params, {}, state, settings, i)
            with self._holding(groups, slots) as optimizer:
                optimizer.eval()  # type: ignore[attr-defined]
            rows.append(leaves)
        return {name: torch.stack([row[name] for row in rows]) for name in params}

    # -- settings

    def _settings(self, hyper: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[Key, Tensor]:
        """Settings that differ by member, (members,) each."""
        found = {key: hyper[name] if scale == 1 else hyper[name] * scale for key, (name, scale) in self._bound.items()}
        decay = hyper.get(self.decay_name)
        if decay is not None:
            found |= {(i, "weight_decay"): decay for i, (_, g) in enumerate(self._groups) if "weight_decay" in g}
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
            for key, old in _numbers(self._groups):
                there = dict(_numbers(groups))
                new = there.get(key, old)
                if new != old:
                    seen.setdefault(key, {}).setdefault(name, []).append((config[name], new))
        bound: dict[Key, tuple[str, float]] = {}
        for key, names in seen.items():
            ((name, pairs), *more) = names.items()
            pairs = [(first[name], _number(self._groups[key[0]][1], key[1])), *pairs]
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

    def _parts(self, optimizer: torch.optim.Optimizer) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
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

    def _check_same(self, groups: list[Any], varying: set[Key] | None = None) -> None:
        """Refuse an optimizer of another form under other continuous hyperparameters."""
        varying = {*self._bound, *self._own} if varying is None else varying
        there = [(names, _constants(i, group, varying)) for i, (names, group) in enumerate(self._groups)]
        here = [(names, _constants(i, group, varying)) for i, (names, group) in enumerate(groups)]
        if here != there:
            raise TaskError(
                "it gives an optimizer with other groups or settings where a continuous hyperparameter has another "
                f"value: {here} and {there}"[:400],
                where=WHERE,
                remedy="Let a lt.Choice or lt.Int decide on the form of the optimizer.",
            )

    def _strange(self, name: str) -> bool:
        """An adapter's own parameter, which goes into the one group that there is."""
        return len(self._groups) == 1 and name not in self._named

    # -- steps

    def _together(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any]) -> tuple[Any, Any]:
        members = len(next(iter(params.values())))
        leaves = {name: p.detach().clone() for name, p in params.items()}
        groups = self._grouped(leaves)
        for i, group in enumerate(groups):
            if "lr" in group and (i, "lr") not in settings:  # a step size is made of it, and of the step
                like = next(iter(params.values()))
                settings[i, "lr"] = torch.full((members,), float(group["lr"]), dtype=torch.float64, device=like.device)
        for (i, setting), value in settings.items():
            _set(groups[i], setting, PerMember(value, _nominal(groups[i], setting)))
        slots: Any = defaultdict(dict)
        for name, leaf in leaves.items():
            leaf.grad = gradients.get(name)
            kept = {slot: tree[name] for slot, tree in state.items() if slot != "group" and name in tree}
            if kept:
                slots[leaf] = {s: v[0].clone() if self._kinds.get(s) is Tensor else v.clone() for s, v in kept.items()}
        with self._holding(groups, slots) as optimizer, Settings(), _exact_steps():
            optimizer.step()
            found = optimizer.state
        after: dict[str, Any] = {"group": state["group"]} if "group" in state else {}
        for name, leaf in leaves.items():
            for slot, value in found.get(leaf, {}).items():
                if isinstance(value, Tensor):
                    whole = value.double().expand(members).clone() if value.ndim == 0 else value
                    after.setdefault(slot, {})[name] = whole
        return leaves, after

    def _loaded(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any], i: int) -> Any:
        """Parameters, groups and slots of one member, as torch has them."""
        leaves = {name: p[i].detach().clone() for name, p in params.items()}
        groups = self._grouped(leaves)
        for (g, setting), value in settings.items():
            number = float(value[i])
            _set(groups[g], setting, self._evolving.get((g, setting), float)(number))
        slots: Any = defaultdict(dict)
        for name, leaf in leaves.items():
            leaf.grad = gradients[name][i].clone() if name in gradients else None
            for slot, tree in state.items():
                if slot != "group" and name in tree:
                    value, kind = tree[name][i], self._kinds.get(slot)
                    slots[leaf][slot] = value.clone() if kind in (None, Tensor) else kind(value.item())
        return leaves, groups, slots

    def _alone(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any], i: int) -> Any:
        leaves, groups, slots = self._loaded(params, gradients, state, settings, i)
        with self._holding(groups, slots) as optimizer:
            optimizer.step()
            found, after_groups = optimizer.state, optimizer.param_groups
        own = dict(state.get("group", {}))
        own = {name: value[i] for name, value in own.items()}
        for g, setting in self._evolving:
            own[f"{g}.{setting}"] = torch.tensor(float(_number(after_groups[g], setting)), dtype=torch.float64)
        after: dict[str, Any] = {"group": own} if own else {}
        for name, leaf in leaves.items():
            for slot, value in found.get(leaf, {}).items():
                if value is None:
                    continue
                if not isinstance(value, Tensor):
                    value = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)
                after.setdefault(slot, {})[name] = value
        return leaves, after

    def _grouped(self, leaves: Tensors) -> list[dict[str, Any]]:
        """The parameter groups over other tensors, one kernel after the other."""
        strange = [leaf for name, leaf in leaves.items() if self._strange(name)]
        found = []
        for names, settings in self._groups:
            group = {**settings, "params": [leaves[name] for name in names if name in leaves] + strange}
            found.append({**group, **{name: False for name in ("foreach", "fused") if name in group}})
        return found

    @contextmanager
    def _holding(self, groups: list[dict[str, Any]], slots: Any) -> Iterator[torch.optim.Optimizer]:
        """The one instance, with other parameters and another state."""
        optimizer = self._optimizer
        kept = optimizer.param_groups, optimizer.state
        optimizer.param_groups, optimizer.state = groups, slots
        try:
            yield optimizer
        finally:
            optimizer.param_groups, optimizer.state = kept

    # -- which of the two

    def _choose(self) -> None:
        """One instance over the stack where it gives, on three random steps of two members, what one each gives."""
        if not any(p.requires_grad for p in self._named.values()):
            return
        start, gradients, settings = self._trial()
        self._learn(start, gradients, settings)
        self._code.checked(lambda: self._alone(start, gradients[0], {}, settings, 0), often=True)
        alone = self._tried(start, gradients, settings, self._rows)
        try:
            together = self._tried(start, gradients, settings, self._together)
        except Exception:
            together = None
        same = together is not None and all(
            torch.allclose(together[name], alone[name], rtol=1e-4, atol=1e-6) for name in start
        )
        self.in_turn = bool(self._evolving) or not same
        self.traceable = not self.in_turn and self._follows(start, gradients, settings)

    def _follows(self, start: Tensors, gradients: list[Tensors], settings: dict[Key, Any]) -> bool:
        """Return True if it asks for no number, which a trace would have to know (RAdam does)."""
        try:
            with FakeTensorMode() as mode:
                fake = pytree.tree_map_only(Tensor, mode.from_tensor, (start, gradients, settings))
                self._tried(fake[0], fake[1], fake[2], self._together)
        except Exception:
            return False
        return True

    def _trial(self, dtype: torch.dtype | None = None) -> tuple[Tensors, list[Tensors], dict[Key, Any]]:
        """Weights of two members, three gradients, and settings that differ."""
        generator = torch.Generator().manual_seed(0)

        def draw(like: Tensor) -> Tensor:
            like = torch.view_as_real(like) if like.is_complex() else like  # as states have complex parameters
            kind = like.dtype if dtype is None else dtype
            return torch.randn((2, *like.shape), generator=generator, dtype=kind).to(like.device)

        trained = {name: p.detach() for name, p in self._named.items() if p.requires_grad}
        start = {name: draw(p) for name, p in trained.items()}
        gradients = [{name: draw(p) for name, p in trained.items()} for _ in range(3)]
        device = next(iter(start.values())).device
        settings = {
            (i, s): torch.tensor([1.0, 0.7], dtype=torch.float64, device=device) * _number(self._groups[i][1], s)
            for i, s in dict.fromkeys((*self._bound, *self._own, *self._scheduled))
        }
        return start, gradients, settings

    def _rows(self, params: Tensors, gradients: Tensors, state: Any, settings: dict[Key, Any]) -> tuple[Any, Any]:
        rows = [self._alone(params, gradients, state, settings, i) for i in range(2)]
        return {name: torch.stack([row[0][name] for row in rows]) for name in params}, _stacked([r[1] for r in rows])

    def _tried(self, start: Tensors, gradients: list[Tensors], settings: dict[Key, Any], step: Any) -> Tensors:
        params, state = start, {}
        for gradient in gradients:
            given = dict(settings)
            for name, value in state.get("group", {}).items():
                group, setting = name.split(".", 1)
                given[int(group), setting] = value
            params, state = step(params, gradient, state, given)
        return params

    def _learn(self, start: Tensors, gradients: list[Tensors], settings: dict[Key, Any]) -> None:
        """The kinds of slots, and the settings that the optimizer changes, from two steps of one member."""
        before, kept = dict(_numbers(self._groups)), _attributes(self._optimizer)
        drawn = torch.get_rng_state()
        leaves = {name: p[0].clone() for name, p in start.items()}
        groups = self._grouped(leaves)
        try:
            with self._holding(groups, defaultdict(dict)) as optimizer:
                for gradient in gradients[:2]:
                    for name, leaf in leaves.items():
                        leaf.grad = gradient[name][0].clone()
                    optimizer.step()
                slots, after = optimizer.state, optimizer.param_groups
        except Exception as error:
            self._check_kept(kept, [key for key in self._optimizer.state if not isinstance(key, Tensor)], drawn)
            raise TaskError(
                f"{type(self._optimizer).__name__} cannot make a step: {type(error).__name__}: {error}",
                where=WHERE,
                remedy="luthier sets p.grad and calls optimizer.step(), as a plain loop does.",
            ) from error
        self._check_kept(kept, [key for key in slots if not isinstance(key, Tensor)], drawn)
        self.starts_empty = any(isinstance(v, Tensor) for leaf in leaves.values() for v in slots.get(leaf, {}).values())
        for leaf in leaves.values():
            for slot, value in slots.get(leaf, {}).items():
                if isinstance(value, Tensor):
                    if value.ndim == 0 and leaf.ndim > 0:
                        self._kinds[slot] = Tensor
                elif isinstance(value, bool | int | float):
                    self._kinds[slot] = type(value)
                elif value is not None:
                    raise TaskError(
                        f"{type(self._optimizer).__name__} keeps a {type(value).__name__} in its state, {slot!r}",
                        where=WHERE,
                        remedy="Give an optimizer whose state is tensors and numbers: no other could be resumed.",
                    )
        parts = [((), {k: v for k, v in group.items() if k != "params"}) for group in after]
        numbers = dict(_numbers(parts))
        if any(before.get(key) != value for key, value in numbers.items()):  # others may follow in later steps
            for group, setting in (key for key in numbers if key not in self._bound and key not in self._own):
                kind = type(_raw(parts[group][1], setting))
                self._evolving[group, setting] = kind if kind is int else float

    def _check_kept(self, kept: dict[str, Any], strange: list[Any], drawn: Tensor) -> None:
        """Refuse a step that is no function of weights, gradients, settings and the parameters' own state.

        One instance steps all members, and a resumed training begins with another one.
        """
        drew = not torch.equal(drawn, torch.get_rng_state())
        torch.set_rng_state(drawn)
        there = _attributes(self._optimizer)
        moved = [name for name in there if name not in kept or not _equal(kept[name], there[name])]
        what = f"in its attribute {moved[0]!r}" if moved else f"in its state, under {strange[0]!r}" if strange else ""
        title = type(self._optimizer).__name__
        if what:
            raise TaskError(
                f"{title} keeps something of its own from step to step, {what}",
                where=WHERE,
                remedy="Keep it in the state of a parameter, or as a number in the parameter group: what is anywhere "
                "else members would share, and no resumed training would have.",
            )
        if drew:
            raise TaskError(
                f"{title} draws random numbers in its step, which would not come again in a stack or after a resume",
                where=WHERE,
                remedy="Draw in the loss or in forward, whose draws luthier keys by member and step.",
            )


def refuse_closures(optimizer: torch.optim.Optimizer) -> None:
    """Refuse optimizers that evaluate the loss several times a step, such as LBFGS."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TaskError(
            f"{type(optimizer).__name__} evaluates the loss several times a step, by a closure",
            where=WHERE,
            remedy="Give one that steps along a gradient, such as torch.optim.AdamW or lt.optim.SGD.",
        )


def _stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One state of all members; a slot that some have not made yet is zero there, as optimizers make it."""
    found: dict[str, Any] = {}
    for slot in dict.fromkeys(slot for row in rows for slot in row):
        trees = [row.get(slot, {}) for row in rows]
        names = dict.fromkeys(name for tree in trees for name in tree)
        like = {name: next(tree[name] for tree in trees if name in tree) for name in names}
        found[slot] = {n: torch.stack([t.get(n, torch.zeros_like(like[n])) for t in trees]) for n in names}
    return found


def _attributes(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Copies of the numbers and tensors that an optimizer keeps outside its groups and its state, by name."""
    own = {n: v for n, v in vars(optimizer).items() if n not in ("param_groups", "state", "defaults")}
    return {
        name: [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        for name, value in own.items()
        if (leaves := [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor | bool | int | float)])
    }


def _equal(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b
        for a, b in zip(one, other, strict=True)
    )


def _numbers(groups: Sequence[tuple[Any, dict[str, Any]]]) -> Iterator[tuple[Key, float]]:
    """Every number among the settings."""
    for i, (_, group) in enumerate(groups):
        for setting, value in group.items():
            if isinstance(value, tuple | list):
                for j, part in enumerate(value):
                    if _is_number(part):
                        yield (i, f"{setting}.{j}"), float(part)
            elif _is_number(value):
                yield (i, setting), float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return isinstance(value, int | float) and not isinstance(value, bool)


def _raw(group: Mapping[str, Any], setting: str) -> Any:
    name, _, place = setting.partition(".")
    return group[name][int(place)] if place else group[name]


def _number(group: Mapping[str, Any], setting: str) -> float:
    return float(_raw(group, setting))


def _set(group: dict[str, Any], setting: str, value: Any) -> None:
    name, _, place = setting.partition(".")
    if place:
        parts = list(group[name])
        parts[int(place)] = value
        value = tuple(parts)
    group[name] = value


def _nominal(group: Mapping[str, Any], setting: str) -> float:
    """A number for an optimizer's own comparisons: never zero, for some member's may differ from zero."""
    value = _number(group, setting) if not isinstance(_raw(group, setting), PerMember) else 0.0
    return value or 0.5


def _constants(i: int, group: Mapping[str, Any], varying: set[Key]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting, value in group.items():
        if isinstance(value, tuple | list):
            found[setting] = [v for j, v in enumerate(value) if (i, f"{setting}.{j}") not in varying]
        elif (i, setting) not in varying:
            found[setting] = float(value) if isinstance(value, Tensor) and value.ndim == 0 else value
    return found


@contextmanager
def _exact_steps() -> Iterator[None]:
    """The count of steps stays a tensor, which torch reads by item() unless it compiles, and has double precision."""
    compiling, dtype = torch.compiler._is_compiling_flag, torch.get_default_dtype()
    torch.compiler._is_compiling_flag = True
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = compiling
        torch.set_default_dtype(dtype)
