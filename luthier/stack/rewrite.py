"""One nn.Module, unchanged, as a function of many members' parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.stack.check import agree, prepare
from luthier.stack.layout import Call, Value, plain
from luthier.stack.mapped import laid_out
from luthier.stack.members import Lifted, lift_module
from luthier.stack.noise import Noise
from luthier.stack.plan import Plan, aliases_of, make_plan, own_names

Tensors = dict[str, Tensor]
Form = Literal["rewritten", "vmap", "loop"]


class StackedModule:
    """A model for all members of a stack, made by :func:`stack_module`.

    Attributes:
        form: ``"rewritten"``: a rule for each part of the model; ``"vmap"``: torch.fx cannot follow forward, so the
            whole of it runs by vmap; ``"loop"``: nor can that be (it branches on values), so members run in turn.
        hyperparameters: Names that the model's :mod:`luthier.nn` layers read from ``hyper``.
        chooses: True if some of them decide between modules: members then run in turn.
    """

    def __init__(
        self,
        run: Callable[[Call, Value], Any],
        form: Form,
        plan: Plan | None,
        hyperparameters: Mapping[str, int],
        rank: int,
    ) -> None:
        self._run, self._plan, self._rank = run, plan, rank
        self.form: Form = form
        self.hyperparameters = frozenset(hyperparameters)
        self.chooses = any(hyperparameters.values())

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Parts of a rewritten model that have no rule: they run by vmap, or "(loop)" one member after the other."""
        return () if self._plan is None else self._plan.fallbacks

    def __call__(
        self,
        params: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Tensor,
        hyper: Mapping[str, Tensor] | None = None,
        noise: Noise | None = None,
    ) -> tuple[Any, Tensors]:
        """Run the members.

        Args:
            params: (members, …) by name.
            buffers: (members, …) by name; not changed.
            inputs: (batch, …) for all members, or (members, batch, …), told apart by the number of axes.
            hyper: (members, …) by name.
            noise: Noise of this step; needed where dropout is active.

        Returns:
            The outputs, (members, batch, …), or the nest of them that forward returns, and the new buffers.

        Raises:
            TaskError: If the inputs have other axes than the example had, or a hyperparameter or noise is missing.
        """
        own = inputs.ndim == self._rank + 1
        if not own and inputs.ndim != self._rank:
            raise TaskError(
                f"inputs of shape {tuple(inputs.shape)}",
                where="stacked model",
                remedy=f"Give {self._rank} axes, (batch, …), or {self._rank + 1}, (members, batch, …).",
            )
        sized = next(iter(params.values()), noise.key if noise else next(iter(hyper.values()), None) if hyper else None)
        members = len(sized) if sized is not None else len(inputs) if own else 1
        if own and len(inputs) != members:
            raise TaskError(
                f"inputs of shape {tuple(inputs.shape)} for {members} members",
                where="stacked model",
                remedy="Give each member a batch of its own, or all of them one batch.",
            )
        if self.chooses and members > 1:
            return self._in_turn(
                params, buffers, inputs if own else inputs.expand(members, *inputs.shape), hyper, noise
            )
        call = Call(dict(params), dict(buffers), dict(hyper or {}), noise, members)
        outputs = self._run(call, Value(inputs, "plain" if own else "shared"))
        return outputs, call.buffers

    def _in_turn(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor, hyper: Any, noise: Any
    ) -> tuple[Any, Tensors]:
        """One member after the other: each may have other modules."""
        results = []
        for i in range(len(inputs)):
            row = slice(i, i + 1)
            own, states, knobs = ({n: t[row] for n, t in tree.items()} for tree in (params, buffers, hyper or {}))
            one = None if noise is None else Noise(noise.key[row], noise.step[row], noise.site)
            results.append(self(own, states, inputs[row], knobs, one))
        return pytree.tree_map(lambda *tensors: torch.cat(tensors), *results)


def stack_module(module: nn.Module, example: Tensor, *, training: bool) -> StackedModule:
    """Rewrite a module, once, so that it runs for all members of a stack.

    The result is checked on the example: outputs, gradients and buffers of two members must be what each of them gives
    alone; where they are not, a plainer form is taken.

    Args:
        module: Any module of one input; not changed.
        example: A batch such as the model will see, (batch, …), two rows at least.
        training: Training or evaluation mode: what dropout and batch normalisation do.

    Raises:
        TaskError: If forward fails on the example, draws from torch's generators, or changes the module's attributes.

    Examples:
        >>> stacked = stack_module(nn.Linear(3, 2), torch.zeros(4, 3), training=True)
        >>> params, buffers = stack_parameters([nn.Linear(3, 2) for _ in range(5)])
        >>> stacked(params, buffers, torch.ones(4, 3))[0].shape
        torch.Size([5, 4, 2])
    """
    model, read = prepare(module, example, training)
    aliases = aliases_of(model)
    names = own_names(model, "", aliases)
    rank = example.ndim

    def whole(lifted: Lifted) -> Callable[[Call, Value], Any]:
        def run(call: Call, inputs: Value) -> Any:
            output = lift_module(lifted, model, names, call, (inputs,), {})
            return pytree.tree_map_only(Value, lambda value: plain(value, call.members), output)

        return run

    in_turn, together = Lifted(loop=True), Lifted()
    plan = make_plan(model, aliases)
    if plan is not None and agree(plan.run, whole(in_turn), model, example, read):
        return StackedModule(plan.run, "rewritten", plan, read, rank)
    if agree(whole(together), whole(in_turn), model, example, read) and not together.loop:
        return StackedModule(whole(together), "vmap", None, read, rank)
    return StackedModule(whole(in_turn), "loop", None, read, rank)


def stack_parameters(modules: Sequence[nn.Module]) -> tuple[Tensors, Tensors]:
    """Parameters and buffers of modules of one architecture, each stacked on a new first axis.

    Args:
        modules: One a member.

    Returns:
        (params, buffers) by name, (members, …) each, detached copies.

    Raises:
        TaskError: If the modules differ in names or shapes.
    """
    if not modules:
        raise TaskError("no modules", where="stack_parameters(modules)", remedy="Give one module a member.")
    stacks = []
    for kind in ("named_parameters", "named_buffers"):
        tensors = [dict(getattr(module, kind)()) for module in modules]
        shapes = [{name: tensor.shape for name, tensor in own.items()} for own in tensors]
        for number, shape in enumerate(shapes):
            if shape != shapes[0]:
                name = next(n for n in {**shapes[0], **shape} if shape.get(n) != shapes[0].get(n))
                raise TaskError(
                    f"member {number} has {name!r} of shape {_sizes(shape.get(name))}, "
                    f"member 0 of shape {_sizes(shapes[0].get(name))}",
                    where="stack_parameters(modules)",
                    remedy="Stack only modules of one architecture.",
                )
        stacks.append({name: torch.stack([own[name].detach() for own in tensors]) for name in tensors[0]})
    return stacks[0], stacks[1]


@torch.no_grad()
def unstack_into(
    module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], row: int = 0
) -> nn.Module:
    """Load one member of a stack into a module of the user's.

    Args:
        module: The module that gets the member's parameters and buffers.
        params: (members, …) by name.
        buffers: (members, …) by name.
        row: Index of the member.

    Returns:
        The module.

    Raises:
        TaskError: If names or shapes differ.
    """
    for targets, stack in ((dict(module.named_parameters()), params), (dict(module.named_buffers()), buffers)):
        for name in {**targets, **stack}:
            wanted = _sizes(targets[name].shape) if name in targets else "none"
            found = _sizes(stack[name].shape[1:]) if name in stack else "none"
            if wanted != found:
                raise TaskError(
                    f"{name!r} has shape {wanted} in the module and {found} in the stack",
                    where=f"unstack_into({type(module).__name__})",
                    remedy="Give a module of the architecture that was stacked.",
                )
            target, value = targets[name], laid_out(stack[name][row], targets[name].layout)
            if target.layout == torch.strided:
                target.copy_(value)
            else:  # sparse tensors can be copied only over others with as many entries
                owner, _, last = name.rpartition(".")
                module.get_submodule(owner)._buffers[last] = value.to(target)
    return module


def _sizes(shape: Any) -> str:
    return "none" if shape is None else str(tuple(shape))
