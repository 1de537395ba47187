"""The :mod:`luthier.nn` layers of a model that decide between modules, held against the space and settled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from luthier.errors import TaskError
from luthier.nn import Choose, Width
from luthier.space import Choice, Int, Space

Owners = dict[str, list[dict[str, int]]]
"""For each parameter or buffer: the decisions under which it is part of the network, any one of them being enough."""


def settle(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """The network of one configuration: in place of each ``Choose`` the option that ``config`` names.

    Args:
        model: Changed in place.
        config: Asked for the names of those layers alone that are part of the network.

    Raises:
        TaskError: If ``config`` has no such name, or the layer no such option.
    """
    return _settled(model, config, "", {})


def _settled(module: nn.Module, config: Mapping[str, Any], path: str, seen: dict[int, nn.Module]) -> nn.Module:
    while isinstance(module, Choose):
        module = module.options[_place(module, config, path)]
    if id(module) not in seen:
        seen[id(module)] = module
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = _settled(child, config, f"{path}.{name}".lstrip("."), seen)
    return module


def _place(layer: Choose, config: Mapping[str, Any], path: str) -> int:
    if layer.name not in config:
        raise TaskError(
            f"the configuration has no {layer.name!r}",
            where=f"model, {path or 'itself'} (Choose)",
            remedy=f"Put {layer.name}=lt.Choice({list(layer.values)}) into the space, active where the layer is used.",
        )
    value = config[layer.name]
    for i, option in enumerate(layer.values):
        if option == value and isinstance(option, bool) == isinstance(value, bool):
            return i
    raise TaskError(
        f"{layer.name}={value!r} is none of its options",
        where=f"model, {path or 'itself'} (Choose)",
        remedy=f"Its options are {', '.join(map(repr, layer.values))}: those of the space must be the same.",
    )


def check_choices(model: nn.Module, space: Space) -> None:
    """Refuse layers that the space does not decide on as they say.

    Raises:
        TaskError: If a name is not in the space, or its options or whole numbers are not those of the layer.
    """
    for path, layer in model.named_modules():
        if isinstance(layer, Choose | Width):
            kind, domain = type(layer).__name__, space.domains.get(layer.name)
            where = f"model, {path or 'itself'} ({kind})"
            wanted = f"lt.Choice({list(layer.values)})" if isinstance(layer, Choose) else "lt.Int(1, …)"
            if domain is None:
                what = f"there is no hyperparameter {layer.name!r} in the space"
                raise TaskError(what, where=where, remedy=f"Put {layer.name}={wanted} into it.")
            if not (_fits(layer, domain) if isinstance(layer, Choose) else _whole(domain)):
                raise TaskError(
                    f"{layer.name}={domain!r} in the space does not fit the layer",
                    where=where,
                    remedy=f"Write {layer.name}={wanted}, or give the layer other options.",
                )


def _fits(layer: Choose, domain: Any) -> bool:
    return isinstance(domain, Choice) and {(type(v), v) for v in domain.options} == {(type(v), v) for v in layer.values}


def _whole(domain: Any) -> bool:
    if isinstance(domain, Choice):
        return all(type(option) is int and option > 0 for option in domain.options)
    return isinstance(domain, Int) and domain.low > 0


def arrange(model: nn.Module, space: Space) -> nn.Module:
    """The model with the options of every ``Choose`` in the order of the space, so that positions agree; in place."""
    for layer in model.modules():
        if isinstance(layer, Choose):
            domain = space.domains[layer.name]
            assert isinstance(domain, Choice), "check_choices has been there"
            order = [layer.values.index(option) for option in domain.options]
            layer.options = nn.ModuleList([layer.options[i] for i in order])
            layer.values = tuple(domain.options)  # pyright: ignore[reportAttributeAccessIssue]  # as they were
    return model


def owners(model: nn.Module) -> Owners:
    """Under which positions of which choices each parameter and buffer takes part."""
    first: dict[int, str] = {}
    found: Owners = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for path, tensor in tensors:
        found.setdefault(first.setdefault(id(tensor), path), []).append(dict(_above(model, path)))
    return found


def _above(model: nn.Module, path: str) -> Iterator[tuple[str, int]]:
    """The choices that stand above a tensor, and the option of each that holds it."""
    module, parts = model, path.split(".")
    for i, part in enumerate(parts[:-1]):
        if isinstance(module, Choose):
            yield module.name, int(parts[i + 1])  # of "options.2.weight"
        module = getattr(module, part)
