"""A member as one function of tensors, batch and noise, run for all members of a stack by vmap, or in turn."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.backends import cuda
from torch.distributions import Distribution
from torch.utils import _pytree as pytree
from torch.utils import checkpoint

from luthier.errors import TaskError
from luthier.hidden import seeded
from luthier.stack import batching, hot
from luthier.stack.factories import Factories
from luthier.stack.layout import LANES
from luthier.stack.noise import Noise
from luthier.stack.random_operators import answered, drawing_again, drawn, unseen

Tensors = dict[str, Tensor]
functorch: Any = torch._C._functorch  # type: ignore[attr-defined]
# Switches of scaled_dot_product_attention's kernels, set one by one: sdpa_kernel takes longer than a small layer.
ATTENTION = (
    (cuda.math_sdp_enabled, cuda.enable_math_sdp),
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
)
# A training changes switches and generators of torch that are the process's: those of several threads take turns.
TURN = threading.RLock()
PYTHON_SITE = 1 << 28  # of the seed of Python's and NumPy's generators, apart from the draws of a step


@dataclass(frozen=True)
class Form:
    """The form in which a stack runs.

    Args:
        kind: ``"vmap"``: all members in one call of each operator; ``"loop"``: one member after the other.
        least: Members that run at least: some kernels for one matrix differ from those for several.
        spare: Members that are added and thrown away, so that a real one is never the last: torch's vectorised loops
            compute the last elements of a tensor by other code than the rest.
        factories: Tensors that forward makes are made for each member, so that it may write members' values into them.
        other: The form for batches of other shapes than the example, unless their rows fill whole vector registers;
            None is this one. Elementwise loops have other ends there.
        channels_last: Members in turn have images with their channels last in memory.
        attends: The steps and measurements of members in turn go through torch's own kernels of attention, as in a
            plain loop; what may be differentiated twice goes through plain operators.
        why: The reason that it has no faster form, in words.
        seeded: The generators of Python and NumPy are set from the members' noise: forward draws from them.
    """

    kind: Literal["vmap", "loop"]
    least: int = 1
    spare: int = 0
    factories: bool = False
    other: Form | None = None
    channels_last: bool = False
    attends: bool = False
    why: str = ""
    seeded: bool = False


class Mapped:
    """A module as a function of many members' tensors.

    Args:
        module: ``module(batch, hyper, wanted, differentiable)`` of one member; every tensor it has is given at a run.
        buffers: Names of the tensors that it may write into.
        example: A batch for all members: batches with more axes than it has hold one for each member.
        form: The form in which it runs.
        choices: Hyperparameters that decide which parts of it run: members are then run in turn, each as a stack of
            one, so that it has the bits of a network without the others.
    """

    def __init__(
        self,
        module: nn.Module,
        buffers: frozenset[str],
        example: Any,
        form: Form,
        choices: frozenset[str] = frozenset(),
    ) -> None:
        batching.install()
        self._choices, self._example = choices, example
        self.form = form
        self._module, self._buffers = module, buffers
        self._shapes = [leaf.shape if isinstance(leaf, Tensor) else torch.Size() for leaf in _opened(example)[0]]
        self._fused = not any(isinstance(part, nn.LSTM) for part in module.modules())
        self._slots = _slots(module)
        self._sparse = {name: t.layout for name, t in module.named_buffers() if t.layout != torch.strided}
        self.turned_back = False  # from channels that lie last in memory, by a view that cannot be had of them
        self._draws = {True: False, False: False}  # by mode: whether it has been seen to draw

    def __call__(
        self, tensors: Tensors, batch: Any, hyper: Mapping[str, Tensor], noise: Noise, wanted: str, *, training: bool
    ) -> tuple[Any, Tensors]:
        """Run the members.

        Args:
            tensors: Parameters and buffers by name, (members, …).
            batch: A nest of tensors, each for all members or (members, …).
            hyper: (members, …) by name.
            noise: The members' noise.
            wanted: Name of the result that the module is asked for.
            training: Training or evaluation mode.

        Returns:
            The nest that the module returns, tensors (members, …), and the new buffers.
        """
        if self._module.training != training:
            self._module.train(training)
        form, members = self._form_for(batch), len(noise.key)
        if self._choices and form.kind == "vmap" and members > 1:
            found = []
            for i in range(members):
                one, part, knobs, source = self.row(i, tensors, batch, hyper, noise)
                found.append(self(one, part, knobs, source, wanted, training=training))
            return pytree.tree_map(
                lambda *parts: torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0], *found
            )
        loop = form.kind == "loop"
        run = self._in_turn if loop else functools.partial(self._together, form)
        given = functools.partial(run, tensors, batch, hyper, noise, wanted)
        attends = form.attends and not torch.is_grad_enabled()
        return self._drawing(given, training, fused=self._fused or loop, looked=loop and unseen(), attends=attends)

    def alone(
        self, rows: Tensors, batch: Any, hyper: Mapping[str, Tensor], noise: Noise, wanted: str
    ) -> tuple[Any, Tensors]:
        """Run one of the members that are run in turn, in training, on tensors without the members' axis."""
        if not self._module.training:
            self._module.train()
        if any(own := self.own(batch)):
            leaves, closed = _opened(batch)
            batch = closed([x[0] if mine else x for x, mine in zip(leaves, own, strict=True)])
        knobs = {name: value[0] for name, value in hyper.items()}
        run = functools.partial(self._one_of, rows, batch, knobs, noise, wanted)
        return self._drawing(run, True, fused=True, looked=unseen(), attends=self.form.attends)

    def _drawing(self, run: Any, training: bool, *, fused: bool, looked: bool, attends: bool = False) -> Any:
        """``run(keyed=…)``, keyed once it has been seen to draw.

        Args:
            run: Runs the members.
            training: Training or evaluation mode.
            fused: With oneDNN's kernels.
            looked: It tells by torch's own generator that it draws; else vmap raises an error.
            attends: With torch's own kernels of attention.
        """
        with TURN, _supports(fused, attends):
            if self._draws[training]:
                return run(keyed=True)
            before = torch.get_rng_state() if looked else None
            try:
                found = run(keyed=False)
            except RuntimeError as error:
                if "random operation" not in str(error):
                    raise
            else:
                if before is None or torch.equal(before, torch.get_rng_state()):
                    return found
                torch.set_rng_state(before)
            self._draws[training] = True
            return run(keyed=True)

    def in_form(self, form: Form) -> Mapped:
        """The same function in another form."""
        return Mapped(self._module, self._buffers, self._example, form, self._choices)

    def draws(self, *, training: bool) -> bool:
        """Return True if it has been seen to draw in this mode."""
        return self._draws[training]

    def own(self, batch: Any) -> list[bool]:
        """Mask of a batch's leaves that hold one tensor for each member."""
        pairs = zip(_opened(batch)[0], self._shapes, strict=True)
        return [isinstance(leaf, Tensor) and leaf.ndim > len(one) for leaf, one in pairs]

    def row(self, i: int, tensors: Tensors, batch: Any, hyper: Mapping[str, Tensor], noise: Noise) -> Any:
        """The arguments of member ``i``, as a stack of one."""
        row, (leaves, closed) = slice(i, i + 1), _opened(batch)
        given = [leaf[row] if mine else leaf for leaf, mine in zip(leaves, self.own(batch), strict=True)]
        one, knobs = ({name: tensor[row] for name, tensor in tree.items()} for tree in (tensors, hyper))
        source = Noise(noise.key[row], noise.step[row], noise.site, noise.differentiable)
        return one, closed(given), knobs, source

    def _form_for(self, batch: Any) -> Form:
        if self.form.other is None:
            return self.form
        pairs = zip(_opened(batch)[0], self._shapes, strict=True)
        found = [(leaf.shape[leaf.ndim - len(one) :], one) for leaf, one in pairs if isinstance(leaf, Tensor)]
        fits = all(shape == one or (shape and shape[0] % LANES == 0) for shape, one in found)
        return self.form if fits else self.form.other

    def _one(self, tensors: Tensors, batch: Any, hyper: Any, wanted: str, differentiable: bool) -> tuple[Any, Tensors]:
        """Run the module with these tensors; torch.func.functional_call takes longer than a small network."""
        given = {name: t.clone() if name in self._buffers else t for name, t in tensors.items()}
        given |= {name: laid_out(given[name], layout) for name, layout in self._sparse.items() if name in given}
        try:
            for name, slots, key, _ in self._slots:
                if name in given:  # an adapter may leave out what a member does not reach
                    slots[key] = given[name]
            _LATER.clear()  # of a run that failed
            result = _own_tensors(self._module(batch, hyper, wanted, differentiable))
            while _LATER:  # the last checkpoint first, as gradients come to them
                _LATER.pop()()
            return result, {
                name: dense(slots[key])
                for name, slots, key, _ in self._slots
                if name in self._buffers and name in given
            }
        finally:
            for _, slots, key, own in self._slots:
                slots[key] = own

    def _in_turn(
        self, tensors: Tensors, batch: Any, hyper: Any, noise: Noise, wanted: str, *, keyed: bool
    ) -> tuple[Any, Tensors]:
        own = self.own(batch)
        leaves, closed = _opened(batch)
        apart = {name: tensor.unbind(0) for name, tensor in tensors.items()}
        results = []
        for i in range(len(noise.key)):
            given = [leaf[i] if mine else leaf for leaf, mine in zip(leaves, own, strict=True)]
            rows = {name: each[i] for name, each in apart.items()}
            knobs = {name: value[i] for name, value in hyper.items()}
            source = Noise(noise.key[i : i + 1], noise.step[i : i + 1], noise.site, noise.differentiable)
            one = self._one_of(rows, closed(given), knobs, source, wanted, keyed=keyed)
            results.append(_opened(one))
        rows = [_one_each(parts) for parts in zip(*(leaves for leaves, _ in results), strict=True)]
        return results[0][1](rows)

    def _one_of(
        self, rows: Tensors, batch: Any, knobs: Any, noise: Noise, wanted: str, *, keyed: bool
    ) -> tuple[Any, Tensors]:
        """Run one of the members in turn."""
        run = functools.partial(self._one, rows, batch, knobs, wanted, noise.differentiable)
        if self.form.seeded:
            run = functools.partial(_seeded, int(noise.bits(PYTHON_SITE, ())) >> 32, run)
        if self.form.channels_last and self._module.training:  # in which it has been compared
            try:
                with hot.channels_last(), answered(noise, stacked=False) if keyed else nullcontext():
                    return run()
            except RuntimeError as error:
                if "view size is not compatible" not in str(error):
                    raise  # else a branch that its first steps have not taken
                self.turned_back = True
        with answered(noise, stacked=False) if keyed else nullcontext():
            return run()

    def _together(
        self, form: Form, tensors: Tensors, batch: Any, hyper: Any, noise: Noise, wanted: str, *, keyed: bool
    ) -> tuple[Any, Tensors]:
        own = self.own(batch)
        leaves, closed = _opened(batch)
        members = len(noise.key)
        more = max(form.spare, form.least - members)

        def grown(tensor: Tensor) -> Tensor:
            if not more:
                return tensor
            # a copy, also of one: loops over a tensor of stride 0 give other bits than those over a whole one
            return torch.cat((tensor, tensor[-1:].expand(more, *tensor.shape[1:])))

        mine = [grown(leaf) for leaf, is_own in zip(leaves, own, strict=True) if is_own]
        fixed = {name: value[0] for name, value in hyper.items() if name in self._choices}  # a number to int()
        moved = {name: value for name, value in hyper.items() if name not in fixed}
        stacks = [grown(tensor) for tensor in (*tensors.values(), *moved.values())]
        wide = Noise(grown(noise.key), grown(noise.step), noise.site, noise.differentiable)
        shape: list[Any] = []

        def one(member: Tensor, *rows: Tensor) -> tuple[Tensor, ...]:
            waiting = iter(rows)
            own_tensors, knobs = dict(zip(tensors, waiting)), {**fixed, **dict(zip(moved, waiting))}  # noqa: B905
            given = [next(waiting) if is_own else leaf for leaf, is_own in zip(leaves, own, strict=True)]
            batch = closed(given)
            with Factories(member) if form.factories else nullcontext():
                found, where = _opened(self._one(own_tensors, batch, knobs, wanted, noise.differentiable))
            shape[:] = [where, [None if isinstance(leaf, Tensor) else (leaf,) for leaf in found]]
            return tuple(leaf for leaf in found if isinstance(leaf, Tensor))

        with hot.rules(), answered(wide, stacked=True) if keyed else nullcontext():
            found = _vmap(one, len(wide.key), "different" if keyed else "error", wide.key, *stacks, *mine)
        waiting = iter(found)
        where, others = shape
        filled = [(next(waiting)[:members] if more else next(waiting)) if leaf is None else leaf[0] for leaf in others]
        return where(filled)


def _seeded(seed: int, run: Any) -> Any:
    """``run()`` with the generators of Python and NumPy set."""
    with seeded(seed):
        return run()


def dense(tensor: Tensor) -> Tensor:
    """The same numbers in the layout that a stack has: members' sparse tensors may differ in what they leave out."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def laid_out(tensor: Tensor, layout: torch.layout) -> Tensor:
    """The same numbers in the layout that a member has."""
    return tensor if layout == tensor.layout else tensor.to_sparse(layout=layout)


def _slots(module: nn.Module) -> list[tuple[str, dict[str, Any], str, Tensor]]:
    """The place of each tensor: its first name, the dict and the key in it, and the tensor. Shared ones have several.

    In the reverse order of names, so that of a tensor with several the first is what is read after a run.
    """
    first: dict[int, str] = {}
    found = []
    for path, part in module.named_modules():
        for slots in (part._parameters, part._buffers):
            for key, tensor in slots.items():
                if tensor is not None:
                    name = first.setdefault(id(tensor), f"{path}.{key}".removeprefix("."))
                    found.append((name, slots, key, tensor))
    return found[::-1]


def _flat(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of a nest and its shape, with dataclasses, distributions and objects that hold tensors opened."""
    leaves, spec = pytree.tree_flatten(tree)
    new = {type(leaf) for leaf in leaves if _opens(leaf)}
    if not new:
        return leaves, spec
    for kind in new:
        _register(kind)
    return _flat(tree)


def _opened(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of a nest, and the function that makes such a nest of others.

    A pair of tensors, and a tensor beside a dict of tensors, are opened by hand: pytree takes longer than a layer.
    """
    kind = type(tree)
    if kind in (tuple, list):
        if False not in [isinstance(part, Tensor) for part in tree]:
            return list(tree), kind
        if len(tree) == 2 and isinstance(tree[0], Tensor) and type(tree[1]) is dict:
            first, named = tree
            if False not in [isinstance(part, Tensor) for part in named.values()]:
                return [first, *named.values()], lambda new: kind((new[0], dict(zip(named, new[1:], strict=True))))
    leaves, spec = _flat(tree)
    return leaves, lambda new: pytree.tree_unflatten(new, spec)


def _vmap(function: Any, members: int, randomness: str, *tensors: Tensor) -> list[Tensor]:
    """``torch.func.vmap`` from tensors to a tuple of tensors, whose look at nests takes as long as a small step."""
    level = functorch._vmap_increment_nesting(members, randomness)
    try:
        found = function(*[functorch._add_batch_dim(tensor, 0, level) for tensor in tensors])
        return [functorch._remove_batch_dim(tensor, level, members, 0) for tensor in found]
    finally:
        functorch._vmap_decrement_nesting()


def _opens(leaf: Any) -> bool:
    if isinstance(leaf, type | Tensor | nn.Module):
        return False
    held = getattr(leaf, "__dict__", {}).values()
    return is_dataclass(leaf) or isinstance(leaf, Distribution) or any(isinstance(value, Tensor) for value in held)


def _register(kind: type) -> None:
    def opened(value: Any) -> tuple[list[Any], Any]:
        fields = {n: getattr(value, n) for n in kind.__dataclass_fields__} if is_dataclass(kind) else dict(vars(value))
        if issubclass(kind, Distribution):  # a tensor of this shape is stacked and joined as its parameters are
            fields["_batch_shape"] = torch.zeros(()).expand(value.batch_shape)
        return list(fields.values()), tuple(fields)

    def closed(parts: Any, names: Any) -> Any:
        new: Any = kind.__new__
        made = new(kind)
        for name, part in zip(names, parts, strict=True):
            shape = name == "_batch_shape" and issubclass(kind, Distribution) and isinstance(part, Tensor)
            object.__setattr__(made, name, part.shape if shape else part)
        return made

    pytree.register_pytree_node(kind, opened, closed)


def _own_tensors(result: Any) -> Any:
    """A result with its lists and dicts of parameters as plain ones, while these are a member's.

    Raises:
        TaskError: If it holds another module.
    """

    def plain(part: Any) -> Any:
        if not isinstance(part, nn.Module):
            return part
        if isinstance(part, nn.ParameterDict):
            return dict(part.items())
        if isinstance(part, nn.ParameterList):
            return list(part)
        raise TaskError(
            f"the output holds a module, {type(part).__name__}, whose parameters are no member's once it has run",
            where="model, forward",
            remedy="Return its tensors.",
        )

    return result if isinstance(result, Tensor) else pytree.tree_map(plain, result)


def _one_each(parts: tuple[Any, ...]) -> Any:
    """A leaf of all members: tensors and differing numbers stacked, anything else as all have it."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack(parts)
    if type(first) in (int, float, bool) and any(part != first for part in parts):
        return torch.tensor(parts, dtype=torch.float64)
    return first


@contextmanager
def _supports(fused: bool, attends: bool = False) -> Iterator[None]:
    """Let user code run for several members, and the same for one: attention in plain operators unless it ``attends``,
    recomputation after forward (later it would draw anew, outside), oneDNN's LSTM and compiled code left out."""
    fast, dnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    kernels = [enabled() for enabled, _ in ATTENTION]
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(fused and dnn)
    for _, enable in () if attends else ATTENTION:
        enable(enable is cuda.enable_math_sdp)
    before = checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction
    checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction = _straight, _Straight  # type: ignore[assignment]
    try:
        yield
    finally:
        for (_, enable), before_it in zip(ATTENTION, kernels, strict=True):
            enable(before_it)
        checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction = before  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(dnn)


def _straight(
    function: Any, preserve: bool, contexts: Any, determinism: Any, debug: Any, early: Any, *args: Any, **named: Any
) -> Iterator[None]:
    site = drawn()
    yield  # checkpoint() runs the function here
    _recompute(site, functools.partial(function, *args, **named))


class _Straight:
    """A stand-in for ``CheckpointFunction`` that keeps what the function computes."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        site = drawn()
        found = function(*args)
        _recompute(site, functools.partial(function, *args))
        return found


_LATER: list[Callable[[], None]] = []  # recomputations that wait for the end of forward


def _recompute(site: int, run: Callable[[], Any]) -> None:
    """Move the buffers once more after forward, as the recomputation does in which torch's checkpoints end."""

    def again() -> None:
        with torch.no_grad(), drawing_again(site):
            run()

    if torch.is_grad_enabled():
        _LATER.append(again)
