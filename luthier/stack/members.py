"""Code that has no rule, run for all members: by vmap, or where that is impossible one member after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from luthier.stack.choices import Branch, Mask
from luthier.stack.dropout import Site
from luthier.stack.layout import Call, Names, Value, plain


class Lifted:
    """Runs one member's function for all members.

    Args:
        loop: One member after the other; set by the first run where vmap fails.
    """

    def __init__(self, *, loop: bool = False) -> None:
        self.loop = loop
        self._tried = False

    def run(self, function: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """Run ``function`` on each member's slices of ``tensors``.

        Args:
            function: Takes one slice of each tensor; returns any nest of tensors and constants.
            tensors: (members, …) each.

        Returns:
            The nest, with (members, …) tensors.
        """
        if self.loop or self._tried:
            return self._run(function, tensors)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*performance drop.*")
                result = self._run(function, tensors)
        except (
            Exception
        ):  # whatever a user's code raises under vmap: if it is not vmap's fault the loop raises it again
            self.loop = True
            return self._run(function, tensors)
        self._tried = True
        return result

    def _run(self, function: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        template: list[Any] = []

        def tensors_of(*slices: Tensor) -> list[Tensor]:
            leaves, spec = pytree.tree_flatten(function(*slices))
            template[:] = [spec, [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]]
            return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

        if self.loop:
            rows = [tensors_of(*slices) for slices in zip(*(tensor.unbind(0) for tensor in tensors), strict=True)]
            results = [torch.stack(parts) for parts in zip(*rows, strict=True)]
        else:
            with general_attention():
                results = vmap(tensors_of, randomness="error")(*tensors)
        spec, leaves = template
        waiting = iter(results)
        return pytree.tree_unflatten([next(waiting) if leaf is None else leaf[0] for leaf in leaves], spec)


def lift_function(lifted: Lifted, function: Callable[..., Any], call: Call, args: Any, kwargs: Any) -> Any:
    """A function of tensors, on values of all members.

    Args:
        lifted: Remembers how the function can be run.
        function: A function of one member's tensors.
        call: The run.
        args: A nest with values in it.
        kwargs: Likewise.

    Returns:
        The nest that ``function`` returns, with values for tensors.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    own = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Value) and leaf.layout != "shared"]
    filled = [leaf.tensor if isinstance(leaf, Value) and leaf.layout == "shared" else leaf for leaf in leaves]

    def one(*tensors: Tensor) -> Any:
        given = list(filled)
        for i, tensor in zip(own, tensors, strict=True):
            given[i] = tensor
        positional, named = pytree.tree_unflatten(given, spec)
        return function(*positional, **named)

    if not own:
        return pytree.tree_map_only(Tensor, lambda tensor: Value(tensor, "shared"), one())
    result = lifted.run(one, [plain(leaves[i], call.members) for i in own])
    return pytree.tree_map_only(Tensor, lambda tensor: Value(tensor, "plain"), result)


def lift_module(lifted: Lifted, module: nn.Module, names: Names, call: Call, args: Any, kwargs: Any) -> Any:
    """A module of the model, on values of all members, with each member's parameters, buffers, noise and rates.

    Args:
        lifted: Remembers how the module can be run.
        module: The module, in the mode in which it is to run, with :class:`Site` for dropout.
        names: Its parameters and buffers by their names in the model.
        call: The run; gets the module's new buffers.
        args: A nest with values in it.
        kwargs: Likewise.

    Returns:
        The nest that the module returns, with values for tensors.
    """
    sites = [part for part in module.modules() if isinstance(part, Site | Branch | Mask)]
    rates = {
        site.rate: call.hyper[site.rate] for site in sites if isinstance(site.rate, str) and site.rate in call.hyper
    }
    state = {local: call.tensor(name) for local, name in names.items()}
    changing = [local for local, name in names.items() if name in call.buffers]
    state |= {local: state[local].clone() for local in changing}  # the module may write into its buffers
    noisy = call.noise is not None and any(isinstance(site, Site) for site in sites)
    noise = {"key": call.noise.key, "step": call.noise.step} if noisy else {}  # type: ignore[union-attr]
    first = call.draws

    def one(state: Any, rates: Any, noise: Any, args: Any, kwargs: Any) -> Any:
        own = None
        if noise and call.noise is not None:
            own = replace(call.noise, key=noise["key"].unsqueeze(0), step=noise["step"].unsqueeze(0))
        hyper = {name: rate.unsqueeze(0) for name, rate in rates.items()}
        alone = Call({}, {}, hyper, own, 1, call.silent, first)
        for site in sites:
            site.call = alone
        state = dict(state)
        output = functional_call(module, state, args, kwargs)
        call.draws = alone.draws
        return output, {local: state[local] for local in changing}

    stacked = pytree.tree_map(lambda tensor: Value(tensor, "plain"), (state, rates, noise))
    output, buffers = lift_function(lifted, one, call, (*stacked, args, kwargs), {})
    call.buffers.update({names[local]: plain(buffer, call.members) for local, buffer in buffers.items()})
    return output


@contextmanager
def general_attention() -> Iterator[None]:
    """Attention in plain operators: torch's fused kernels have no form for several members."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
