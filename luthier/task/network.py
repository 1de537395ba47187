"""A task's network and loss for all members of a stack."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.hidden import alike, moved, outside
from luthier.optim.common import Tensors
from luthier.places import restored
from luthier.stack import Noise
from luthier.stack.mapped import Form, Mapped, dense
from luthier.stack.settle import RULE, RemembersError, Subject, failing_part, settle
from luthier.task.keyed import drawing
from luthier.task.member import OUTPUT, Member, code_of, own_name, path_of, read_by


@dataclass(frozen=True)
class Execution:
    """The form in which a stack's step runs, in words for people.

    Attributes:
        form: ``"vmap"``: all members in one call of each operator; ``"loop"``: one member after the other.
        why: The reason that it does not run by vmap.
        layers: True if the model is made of layers alone, so that no code of the user's own runs by vmap.
    """

    form: str
    why: str = ""
    layers: bool = False

    def __str__(self) -> str:
        text = {"vmap": "a stack by vmap", "loop": "in a loop, members in turn"}[self.form]
        if self.form == "vmap" and self.layers:
            text = "a stack, each layer called once for all members"
        return text


class Network:
    """A network that a program steps: a member is one function, from its tensors, a batch and its noise to its loss.

    Tensors have members first, batches may; evaluation draws no noise.

    Args:
        member: Model, loss and metrics.
        trained: Names of the tensors that are trained.
        batch: A minibatch as it comes in training.
        hyper: Hyperparameters of a stack of one.
        stack: Stack even networks so large that stacking saves nothing.
        rule: The rule of :mod:`luthier.stack.settle` that chooses the form.
    """

    def __init__(
        self,
        member: Member,
        trained: tuple[str, ...],
        batch: Any,
        hyper: Tensors,
        *,
        stack: bool,
        rule: int = RULE,
    ) -> None:
        _refuse_scripts(member)
        member = _copied(member).train()  # all of it, as a training loop does, whatever mode the model was made in
        state = {own_name(n): dense(t.detach())[None] for n, t in [*member.named_parameters(), *member.named_buffers()]}
        changing = frozenset(own_name(name) for name, _ in member.named_buffers())
        self._paths = {name: path_of(name) for name in state}
        paths = frozenset(self._paths[name] for name in changing)
        paths |= _written(member, {path_of(name): tensor for name, tensor in state.items()}, batch, hyper)
        names, choices = read_by(member.model)
        self.hyperparameters = frozenset(names)
        subject = Subject(
            lambda form: Mapped(member, paths, batch, form, frozenset(choices)),
            {path_of(name): tensor for name, tensor in state.items()},
            tuple(path_of(name) for name in trained),
            batch,
            hyper,
            "loss",
            member.rough,
        )
        try:
            with drawing(0), restored(code_of(member).owners):  # vmap leaves tensors that nothing else can read
                self._mapped = settle(subject, chooses=bool(choices), stack=stack, rule=rule)
        except RemembersError:
            raise _remembering(subject, member) from None
        except TaskError:
            raise
        except Exception as error:  # anything that a user's forward or loss may raise
            plain = Mapped(member, paths, batch, Form("loop"))
            place = failing_part(member, lambda: subject.run(plain, [1.0]))
            raise TaskError(
                f"a training step fails{place}: {type(error).__name__}: {error}",
                where=f"model ({type(member.model).__name__}) or loss",
                remedy="Run loss(model(inputs), target) on a batch of the data to see the whole error.",
            ) from error
        norms = [part for part in member.model.modules() if isinstance(part, _BatchNorm)]
        self.over_rows = any(norm.running_mean is None for norm in norms)  # its statistics are always the minibatch's
        homes = {type(part).__module__.partition(".")[0] for part in member.model.modules()}
        self._layers, self._choices = homes <= {"torch", "luthier"} and member.plain, bool(choices)
        self._differentiates = False  # known once it has been evaluated
        self._describe()

    def turn(self, why: str) -> None:
        """Run members in turn from now on."""
        if not self.in_turn:
            self._mapped = self._mapped.in_form(Form("loop", why=why))
            self._describe()

    def _describe(self) -> None:
        form = self._mapped.form
        self.at_once = form.least if form.kind == "vmap" else 1  # members that run where there is one
        self.loops = form.kind == "loop"
        self.in_turn = self.loops or self._choices
        self.execution = Execution("loop" if self.in_turn else "vmap", form.why, self._layers)

    def losses(
        self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any, noise: Noise
    ) -> tuple[Tensor, Tensors]:
        """Training losses, (members,), and the new buffers."""
        losses, changed = self._run(params, buffers, hyper, batch, noise, "loss", training=True)
        return losses, {**buffers, **{own_name(path): tensor for path, tensor in changed.items()}}

    def loss_alone(
        self, rows: Tensors, buffers: Tensors, hyper: Tensors, batch: Any, noise: Noise
    ) -> tuple[Tensor, Tensors]:
        """The training loss of one member, (), and its new buffers, of tensors without the members' axis."""
        tensors = {self._paths[name]: tensor for name, tensor in rows.items()}
        tensors |= {self._paths[name]: tensor.squeeze(0) for name, tensor in buffers.items()}
        loss, changed = self._mapped.alone(tensors, batch, hyper, noise, "loss")
        return loss, {**buffers, **{own_name(path): tensor.unsqueeze(0) for path, tensor in changed.items()}}

    def outputs(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Any:
        """Outputs of forward in evaluation mode, (members, …)."""
        return self._evaluated(params, buffers, hyper, batch, OUTPUT)

    def value(self, name: str, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any) -> Tensor:
        """The loss or a metric of a batch in evaluation mode, (members,)."""
        return self._evaluated(params, buffers, hyper, batch, name)

    def _evaluated(self, params: Tensors, buffers: Tensors, hyper: Tensors, batch: Any, wanted: str) -> Any:
        """The wanted result of a batch in evaluation mode; with a graph where forward takes gradients of its own."""
        quiet = _quiet(params, buffers)
        if not self._differentiates:
            try:
                return self._run(params, buffers, hyper, batch, quiet, wanted, training=False)[0]
            except RuntimeError as error:
                if torch.is_grad_enabled() or "does not require grad" not in str(error):
                    raise
                self._differentiates = True
        if torch.is_grad_enabled():
            return self._run(params, buffers, hyper, batch, quiet, wanted, training=False)[0]
        with torch.enable_grad():
            found = self._run(params, buffers, hyper, batch, quiet, wanted, training=False)[0]
        return pytree.tree_map_only(Tensor, Tensor.detach, found)

    @property
    def draws(self) -> bool:
        """True if it has been seen to draw in evaluation mode."""
        return self._mapped.draws(training=False)

    def own(self, batch: Any) -> list[bool]:
        """Mask of a batch's leaves that hold one tensor for each member."""
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


def _written(member: Member, tensors: Tensors, batch: Any, hyper: Tensors) -> frozenset[str]:
    """The frozen parameters that forward writes into, such as those of a teacher that follows its pupil.

    Raises:
        TaskError: If it writes into one that is trained.
    """
    parameters = dict(member.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    tensors = {name: 1.1 * t if name in trained else t for name, t in tensors.items()}  # a teacher may begin as a copy
    zero = torch.zeros(1, dtype=torch.int64, device=next(iter(tensors.values())).device)
    try:
        mapped = Mapped(member, frozenset(tensors), batch, Form("loop"))
        with torch.no_grad(), drawing(0):
            _, after = mapped(tensors, batch, hyper, Noise(zero, zero), "loss", training=True)
    except Exception:  # what it is will be found where its form is
        return frozenset()
    found = {name for name in parameters if name in after and not alike(after[name], tensors[name])}
    for name in sorted(found):
        if name in trained:
            raise TaskError(
                "forward writes into it, and gradients would be taken for what it was before",
                where=f"model, {own_name(name)}",
                remedy="Bound or scale weights where they are read (torch.nn.utils.parametrize, or weight.renorm(…) in "
                "forward), or after a step: optimizer.register_step_post_hook.",
            )
    return frozenset(found)


def _remembering(subject: Subject, member: Member) -> TaskError:
    """The refusal of a network or loss that remembers its calls: which of them it is, and what has changed."""
    code, first = code_of(member), subject.output(OUTPUT)
    before = outside(code.owners)
    same = alike(first, subject.output(OUTPUT))
    subject.output("loss")
    part = "TorchTask(forward=…)" if not member.plain else f"model ({type(member.model).__name__})"
    where = "TorchTask(loss=…)" if same else part
    return replace(code, where=where).error(moved(before, outside(code.owners)))


def _copied(member: Member) -> Member:
    """A copy, so that what a run leaves in attributes is not left in a module that the user goes on using."""
    try:
        return copy.deepcopy(member)
    except Exception:  # a module that holds what cannot be copied, such as the result of a hook
        return member


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
