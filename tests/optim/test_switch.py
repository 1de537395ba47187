"""A switch between optimizers: each family as it is alone, and slots that stand still while others move."""

from __future__ import annotations

import pytest
import torch

import luthier as lt
from luthier.errors import TaskError
from luthier.optim.switch import Switch, alone

FAMILIES = {
    "sgd": lt.optim.SGD(momentum=0.9, weight_decay=1e-3),
    "adam": lt.optim.Adam(weight_decay=1e-2),
    "adamw": lt.optim.Adam(decoupled=True, weight_decay=1e-2, clip_norm=0.5),
}
SWITCH = Switch("optimizer", FAMILIES)


def weights(members=1):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(members, *shape, generator=generator) for name, shape in (("w", (3, 2)), ("b", (3,)))}


def gradients(step, members=1):
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(p.shape, generator=generator) for name, p in weights(members).items()}


def positions(name, members=1):
    return torch.full((members,), list(FAMILIES).index(name))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_under_one_family_is_that_family_bit_for_bit(family):
    hyper = {"lr": torch.tensor([0.05])}
    params, plain = weights(), weights()
    state, slots = SWITCH.init(params, hyper), FAMILIES[family].init(plain, hyper)
    for t in range(6):
        step = torch.tensor([t])
        plain, slots = FAMILIES[family].update(plain, gradients(t), slots, hyper, step)
        params, state = SWITCH.update(params, gradients(t), state, {**hyper, "optimizer": positions(family)}, step)
        assert all(torch.equal(params[n], plain[n]) for n in plain)
        assert all(torch.equal(state[family][s][n], slots[s][n]) for s in slots for n in plain)
        for other in set(FAMILIES) - {family}:
            assert all(not bool(x.any()) for tensors in state[other].values() for x in tensors.values())


def test_each_member_has_its_own_family_as_if_alone():
    names = ["adam", "sgd", "adamw", "sgd"]
    hyper = {"lr": torch.tensor([0.05, 0.1, 0.01, 0.2])}
    chosen = torch.tensor([list(FAMILIES).index(name) for name in names])
    params = weights(4)
    state = SWITCH.init(params, hyper)
    singles = [({n: p[i : i + 1] for n, p in params.items()}, name) for i, name in enumerate(names)]
    slots = [FAMILIES[name].init(p, {}) for p, name in singles]
    for t in range(4):
        given = gradients(t, 4)
        params, state = SWITCH.update(params, given, state, {**hyper, "optimizer": chosen}, torch.full((4,), t))
        for i, (p, name) in enumerate(singles):
            mine = {n: g[i : i + 1] for n, g in given.items()}
            lr = {"lr": hyper["lr"][i : i + 1]}
            p, slots[i] = FAMILIES[name].update(p, mine, slots[i], lr, torch.tensor([t]))
            singles[i] = p, name
            assert all(torch.equal(params[n][i : i + 1], p[n]) for n in p)


def test_what_is_left_out_counts_no_update():
    """Adam's correction of a weight that joins late is that of its own first update."""
    hyper = {"lr": torch.tensor([0.1]), "optimizer": positions("adam")}
    params = weights()
    state = SWITCH.init(params, hyper)
    for t in range(5):
        part = {family: {slot: {"w": x["w"]} for slot, x in slots.items()} for family, slots in state.items()}
        moved, part = SWITCH.update({"w": params["w"]}, {"w": gradients(t)["w"]}, part, hyper, torch.tensor([t]))
        params = {**params, **moved}
        state = {f: {slot: {**x, **part[f][slot]} for slot, x in slots.items()} for f, slots in state.items()}
    late, _ = SWITCH.update(params, gradients(9), state, hyper, torch.tensor([5]))
    fresh = FAMILIES["adam"].init({"b": params["b"]}, {})
    expected, _ = FAMILIES["adam"].update(
        {"b": params["b"]}, {"b": gradients(9)["b"]}, fresh, {"lr": torch.tensor([0.1])}, torch.tensor([0])
    )
    assert torch.equal(late["b"], expected["b"])
    assert state["adam"]["count"]["w"].item() == 5 and state["adam"]["count"]["b"].item() == 0


def test_one_optimizer_is_a_switch_of_one():
    hyper = {"lr": torch.tensor([0.05])}
    switch, params, plain = alone(FAMILIES["adam"]), weights(), weights()
    state, slots = switch.init(params, hyper), FAMILIES["adam"].init(plain, hyper)
    for t in range(3):
        params, state = switch.update(params, gradients(t), state, hyper, torch.tensor([t]))
        plain, slots = FAMILIES["adam"].update(plain, gradients(t), slots, hyper, torch.tensor([t]))
    assert all(torch.equal(params[n], plain[n]) for n in plain)


def test_in_a_training_of_its_own_it_is_the_family_that_the_configuration_names():
    space = lt.Space(lr=lt.Float(1e-3, 0.1), optimizer=lt.Choice(["sgd", "adam"]))
    families = {"sgd": lt.optim.SGD(momentum=0.9), "adam": lt.optim.adam}
    settings = {"model": lambda config: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))}
    settings |= {"data": lt.data.digits(), "loss": lt.losses.cross_entropy, "batch_size": 32}
    task = lt.TorchTask(space=space, optimizer=Switch("optimizer", families), **settings)
    plain = lt.TorchTask(space=lt.Space(lr=lt.Float(1e-3, 0.1)), optimizer=lt.optim.adam, **settings)
    assert task.program({"lr": 0.01, "optimizer": "adam"}).optimizer == lt.optim.adam
    assert dict(task.static({"lr": 0.01, "optimizer": "adam"})).keys() == {"optimizer"}
    assert plain.program({"lr": 0.01}).optimizer == lt.optim.adam


def test_what_cannot_be_is_refused():
    with pytest.raises(TaskError, match="'sgd' is"):
        Switch("optimizer", {"sgd": torch.optim.SGD})  # type: ignore[dict-item]
    with pytest.raises(TaskError, match="optimizer='lion'"):
        SWITCH({"optimizer": "lion"})
    with pytest.raises(TaskError, match="optimizer=None"):
        SWITCH({})
