"""Which adapters train a network, two members in a stack as each of them alone, and what the others say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree
from zoo.entry import Entry
from zoo.rows import same_bits, task_of

import luthier as lt
from luthier.adapt.plain import Plain

SPACE = lt.Space(lr=lt.Float(1e-3, 0.05, log=True), weight_decay=lt.Float(1e-5, 1e-2, log=True))
FAMILY = {"sgd": lt.optim.sgd, "adam": lt.optim.adam}
CONFIGS = [{"lr": 0.01, "weight_decay": 1e-3}, {"lr": 0.03, "weight_decay": 1e-4}]
ADAPTERS: dict[str, Callable[[], Any]] = {
    "pbt": Plain,
    "hypergradient": lt.adapt.Hypergradient,
    "implicit": lambda: lt.adapt.Bilevel("implicit", inner_steps=2, warmup=0.0, settings={"iterations": 2}),
    "unrolled": lambda: lt.adapt.Bilevel("unrolled", inner_steps=2, warmup=0.0),
    "hypernet": lambda: lt.adapt.Hypernet(inner_steps=1, warmup=0.0),
    "enas": lambda: lt.adapt.Enas(samples=2, steps=1, warmup=0.0),
}


def adapters_of(entry: Entry) -> dict[str, str]:
    """Return for each adapter "works", "to rounding" where last bits differ, "refused: …", or what is wrong.

    A member of PBT continues another's state with other hyperparameters; the controller of ENAS decides between two
    optimizers and their rates over one set of weights. The others move rate and weight decay as they can.
    """
    found = {}
    for name, make in ADAPTERS.items():
        try:
            found[name] = _found(entry, name, make())
        except lt.errors.LuthierError as error:
            found[name] = f"refused: {' '.join(str(error).split())}"
        except Exception as error:
            found[name] = f"error: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return found


def _found(entry: Entry, name: str, adapter: Any) -> str:
    space, settings, configs = SPACE, {}, CONFIGS
    if name == "enas":
        space = lt.Space(optimizer=lt.Choice(list(FAMILY)), **SPACE.domains)
        settings, configs = {"optimizer": lt.optim.Switch("optimizer", FAMILY)}, [{"optimizer": "sgd", **CONFIGS[0]}]
    task = task_of(entry, 0.1, space=space, **settings)
    program = (task.sharing() if getattr(adapter, "shares_weights", False) else task).program(configs[0])
    train = [program.sources.example(rows=program.batch_size) for _ in range(getattr(adapter, "window", 1))]
    valid = program.sources.example("valid", program.batch_size) if adapter.needs_valid else None
    moved = [(config, {"lr": config["lr"] * 1.2}) for config in configs]

    def steps(states: list[Any], stacked: bool) -> list[Any]:
        for _ in range(2):
            parts = [_joined(states)] if stacked else states
            parts = [adapter.step(program, part, train, valid)[0] for part in parts]
            states = _apart(parts[0], len(configs)) if stacked else parts
            if name == "pbt":  # each goes on from the other, at a rate of its own
                states = [
                    adapter.init(program, {**config, **new}, 7 + i, states[1 - i], new)
                    for i, (config, new) in enumerate(moved)
                ]
        return states

    starts = [adapter.init(program, config, key) for key, config in enumerate(configs)]
    state, together = _joined(steps(starts, True)), _joined(steps(starts, False))
    numbers = [t for t in pytree.tree_leaves(state["params"]) if not t.is_complex()]
    if not all(bool(torch.isfinite(t).all()) for t in numbers):
        return "wrong: weights that are not finite"
    if same_bits(state, together):
        return "works"
    near = [_near(a, b) for a, b in zip(*map(pytree.tree_leaves, (state["params"], together["params"])), strict=True)]
    return "to rounding" if all(near) else "wrong: stacked differs from alone"


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1e-6))


def _joined(states: list[Any]) -> Any:
    return pytree.tree_map(lambda *rows: torch.cat(rows), *states)


def _apart(state: Any, members: int) -> list[Any]:
    return [pytree.tree_map(lambda tensor, i=i: tensor[i : i + 1], state) for i in range(members)]
