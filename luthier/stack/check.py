"""Preparation of a user's module for rewriting, and comparison of the rewritten form with the original."""

from __future__ import annotations

import copy
import inspect
import itertools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from luthier.errors import TaskError
from luthier.stack.choices import choosing, replace_choices
from luthier.stack.dropout import refuse_generators, replace_dropout
from luthier.stack.layout import Call, Value
from luthier.stack.members import general_attention
from luthier.stack.settle import close, failing_part

INTERNAL = vars(nn.Module()).keys()  # attributes in which a module keeps its parts
Run = Callable[[Call, Value], Any]


def prepare(module: nn.Module, example: Tensor, training: bool) -> tuple[nn.Module, dict[str, int]]:
    """A copy of the module in its mode, with luthier's layers and dropout replaced by what runs in a stack.

    Returns:
        The copy, and the hyperparameters that it reads with the number of their options; 0 for a number.

    Raises:
        TaskError: If forward cannot be run for a member alone and in a stack with equal results.
    """
    model = copy.deepcopy(module)
    read = {**dict.fromkeys(replace_dropout(model), 0), **replace_choices(model)}
    model.train(training)
    _of_one_input(model)

    @torch.no_grad()
    def run() -> None:
        for decision in decisions(read):
            state = {name: buffer.clone() for name, buffer in model.named_buffers()}
            with general_attention(), choosing(model, decision):
                functional_call(model, state, (example.clone(),))

    try:
        refuse_generators(model, run, example.device)
        before = _attributes(model)
        run()
    except TaskError:
        raise
    except Exception as error:  # anything that a user's forward may raise
        raise TaskError(
            f"forward fails on inputs of shape {tuple(example.shape)}{failing_part(model, run)}: "
            f"{type(error).__name__}: {error}",
            where=f"model ({type(module).__name__})",
            remedy="Run model(inputs) on a batch of the data to see the whole error.",
        ) from error
    changed = [name for name, value in _attributes(model).items() if name not in before or before[name] != value]
    if changed:
        raise TaskError(
            f"forward changes the attribute {changed[0]!r}, which a stack of members cannot share",
            where=f"model ({type(module).__name__})",
            remedy="Register it as a buffer (register_buffer) and change it in place, or compute it outside the model.",
        )
    return model, read


def _of_one_input(model: nn.Module) -> None:
    """Let forward have one argument: torch.fx would pass stand-ins for those that have defaults."""
    arguments = list(inspect.signature(model.forward).parameters.values())
    if len(arguments) == 1 and arguments[0].kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return
    forward = type(model).forward
    model.__class__ = type(
        type(model).__name__, (type(model),), {"forward": lambda self, inputs: forward(self, inputs)}
    )


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Marks that identify the attributes of the user's own modules, by name; no parameters, buffers or submodules."""
    found = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in vars(module).items():
            if name == "training" or name in INTERNAL:
                continue
            if isinstance(value, Tensor):
                mark: Any = (id(value), value._version)
            elif isinstance(value, list | dict | set):
                mark = (id(value), len(value))
            elif isinstance(value, int | float | complex | str | bytes | bool | tuple):
                mark = value
            else:
                mark = id(value)
            found[f"{path}.{name}".lstrip(".")] = mark
    return found


def agree(run: Run, reference: Run, model: nn.Module, example: Tensor, options: Mapping[str, int]) -> bool:
    """Return True if ``run`` gives the outputs, gradients and buffers of ``reference`` for two members that differ.

    Args:
        run: All members at once. It is also refused if it writes into its arguments.
        reference: Each member alone.
        model: The model whose parameters the first member has.
        example: A batch, run both shared by all members and as one batch per member.
        options: Number of options of each hyperparameter that decides between modules; each option is run.
    """
    shared, own = Value(example, "shared"), Value(torch.stack([example, example.flip(0)]), "plain")
    for inputs, decision in itertools.product((shared, own), decisions(options)):
        expected = _results(reference, model, inputs, decision)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*performance drop.*")
                found = _results(run, model, inputs, decision)
        except Exception:  # of a form that does not fit this model
            return False
        if len(found) != len(expected) or not all(map(close, found, expected)):
            return False
    return True


def decisions(options: Mapping[str, int]) -> list[dict[str, Tensor]]:
    """Decisions of two members that agree, (2,) each, in which every option comes up."""
    chosen = {name: count for name, count in options.items() if count}
    most = max(chosen.values(), default=1)
    return [{name: torch.tensor([i % count] * 2) for name, count in chosen.items()} for i in range(most)]


def _results(run: Run, model: nn.Module, inputs: Value, decision: dict[str, Tensor]) -> list[list[Tensor]]:
    """Outputs, gradients, buffers, and what has become of the parameters and buffers given, of two members."""
    members = [1.0, 1.1]  # the second has other weights
    params = {n: torch.stack([p.detach() * scale for scale in members]) for n, p in model.named_parameters()}
    buffers = {n: torch.stack([b.detach()] * len(members)) for n, b in model.named_buffers()}
    trained = [param.requires_grad_() for param in params.values() if param.is_floating_point()]
    call = Call(dict(params), dict(buffers), dict(decision), None, len(members), silent=True)
    leaves = pytree.tree_leaves(run(call, Value(inputs.tensor.clone(), inputs.layout)))
    outputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    gradients: list[Tensor] = []
    summed = [leaf for leaf in outputs if leaf.requires_grad]
    if summed and trained:
        total = torch.stack([(leaf * _weights(leaf)).sum() for leaf in summed]).sum()
        gradients = list(torch.autograd.grad(total, trained, allow_unused=True, materialize_grads=True))
    return [outputs, gradients, [call.buffers[name] for name in buffers], list(params.values()), list(buffers.values())]


def _weights(leaf: Tensor) -> Tensor:
    return torch.arange(leaf.numel(), device=leaf.device).view(leaf.shape).to(leaf.dtype).sin()
