"""A member as one function of tensors, batch and noise, run for all members of a stack by vmap, or in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils import checkpoint

from luthier.stack import batching
from luthier.stack.factories import Factories
from luthier.stack.noise import Noise
from luthier.stack.random import Keyed

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Form:
    """The form in which a stack runs.

    Args:
        kind: ``"vmap"``: all members in one call of each operator; ``"loop"``: one member after the other.
        spare: Members that are added and thrown away, so that a real one is never the last: torch's vectorised loops
            compute the last elements of a tensor by other code than the rest.
        factories: Tensors that forward makes are made for each member, so that it may write members' values into them.
        why: The reason that it has no faster form, in words.
    """

    kind: Literal["vmap", "loop"]
    spare: int = 0
    factories: bool = False
    why: str = ""


class Mapped:
    """A module as a function of many members' tensors.

    Args:
        module: ``module(batch, hyper, wanted, differentiable)`` of one member; every tensor it has is given at a run.
        buffers: Names of the tensors that it may write into.
        example: A batch for all members: batches with more axes than it has hold one for each member.
        form: The form in which it runs.
    """

    def __init__(self, module: nn.Module, buffers: frozenset[str], example: Any, form: Form) -> None:
        batching.install()
        self.form = form
        self._module, self._buffers = module, buffers
        self._ranks = [leaf.ndim if isinstance(leaf, Tensor) else 0 for leaf in _flat(example)[0]]
        self._fused = not any(isinstance(part, nn.LSTM) for part in module.modules())
        self._twice = _under_two_names(module)
        self._sparse = {name: t.layout for name, t in module.named_buffers() if t.layout != torch.strided}
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
        run = self._in_turn if self.form.kind == "loop" else self._together
        with _supports(self._fused or self.form.kind == "loop"):
            if self._draws[training]:
                return run(tensors, batch, hyper, noise, wanted, keyed=True)
            looked = self.form.kind == "loop" and torch._C._len_torch_dispatch_stack() == 0
            before = torch.get_rng_state() if looked else None
            try:
                found = run(tensors, batch, hyper, noise, wanted, keyed=False)
            except RuntimeError as error:
                if "random operation" not in str(error):
                    raise
            else:
                if before is None or torch.equal(before, torch.get_rng_state()):
                    return found
                torch.set_rng_state(before)
            self._draws[training] = True
            return run(tensors, batch, hyper, noise, wanted, keyed=True)

    def own(self, batch: Any) -> list[bool]:
        """For each leaf of a batch, True if it holds one tensor for each member."""
        leaves = _flat(batch)[0]
        return [isinstance(leaf, Tensor) and leaf.ndim > rank for leaf, rank in zip(leaves, self._ranks, strict=True)]

    def _one(self, tensors: Tensors, batch: Any, hyper: Any, wanted: str, differentiable: bool) -> tuple[Any, Tensors]:
        tensors = {name: t.clone() if name in self._buffers else t for name, t in tensors.items()}
        tensors |= {name: laid_out(tensors[name], layout) for name, layout in self._sparse.items()}
        try:
            result = functional_call(self._module, tensors, (batch, hyper, wanted, differentiable))
        finally:
            for slots, name, tensor in self._twice:
                slots[name] = tensor
        return result, {name: dense(tensors[name]) for name in self._buffers}

    def _in_turn(
        self, tensors: Tensors, batch: Any, hyper: Any, noise: Noise, wanted: str, *, keyed: bool
    ) -> tuple[Any, Tensors]:
        own = self.own(batch)
        leaves, spec = _flat(batch)
        apart = {name: tensor.unbind(0) for name, tensor in tensors.items()}
        results = []
        for i in range(len(noise.key)):
            given = [leaf[i] if mine else leaf for leaf, mine in zip(leaves, own, strict=True)]
            rows = {name: each[i] for name, each in apart.items()}
            knobs = {name: value[i] for name, value in hyper.items()}
            source = Noise(noise.key[i : i + 1], noise.step[i : i + 1], noise.site)
            with Keyed(source, stacked=False) if keyed else ExitStack():
                one = self._one(rows, pytree.tree_unflatten(given, spec), knobs, wanted, noise.differentiable)
            results.append(_flat(one))
        rows = [
            torch.stack(parts) if isinstance(parts[0], Tensor) else parts[0]
            for parts in zip(*(leaves for leaves, _ in results), strict=True)
        ]
        return pytree.tree_unflatten(rows, results[0][1])

    def _together(
        self, tensors: Tensors, batch: Any, hyper: Any, noise: Noise, wanted: str, *, keyed: bool
    ) -> tuple[Any, Tensors]:
        own = self.own(batch)
        leaves, spec = _flat(batch)
        members = len(noise.key)
        more = max(self.form.spare, 2 - members)  # kernels for one matrix differ from those for several

        def grown(tensor: Tensor) -> Tensor:
            if not more:
                return tensor
            if members == 1:
                return tensor.expand(1 + more, *tensor.shape[1:])
            return torch.cat((tensor, tensor[-1:].expand(more, *tensor.shape[1:])))

        mine = [grown(leaf) for leaf, is_own in zip(leaves, own, strict=True) if is_own]
        every = [pytree.tree_map(grown, tree) for tree in (dict(tensors), dict(hyper))]
        wide = Noise(grown(noise.key), grown(noise.step), noise.site, noise.differentiable)
        shape: list[Any] = []

        def one(tensors: Tensors, hyper: Tensors, mine: list[Tensor], member: Tensor) -> list[Tensor]:
            waiting = iter(mine)
            given = [next(waiting) if is_own else leaf for leaf, is_own in zip(leaves, own, strict=True)]
            batch = pytree.tree_unflatten(given, spec)
            with Factories(member) if self.form.factories else ExitStack():
                found, where = _flat(self._one(tensors, batch, hyper, wanted, noise.differentiable))
            shape[:] = [where, [None if isinstance(leaf, Tensor) else (leaf,) for leaf in found]]
            return [leaf for leaf in found if isinstance(leaf, Tensor)]

        with Keyed(wide, stacked=True) if keyed else ExitStack():
            found = vmap(one, randomness="different" if keyed else "error")(every[0], every[1], mine, wide.key)
        waiting = iter(found)
        where, fixed = shape
        filled = [(next(waiting)[:members] if more else next(waiting)) if leaf is None else leaf[0] for leaf in fixed]
        return pytree.tree_unflatten(filled, where)


def dense(tensor: Tensor) -> Tensor:
    """The same numbers in the layout that a stack has: members' sparse tensors may differ in what they leave out."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def laid_out(tensor: Tensor, layout: torch.layout) -> Tensor:
    """The other way round."""
    return tensor if layout == tensor.layout else tensor.to_sparse(layout=layout)


def _under_two_names(module: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Slots of the tensors of parts that occur in two places: functional_call puts them back once too often."""
    paths: dict[int, int] = {}
    for _, part in module.named_modules(remove_duplicate=False):
        paths[id(part)] = paths.get(id(part), 0) + 1
    return [
        (slots, name, tensor)
        for part in module.modules()
        if paths[id(part)] > 1
        for slots in (part._parameters, part._buffers)
        for name, tensor in slots.items()
        if tensor is not None
    ]


def _flat(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of a nest, dataclasses opened, and its shape."""
    leaves, spec = pytree.tree_flatten(tree)
    new = {type(leaf) for leaf in leaves if is_dataclass(leaf) and not isinstance(leaf, type)}
    if not new:
        return leaves, spec
    for kind in new:
        _register(kind)
    return _flat(tree)


def _register(kind: type) -> None:
    names = tuple(field for field in kind.__dataclass_fields__)

    def opened(value: Any) -> tuple[list[Any], Any]:
        return [getattr(value, name) for name in names], None

    def closed(parts: Any, _: Any) -> Any:
        made = object.__new__(kind)
        for name, part in zip(names, parts, strict=True):
            object.__setattr__(made, name, part)
        return made

    pytree.register_pytree_node(kind, opened, closed)


@contextmanager
def _supports(fused: bool) -> Iterator[None]:
    """Let user code run for several members, and the same for one: attention in plain operators, no
    recomputation of parts (it would draw anew, outside), oneDNN's LSTM and compiled code left out."""
    fast, dnn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(fused and dnn)
    before = checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction
    checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction = _straight, _Straight  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        checkpoint._checkpoint_without_reentrant_generator, checkpoint.CheckpointFunction = before  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(dnn)


def _straight(*_: Any, **__: Any) -> Iterator[None]:
    yield


class _Straight:
    """A stand-in for ``CheckpointFunction`` that runs the function."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        return function(*args)
