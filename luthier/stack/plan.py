"""A model's forward, traced with torch.fx once, as a list of steps that each run for all members."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from luthier.stack.choices import Branch, Mask, position
from luthier.stack.dropout import Site
from luthier.stack.layout import Call, Names, Unknown, Value, plain
from luthier.stack.members import Lifted, lift_function, lift_module
from luthier.stack.rules import FUNCTIONS, module_rule


class Reference:
    """Stands in the arguments of a step for the result of an earlier one."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class Step:
    """One node of the graph.

    Attributes:
        label: Its name for the user.
        lifted: Runs it without a rule; its presence in :attr:`Plan.fallbacks` means that it has none.
    """

    def __init__(self, label: str, rule: Callable[..., Any] | None, fallback: Callable[..., Any]) -> None:
        self.label, self.rule, self._fallback = label, rule, fallback
        self.lifted = Lifted()
        self.fell_back = rule is None
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.last_used: list[int] = []  # results that nobody reads after this step
        self.options: list[Plan] = []  # of a branch: one of them runs

    def run(self, call: Call, results: list[Any]) -> Any:
        """The step's result."""
        args = [results[a.index] if type(a) is Reference else fill(a, results) for a in self.args]
        kwargs = {name: fill(argument, results) for name, argument in self.kwargs.items()} if self.kwargs else {}
        if self.rule is not None:
            try:
                return self.rule(call, *args, **kwargs)
            except Unknown:
                self.fell_back = True
        return self._fallback(self.lifted, call, tuple(args), kwargs)


class Plan:
    """A model's forward for all members.

    Args:
        graph: Traced from ``model``.
        model: The model, with :class:`Site` for dropout, in the mode to run.
        aliases: Every name of a parameter or buffer -> the one name that it goes by.
    """

    def __init__(self, graph: fx.Graph, model: nn.Module, aliases: Names) -> None:
        self._steps: list[Step | None] = []  # None is the input
        self._output: Any = None
        indices: dict[fx.Node, int] = {}

        def reference(argument: Any) -> Any:
            return map_arg(argument, lambda node: Reference(indices[node]))  # type: ignore[arg-type]

        for node in graph.nodes:
            if node.op == "output":
                self._output = reference(node.args[0])
                continue
            step = None if node.op == "placeholder" else _step(node, model, aliases)
            if step is not None:
                step.args, step.kwargs = reference(node.args), dict(reference(node.kwargs))
            indices[node] = len(self._steps)
            self._steps.append(step)
        for node, index in indices.items():
            readers = [indices.get(user, len(self._steps)) for user in node.users]
            last = self._steps[max(readers)] if readers and max(readers) < len(self._steps) else None
            if last is not None:
                last.last_used.append(index)

    def run(self, call: Call, inputs: Value) -> Any:
        """The model's outputs: the nest that forward returns, tensors (members, …)."""
        filled = self.values(call, inputs)
        return map_aggregate(filled, lambda leaf: plain(leaf, call.members) if isinstance(leaf, Value) else leaf)

    def values(self, call: Call, inputs: Value) -> Any:
        """The same nest with the values as they lie in memory."""
        results: list[Any] = []
        for step in self._steps:
            if step is None:
                results.append(inputs)
                continue
            results.append(step.run(call, results))
            for index in step.last_used:
                results[index] = None
        return fill(self._output, results)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Steps that run by vmap, or (loop) one member after the other, since no rule covers them."""
        found: list[str] = []
        for step in self._steps:
            if step is not None and step.fell_back:
                found.append(step.label + (" (loop)" if step.lifted.loop else ""))
            found += [inner for plan in (step.options if step is not None else ()) for inner in plan.fallbacks]
        return tuple(found)


def fill(argument: Any, results: list[Any]) -> Any:
    """``argument`` with results for references."""
    kind = type(argument)
    if kind is Reference:
        return results[argument.index]
    if isinstance(argument, tuple | list):
        items = [fill(item, results) for item in argument]
        return kind(*items) if hasattr(argument, "_fields") else kind(items)
    if isinstance(argument, dict):
        return {name: fill(item, results) for name, item in argument.items()}
    if kind is slice:
        return slice(*(fill(item, results) for item in (argument.start, argument.stop, argument.step)))
    return argument


def _step(node: fx.Node, model: nn.Module, aliases: Names) -> Step:
    """The step of one node; its arguments are filled in by the caller."""
    target: Any = node.target
    if node.op == "get_attr":
        return Step(target, _read(model, target, aliases), _never)
    if node.op == "call_module":
        module = model.get_submodule(target)
        names = own_names(module, f"{target}.", aliases)
        hooked = bool(module._forward_hooks or module._forward_pre_hooks)
        options = _options(module, names) if isinstance(module, Branch) else []
        if isinstance(module, Branch):
            rule: Any = lambda call, x: options[position(module, call)].values(call, x)  # noqa: E731
        else:
            rule = None if hooked else module_rule(module, names)
        step = Step(
            f"{target} ({type(module).__name__})",
            rule,
            lambda lifted, call, args, kwargs: lift_module(lifted, module, names, call, args, kwargs),
        )
        step.options = options
        return step
    if node.op == "call_method":

        def function(x: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(x, target)(*args, **kwargs)

        label = f"Tensor.{target}"
    else:
        function, label = target, f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"

    def fallback(lifted: Lifted, call: Call, args: Any, kwargs: Any) -> Any:
        return lift_function(lifted, function, call, args, kwargs)

    return Step(label, _rule_of(target), fallback)


def _options(branch: Branch, names: Names) -> list[Plan]:
    """The plan of each option of a branch."""
    first = {id(tensor): names[local] for local, tensor in _tensors(branch) if local in names}
    plans = []
    for option in branch.options:
        alone = nn.Sequential(option)  # so that the option itself is a step with a rule
        plan = make_plan(alone.train(branch.training), {name: first[id(tensor)] for name, tensor in _tensors(alone)})
        assert plan is not None, "what cannot be followed in it becomes a step of its own"
        plans.append(plan)
    return plans


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under all their names."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _rule_of(target: Any) -> Callable[..., Any] | None:
    try:
        return FUNCTIONS.get(target)
    except TypeError:  # not hashable
        return None


def _never(lifted: Lifted, call: Call, args: Any, kwargs: Any) -> Any:
    raise AssertionError("reading an attribute has no fallback")


def _read(model: nn.Module, target: str, aliases: Names) -> Callable[[Call], Any]:
    if target in aliases:
        name = aliases[target]
        return lambda call: Value(call.tensor(name), "plain")
    value: Any = model
    for part in target.split("."):
        value = getattr(value, part)
    constant = Value(value, "shared") if isinstance(value, Tensor) else value
    return lambda call: constant


def own_names(module: nn.Module, prefix: str, aliases: Names) -> dict[str, str]:
    """A module's parameters and buffers: name inside the module -> name in the model."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {local: aliases[prefix + local] for local, _ in tensors}


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Every name of each parameter and buffer -> the first of its names, which the stack uses."""
    first: dict[int, str] = {}
    aliases = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            aliases[name] = first.setdefault(id(tensor), name)
    return aliases


class _Tracer(fx.Tracer):
    """Follows the user's own modules, and finds the innermost one that cannot be followed."""

    def __init__(self, leaves: set[str]) -> None:
        super().__init__()
        self.proxy_buffer_attributes = True  # a buffer read in forward is the member's, not a constant
        self.leaves = leaves
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        hooked = bool(m._forward_hooks or m._forward_pre_hooks)
        known = module_qualified_name in self.leaves or isinstance(m, Site | Branch | Mask) or hooked
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def make_plan(model: nn.Module, aliases: Mapping[str, str]) -> Plan | None:
    """The plan of a model, or None where its own forward cannot be followed.

    A module inside the model that cannot be followed becomes one step, run by vmap.
    """
    leaves: set[str] = set()
    while True:
        tracer = _Tracer(leaves)
        traced = copy.deepcopy(model)  # a trace that fails leaves its stand-ins in the module
        try:
            graph = tracer.trace(traced)
        except Exception:  # torch.fx runs the user's code on stand-ins for tensors, which may raise anything
            if tracer.failed is None or tracer.failed in leaves:
                return None
            leaves.add(tracer.failed)
            continue
        return Plan(graph, traced, aliases)
