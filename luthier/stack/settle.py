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
from luthier.hidden import drawn_from
from luthier.stack.layout import LANES
from luthier.stack.mapped import Form, Mapped, Tensors
from luthier.stack.noise import Noise

RULE = 3  # the rule for the form; a study that an earlier version began goes on under its own, 1 or 2
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3}  # of the largest value: a stack against one member after the other
ROUGH = 3e-2  # of other types, and where float32 is computed in fewer bits
FLOPS_A_SECOND, ELEMENTS_A_SECOND = 4e10, 2e9  # one core: products, and elements of all other operators
LARGE = 5e-5  # seconds that calling the mean operator once for all members saves: of no use where it takes longer
# Seconds of the mean operator that members may take which are thrown away, by rule. Of the zoo's networks, those with
# more are slower in a stack of eight than in turn, transformers with dropout five times; those with less are faster.
WASTE = {1: LARGE, 2: 3.8e-5, 3: 3.8e-5}
# Seconds beside those of products and elements, which a stack does not save: of a convolution, a product among many,
# and a row of a softmax
CONVOLUTION, PRODUCT, ROW = 2e-5, 4e-7, 1e-7
# Elementwise operators of one rounding at most, which is that of scalar code too
ARITHMETIC = frozenset(
    (
        *("add sub rsub mul div neg abs sign sqrt reciprocal where maximum minimum clamp clamp_min clamp_max").split(),
        *("eq ne lt le gt ge logical_and logical_or logical_not logical_xor isnan isinf isfinite nan_to_num").split(),
        *("bitwise_and bitwise_or bitwise_xor bitwise_not __rshift__ __lshift__ floor ceil round trunc").split(),
        *("relu threshold threshold_backward leaky_relu leaky_relu_backward hardtanh hardtanh_backward").split(),
        *("masked_fill fill zero copy _to_copy").split(),
    )
)


Results = list[list[Tensor]]  # loss, gradients (None as an empty tensor), buffers


class RemembersError(TaskError):
    """A module that gives something else the second time."""


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
        rough: It computes in fewer bits than its tensors have.
    """

    make: Callable[[Form], Mapped]
    tensors: Tensors
    trained: tuple[str, ...]
    batch: Any
    hyper: Tensors
    wanted: str
    rough: bool = False

    def output(self, wanted: str) -> Any:
        """The result of the module for one member by itself."""
        zero = torch.zeros(1, dtype=torch.int64, device=_device(self.tensors))
        mapped, noise = self.make(Form("loop")), Noise(zero, zero)
        with torch.no_grad():
            return mapped(self.tensors, self.batch, self.hyper, noise, wanted, training=True)[0]

    def run(self, mapped: Callable[..., Any], members: list[float]) -> Results:
        """One step's results for members whose weights are those at hand times these factors."""
        scale = {name: self._scaled(name, members).detach() for name in self.tensors}
        leaves = {name: scale[name].requires_grad_() for name in self.trained}
        key = torch.tensor([round(factor * 1000) for factor in members], device=_device(scale))
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


def _device(tensors: Tensors) -> torch.device:
    return next(iter(tensors.values())).device


def settle(subject: Subject, *, chooses: bool = False, stack: bool = False, rule: int = RULE) -> Mapped:
    """The module in the first form that is right, that is the same alone and stacked, and that is worth it.

    Args:
        subject: The module and its example.
        chooses: Hyperparameters decide which parts of it run.
        stack: Stack also what is so large that stacking saves nothing, as on a GPU, whose loops have no other ends.
        rule: The rule for the form: :data:`RULE`, or one of an earlier version.

    Raises:
        TaskError: If the module fails, or depends on its earlier runs.
    """
    why = "its layers decide between modules" if chooses else ""
    loop, before = subject.make(Form("loop", why=why)), drawn_from(torchs=False)
    expected = subject.run(loop, [1.0, 1.1])
    if drawn_from(torchs=False) != before:
        why = "it draws from a generator of Python or NumPy, which vmap would ask once for all members"
        loop = subject.make(Form("loop", why=why, seeded=True))
        expected = subject.run(loop, [1.0, 1.1])
    work = Effort(small=rule > 1)
    with work:
        again = subject.run(loop, [1.0, 1.1])
    _refuse_memory(expected, again)
    if loop.form.seeded:
        return loop
    if chooses and rule > 2:
        return _in_turn(subject, why, expected, work, rule)
    if work.mean > LARGE and not stack and not chooses:
        why = f"its operators take {work.mean * 1e6:.0f} µs in the mean: one call for all members saves nothing"
        return _in_turn(subject, why, expected, work, rule)
    wasted = lambda spare: spare * work.mean > WASTE[rule] and not chooses  # noqa: E731
    least_spare = 0 if stack else work.spare
    if wasted(least_spare) and rule > 1:
        why = f"{least_spare} members computed and thrown away, for bits that are the same alone, would cost more"
        return _in_turn(subject, why, expected, work, rule)
    found = ""
    for factories in (False, True):
        form = Form("vmap", factories=factories, why=why)
        try:
            mapped = subject.make(form)
            pairs = zip(subject.run(mapped, [1.0, 1.1]), expected, strict=True)
            if not all(close(mine, theirs, rough=subject.rough) for mine, theirs in pairs):
                found = found or "vmap gives other numbers than a member alone"
                continue
            # a second member costs little, and makes all products those of several
            for least, spare in ((2, least_spare), (2, LANES + 1)):
                if wasted(spare):
                    break  # those that are thrown away would cost more than calls for one member after the other
                mapped = subject.make(replace(form, least=least, spare=spare))
                if same_alone(subject, mapped):
                    return subject.make(replace(mapped.form, other=_other(mapped.form, work, rule)))
            found = found or "vmap's operators give other last bits for one member than for several"
        except TaskError:
            raise
        except Exception as error:  # whatever a user's code raises under vmap: the loop has run it already
            found = found or _sentence(error)
    return loop if chooses else _in_turn(subject, found, expected, work, rule)


def _in_turn(subject: Subject, why: str, expected: Results, work: Effort, rule: int) -> Mapped:
    """One member after the other, with channels last in memory where images are pooled and that can be had.

    ``view`` refuses such images: then they stay as they are.
    """
    form = Form("loop", attends=rule > 1, why=why)
    plain = subject.make(form)
    if not work.pools or rule < 2:
        return plain
    try:
        mapped = subject.make(replace(form, channels_last=True))
        found = subject.run(mapped, [1.0, 1.1])
    except Exception:  # whatever a user's code raises for them
        return plain
    right = all(close(mine, theirs, rough=subject.rough) for mine, theirs in zip(found, expected, strict=True))
    return mapped if right and not mapped.turned_back else plain


def _other(form: Form, work: Effort, rule: int) -> Form:
    """The form for batches whose rows do not fill vector registers, such as the last of a split.

    Where operators are small, so many spare members that no number of a real one is at the end of a loop; they would
    cost too much where operators are larger, and calling these for one member after the other costs little.
    """
    if (LANES + 1) * work.mean > LARGE:
        return Form("loop", attends=rule > 1)
    return replace(form, least=2, spare=LANES + 1)


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
    raise RemembersError(
        "it gives something else the second time, with the same weights, batch and noise: something is kept between "
        "two calls that a stack of members cannot share",
        where="model or loss",
        remedy="Register what is kept as a buffer (register_buffer) and change it in place, or compute it outside.",
    )


def _leaves(results: Results) -> list[Tensor]:
    return [tensor for part in results for tensor in part]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def close(found: list[Tensor], expected: list[Tensor], *, rough: bool = False) -> bool:
    """Equal up to rounding, measured against the largest value of the list."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return False
    finite = [tensor.detach()[tensor.isfinite()].abs().max() for tensor in expected if tensor.isfinite().any()]
    scale = max([1e-6, *map(float, finite)])
    for a, b in zip(found, expected, strict=True):
        few = rough or b.dtype not in CLOSE or (b.dtype == torch.float32 and b.device.type != "cpu")
        tolerance = 0.0 if not (b.is_floating_point() or b.is_complex()) else ROUGH if few else CLOSE[b.dtype]
        wide = torch.complex128 if b.is_complex() else torch.float64
        if not torch.allclose(a.to(wide), b.to(wide), rtol=0, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"vmap cannot run it: {type(error).__name__}: {text[:160]}"


class Effort(TorchDispatchMode):
    """Counts what a step asks of a core.

    Args:
        small: Count what small products, rows and convolutions take beside their arithmetic.

    Attributes:
        seconds: Time by the rates above, not by a clock: the same on every machine.
        calls: Operators that compute something.
        elements: Numbers that they returned.
        spare: Members at the end of a stack that hold all ends of loops which could give other bits there: of
            elementwise operators that are no plain arithmetic, and whose members do not fill whole vector registers.
        pools: True if images are pooled by their largest numbers.
    """

    def __init__(self, *, small: bool = True) -> None:
        super().__init__()
        self._small = small
        self.seconds, self.calls, self.elements, self.spare, self.pools = 0.0, 0, 0, 0, False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # torch would import its compiler, which takes a second, to say so to it
        return False

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
        if self._small:
            self.seconds += _beside(func.overloadpacket.__name__, args, result)
        self.pools |= func.overloadpacket is torch.ops.aten.max_pool2d_with_indices
        self.elements += sum(outputs)
        if flops is not None:
            self.seconds += flops(*args, **(kwargs or {}), out_val=result) / FLOPS_A_SECOND
            return result
        sizes = [leaf.numel() for leaf in pytree.tree_leaves((result, args)) if isinstance(leaf, Tensor)]
        self.seconds += max(sizes, default=0) / ELEMENTS_A_SECOND
        if torch.Tag.pointwise in func.tags and func.overloadpacket.__name__.rstrip("_") not in ARITHMETIC:
            self.spare = max([self.spare, *(-(-LANES // size) for size in outputs if size % LANES)])
        return result


def _beside(name: str, args: Any, result: Any) -> float:
    """Seconds of an operator beside its products and elements."""
    if "convolution" in name:
        return CONVOLUTION
    if name in ("bmm", "baddbmm"):
        return PRODUCT * len(result)
    if "softmax" in name:
        axis = args[2] if "backward" in name else args[1]
        return ROW * (result.numel() // max(1, result.shape[axis]) if result.ndim else 1)
    return 0.0


def failing_part(module: nn.Module, run: Callable[[], Any]) -> str:
    """The place in a module where ``run`` fails: the innermost part that it enters but never leaves."""
    inside: list[str] = []

    def entered(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            shapes = ", ".join(
                [str(tuple(x.shape)) for x in inputs if isinstance(x, Tensor)]
                + [f"{key}={tuple(x.shape)}" for key, x in named.items() if isinstance(x, Tensor)]
            )
            inside.append(f", in {name.removeprefix('model.')} ({type(part).__name__}), which gets {shapes}")

        return hook

    hooks: list[Any] = []
    for name, part in module.named_modules():
        if name and not isinstance(part, torch.jit.ScriptModule):
            hooks.append(part.register_forward_pre_hook(entered(name), with_kwargs=True))
            hooks.append(part.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        run()
    except Exception:
        return inside[-1] if inside else ""
    finally:
        for hook in hooks:
            hook.remove()
    return ""
