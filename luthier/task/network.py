"""A task's network and loss for all members of a stack: by rules for its parts where all have one, else as it is."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from luthier.errors import TaskError
from luthier.losses import StackedLoss
from luthier.optim.common import Tensors
from luthier.stack import Noise, stack_module
from luthier.stack.mapped import Form, Mapped, dense
from luthier.stack.settle import Subject, failing_part, same_alone, settle
from luthier.task.member import OUTPUT, Member, own_name, parts, path_of, read_by

Measures = Mapping[str, StackedLoss]  # the loss, as "loss", and metrics


@dataclass(frozen=True)
class Execution:
    """The form in which a stack's step runs, in words for people.

    Attributes:
        form: ``"rules"``: a rule for each part of the network; ``"vmap"``; ``"loop"``: one member after the other.
        why: The reason that it does not run in the form before it.
    """

    form: str
    why: str = ""

    def __str__(self) -> str:
        text = {"rules": "rewritten for the stack", "vmap": "mapped by vmap", "loop": "in a loop, members in turn"}
        return text[self.form] + (f" ({self.why})" if self.why else "")


class Network(Protocol):
    """The network that a program steps. Tensors have members first, batches may; evaluation draws no noise."""

    hyperparameters: frozenset[str]
    execution: Execution

    def losses(
        self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any, noise: Noise
    ) -> tuple[Tensor, Tensors]:
        """Training losses, (members,), and the new buffers."""
        ...

    def outputs(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Any:
        """Outputs of forward in evaluation mode, (members, …)."""
        ...

    def value(self, name: str, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """The loss or a metric of a batch in evaluation mode, (members,); can be differentiated."""
        ...


class Ruled:
    """A network of which every part has a rule, and its loss on the outputs of all members.

    Args:
        model: The network.
        batch: A pair of tensors.
        measures: Loss and metrics.
    """

    execution = Execution("rules")

    def __init__(self, model: nn.Module, batch: tuple[Tensor, Tensor], measures: Measures) -> None:
        example = batch[0][:2]
        self._train = stack_module(model.train(), example, training=True)
        self._eval = stack_module(model.eval(), example, training=False)
        self._measures = measures
        self.hyperparameters = self._train.hyperparameters

    def covers(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> bool:
        """Return True if all of the network has rules, which give the same bits for one member as for several.

        Args:
            params: Parameters of a stack of one by name; so are buffers and hyper.
            buffers: Buffers by name.
            hyper: Hyperparameters by name.
            batch: A minibatch.
        """
        if not all(one.form == "rewritten" and not one.fallbacks for one in (self._train, self._eval)):
            return False
        if self._train.chooses:  # members run in turn
            return True

        def run(tensors: Tensors, batch: Any, hyper: Tensors, noise: Noise, wanted: str, *, training: bool) -> Any:
            given = {name: tensors[name] for name in params}
            return self.losses(given, {name: tensors[name] for name in buffers}, hyper, batch, noise)

        subject = Subject(lambda form: run, {**params, **buffers}, tuple(params), batch, hyper, "loss")  # type: ignore[arg-type, return-value]
        return same_alone(subject, run) and self._measures["loss"].form != "loop"

    def losses(
        self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any, noise: Noise
    ) -> tuple[Tensor, Tensors]:
        """Training losses, (members,), and the new buffers."""
        outputs, buffers = self._train(params, buffers, batch[0], hyper, noise)
        return self._measures["loss"](outputs, batch[1], hyper), buffers

    def outputs(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Any:
        """Outputs of forward in evaluation mode, (members, …)."""
        return self._eval(params, buffers, batch[0], hyper, None)[0]

    def value(self, name: str, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """The loss or a metric of a batch in evaluation mode, (members,)."""
        return self._measures[name](self.outputs(params, buffers, hyper, batch), batch[1], hyper)


class Whole:
    """Any network: a member is one function, from its tensors, a batch and its noise to its loss.

    Args:
        member: Model, loss and metrics.
        trained: Names of the tensors that are trained.
        batch: A minibatch as it comes in training.
        hyper: Hyperparameters of a stack of one.
        stack: Stack even networks so large that stacking saves nothing.
        why: The reason that it is not :class:`Ruled`.
    """

    def __init__(
        self, member: Member, trained: tuple[str, ...], batch: Any, hyper: Tensors, *, stack: bool, why: str
    ) -> None:
        _refuse_scripts(member)
        member = _copied(member)
        state = {own_name(n): dense(t.detach())[None] for n, t in [*member.named_parameters(), *member.named_buffers()]}
        changing = frozenset(own_name(name) for name, _ in member.named_buffers())
        self._paths = {name: path_of(name) for name in state}
        paths = frozenset(self._paths[name] for name in changing)
        names, chooses = read_by(member.model)
        self.hyperparameters = frozenset(names)
        subject = Subject(
            lambda form: Mapped(member, paths, batch, form),
            {path_of(name): tensor for name, tensor in state.items()},
            tuple(path_of(name) for name in trained),
            batch,
            hyper,
            "loss",
        )
        before = _generators()
        try:
            self._mapped = settle(subject, in_turn="its layers decide between modules" if chooses else "", stack=stack)
        except TaskError as error:
            raise _drawing(error) if before != _generators() else error  # noqa: B904
        except Exception as error:  # anything that a user's forward or loss may raise
            plain = Mapped(member, paths, batch, Form("loop"))
            place = failing_part(member, lambda: subject.run(plain, [1.0]))
            raise TaskError(
                f"a training step fails{place}: {type(error).__name__}: {error}",
                where=f"model ({type(member.model).__name__}) or loss",
                remedy="Run loss(model(inputs), target) on a batch of the data to see the whole error.",
            ) from error
        if before != _generators():
            raise _drawing(None)
        form = self._mapped.form
        self.in_turn = form.kind == "loop"
        self.execution = Execution(form.kind, form.why or why)

    def losses(
        self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any, noise: Noise
    ) -> tuple[Tensor, Tensors]:
        """Training losses, (members,), and the new buffers."""
        losses, changed = self._run(params, buffers, hyper, batch, noise, "loss", training=True)
        return losses, {**buffers, **{own_name(path): tensor for path, tensor in changed.items()}}

    def outputs(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Any:
        """Outputs of forward in evaluation mode, (members, …)."""
        return self._run(params, buffers, hyper, batch, _quiet(params, buffers), OUTPUT, training=False)[0]

    def value(self, name: str, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """The loss or a metric of a batch in evaluation mode, (members,)."""
        return self._run(params, buffers, hyper, batch, _quiet(params, buffers), name, training=False)[0]

    def own(self, batch: Any) -> list[bool]:
        """For each leaf of a batch, True if it holds one tensor for each member."""
        return self._mapped.own(batch)

    def _run(
        self,
        params: Tensors,
        buffers: Tensors,
        hyper: Tensors,
        batch: Any,
        noise: Noise,
        wanted: str,
        *,
        training: bool,
    ) -> tuple[Any, Tensors]:
        tensors = {self._paths[name]: tensor for name, tensor in {**params, **buffers}.items()}
        return self._mapped(tensors, batch, hyper, noise, wanted, training=training)


def _copied(member: Member) -> Member:
    """A copy, so that what a run leaves in attributes is not left in a module that the user goes on using."""
    try:
        return copy.deepcopy(member)
    except Exception:  # a module that holds what cannot be copied, such as the result of a hook
        return member


def _generators() -> tuple[Any, bytes]:
    return random.getstate(), pickle.dumps(np.random.get_state())


def _drawing(cause: Exception | None) -> TaskError:
    error = TaskError(
        "it draws from a generator of Python or NumPy: a member would not be the same alone and in a stack",
        where="model or loss",
        remedy="Draw by torch: torch.rand(()) < 0.1 instead of random.random() < 0.1.",
    )
    error.__cause__ = cause
    return error


def _quiet(params: Tensors, buffers: Tensors) -> Noise:
    """Noise of an evaluation that draws all the same: one for all members and times, so that they are compared."""
    sized = next(iter((params or buffers).values()))
    zero = torch.zeros(len(sized), dtype=torch.int64, device=sized.device)
    return Noise(zero, zero)


def _refuse_scripts(member: Member) -> None:
    for name, part in member.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise TaskError(
                "torch.jit has compiled it for weights of its own",
                where=f"model, {name.removeprefix('model.').removeprefix('model') or 'itself'} (ScriptModule)",
                remedy="Give the module as it was before torch.jit.script or torch.jit.trace.",
            )


def make_network(
    member: Callable[[], Member], trained: tuple[str, ...], batch: Any, hyper: Tensors, measures: Measures, task: Any
) -> Network:
    """The network in the fastest form that is right: chosen by what it is made of, never by a clock.

    Args:
        member: Makes a member.
        trained: Names of its tensors that are trained.
        batch: A minibatch as it comes in training.
        hyper: Hyperparameters of a stack of one.
        measures: Loss and metrics.
        task: The task.
    """
    why = _outside_the_rules(batch, measures, task)
    if not why:
        try:
            one = member()
            ruled = Ruled(one.model, batch, measures)
            named = {own_name(n): dense(t.detach())[None] for n, t in [*one.named_parameters(), *one.named_buffers()]}
            params = {name: named.pop(name) for name in trained}
            if ruled.covers(params, named, hyper, batch):
                return ruled
            why = "parts of it have no rule"
        except Exception as error:  # whatever the search for rules meets: the member itself is run next
            why = f"no rules: {' '.join(str(error).split())[:120]}"
    device = torch.device(task.device or "cpu")
    return Whole(member(), trained, batch, hyper, stack=device.type != "cpu", why=why)


def _outside_the_rules(batch: Any, measures: Measures, task: Any) -> str:
    inputs, targets = parts(batch)
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or inputs is targets:
        return "its batch is not a pair of tensors"
    if task.forward is not None or task.precision is not None:
        return "it has a call of its own, or autocast"
    loss = measures["loss"]
    return "" if loss.covered else "its loss has parameters, or no form for several members"
