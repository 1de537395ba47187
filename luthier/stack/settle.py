"""The form in which a module runs for a stack, found by running it: right, the same alone and stacked, then fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from luthier.errors import TaskError
from luthier.stack.mapped import Form, Mapped, Tensors
from luthier.stack.noise import Noise

CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}  # of the largest value: a stack against one member after the other
ROUGH = 3e-2  # of other types, and where float32 is computed in fewer bits
FLOPS_A_SECOND, ELEMENTS_A_SECOND = 4e10, 2e9  # one core: products, and elements of all other operators
LARGE = 2e-5  # seconds of the mean operator above which calling it once for all members saves nothing
LANES = 32  # no vectorised loop of torch takes more numbers at once

Results = list[list[Tensor]]  # loss, gradients (None as an empty tensor), buffers


@dataclass(frozen=True)
class Subject:
    """A module and the example that is run to find its form.

    Args:
        make: The module as a function of members, in a form.
        tensors: Tensors of a stack of one, by name.
        trained: Names of the tensors that gradients are taken for.
        batch: A minibatch as it comes in training.
        hyper: Hyperparameters of the stack of one.
        wanted: Name of the result that is asked for: the loss.
    """

    make: Callable[[Form], Mapped]
    tensors: Tensors
    trained: tuple[str, ...]
    batch: Any
    hyper: Tensors
    wanted: str

    def run(self, mapped: Callable[..., Any], members: list[float]) -> Results:
        """One step's results for members whose weights are those at hand times these factors."""
        scale = {name: self._scaled(name, members).detach() for name in self.tensors}
        leaves = {name: scale[name].requires_grad_() for name in self.trained}
        key = torch.tensor([round(factor * 1000) for factor in members], device=next(iter(scale.values())).device)
        noise = Noise(key, torch.zeros_like(key))
        hyper = {name: value.expand(len(members), *value.shape[1:]) for name, value in self.hyper.items()}
        loss, buffers = mapped(scale, self.batch, hyper, noise, self.wanted, training=True)
        found: Any = [None] * len(leaves)
        if loss.requires_grad:
            found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
        gradients = [loss.new_empty(len(members), 0) if g is None else g.detach() for g in found]
        return [[loss.detach()], gradients, [buffer.detach() for buffer in buffers.values()]]

    def _scaled(self, name: str, members: list[float]) -> Tensor:
        tensor = self.tensors[name]
        if name not in self.trained:
            return tensor.expand(len(members), *tensor.shape[1:]).clone()
        return torch.cat([tensor * factor for factor in members])


def settle(subject: Subject, *, in_turn: str = "", stack: bool = False) -> Mapped:
    """The module in the first form that is right, that is the same alone and stacked, and that is worth it.

    Args:
        subject: The module and its example.
        in_turn: The reason that members must run in turn; "" if they need not.
        stack: Stack also what is so large that stacking saves nothing, as on a GPU.

    Raises:
        TaskError: If the module fails, or depends on its earlier runs.
    """
    loop = subject.make(Form("loop", why=in_turn))
    expected = subject.run(loop, [1.0, 1.1])
    work = Work()
    with work:
        again = subject.run(loop, [1.0, 1.1])
    _refuse_memory(expected, again)
    if in_turn:
        return loop
    if work.mean > LARGE and not stack:
        why = f"its operators take {work.mean * 1e6:.0f} µs in the mean: one call for all members saves nothing"
        return subject.make(Form("loop", why=why))
    why = ""
    for factories in (False, True):
        form = Form("vmap", factories=factories)
        try:
            mapped = subject.make(form)
            if not all(map(close, subject.run(mapped, [1.0, 1.1]), expected)):
                why = why or "vmap gives other numbers than a member alone"
                continue
            for spare in dict.fromkeys((0, 1, LANES // max(1, work.smallest) + 1)):
                mapped = subject.make(replace(form, spare=spare))
                if same_alone(subject, mapped):
                    return mapped
            why = why or "vmap's operators give other last bits for one member than for several"
        except TaskError:
            raise
        except Exception as error:  # whatever a user's code raises under vmap: the loop has run it already
            why = why or _sentence(error)
    return subject.make(Form("loop", why=why))


def same_alone(subject: Subject, mapped: Callable[..., Any]) -> bool:
    """Return True if members have the same bits alone as in a stack, whatever their place in it."""
    first, last = (subject.run(mapped, [factor]) for factor in (1.0, 1.1))
    both = subject.run(mapped, [1.1, 1.0, 1.1])
    for a, b, stacked in zip(_leaves(first), _leaves(last), _leaves(both), strict=True):
        if not (_equal(stacked[1], a[0]) and _equal(stacked[0], b[0]) and _equal(stacked[2], b[0])):
            return False
    return True


def _refuse_memory(expected: Results, again: Results) -> None:
    if all(map(_equal, _leaves(expected), _leaves(again))):
        return
    raise TaskError(
        "it gives something else the second time, with the same weights, batch and noise: something is kept between "
        "two calls that a stack of members cannot share",
        where="model or loss",
        remedy="Register what is kept as a buffer (register_buffer) and change it in place, or compute it outside.",
    )


def _leaves(results: Results) -> list[Tensor]:
    return [tensor for part in results for tensor in part]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Equal up to rounding, measured against the largest value of the list."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return False
    finite = [tensor.detach()[tensor.isfinite()].abs().max() for tensor in expected if tensor.isfinite().any()]
    scale = max([1e-6, *map(float, finite)])
    for a, b in zip(found, expected, strict=True):
        rough = b.dtype not in CLOSE or (b.dtype == torch.float32 and b.device.type != "cpu")
        tolerance = 0.0 if not (b.is_floating_point() or b.is_complex()) else ROUGH if rough else CLOSE[b.dtype]
        wide = torch.complex128 if b.is_complex() else torch.float64
        if not torch.allclose(a.to(wide), b.to(wide), rtol=0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"vmap cannot run it: {type(error).__name__}: {text[:160]}"


class Work(TorchDispatchMode):
    """Counts what a step asks of a core.

    Attributes:
        seconds: Time by the rates above, not by a clock: the same on every machine.
        calls: Operators that compute something.
        elements: Numbers that they returned.
        smallest: Numbers of the smallest tensor that one of them returned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.calls, self.elements, self.smallest = 0.0, 0, 0, LANES

    @property
    def mean(self) -> float:
        """Seconds of the mean operator."""
        return self.seconds / max(1, self.calls)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace not in ("aten", "mkldnn"):
            return result
        flops = flop_registry.get(func.overloadpacket)
        outputs = [leaf.numel() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        self.calls += 1
        self.elements += sum(outputs)
        if flops is not None:
            self.seconds += flops(*args, **(kwargs or {}), out_val=result) / FLOPS_A_SECOND
            return result
        sizes = [leaf.numel() for leaf in pytree.tree_leaves((result, args)) if isinstance(leaf, Tensor)]
        self.seconds += max(sizes, default=0) / ELEMENTS_A_SECOND
        self.smallest = min([self.smallest, *(size for size in outputs if size > 1)])
        return result


def failing_part(module: nn.Module, run: Callable[[], Any]) -> str:
    """The place in a module where ``run`` fails: the innermost part that it enters but never leaves."""
    inside: list[str] = []

    def entered(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple[Any, ...]) -> None:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor))
            inside.append(f", in {name.removeprefix('model.')} ({type(part).__name__}), which gets {shapes}")

        return hook

    hooks: list[Any] = []
    for name, part in module.named_modules():
        if name and not isinstance(part, torch.jit.ScriptModule):
            hooks.append(part.register_forward_pre_hook(entered(name)))
            hooks.append(part.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        run()
    except Exception:
        return inside[-1] if inside else ""
    finally:
        for hook in hooks:
            hook.remove()
    return ""
