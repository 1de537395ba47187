"""Choices between modules, skips and widths: alone, and in one network that all of them share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stacked_models import Stacked
from torch import nn

import luthier as lt
from luthier.data import Split, Splits
from luthier.errors import TaskError
from luthier.stack import Noise
from luthier.stack.settle import RULE
from luthier.task.choices import settle

SPACE = lt.Space(
    norm=lt.Choice(["layer", "none", "batch"]),  # another order than the layer's
    width=lt.Choice([4, 8, 12]),
    skip=lt.Choice([False, True]),
    activation=lt.Choice(["relu", "gelu"], when={"skip": False}),
    dropout=lt.Float(0.0, 0.5, when={"skip": False}),
    depth=lt.Choice([1, 2]),
    lr=lt.Float(1e-3, 0.1, log=True),
)


def network(config: object = None) -> nn.Module:
    """Choices of every kind, one inside another, with normalisation and noise."""
    activation = lt.nn.Choose("activation", {"relu": nn.ReLU(), "gelu": nn.GELU()})
    norm = lt.nn.Choose("norm", {"none": nn.Identity(), "batch": nn.BatchNorm1d(12), "layer": nn.LayerNorm(12)})
    block = nn.Sequential(nn.Linear(12, 12), activation, lt.nn.Dropout("dropout"))
    two = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 3))
    head = lt.nn.Choose("depth", {1: nn.Linear(12, 3), 2: two})
    return nn.Sequential(nn.Linear(5, 12), norm, lt.nn.Width("width"), nn.ReLU(), lt.nn.Skip("skip", block), head)


def data() -> Splits:
    generator = torch.Generator().manual_seed(0)
    parts = [
        Split(torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator)) for n in (64, 20, 20)
    ]
    return Splits(*parts)


def task(**settings: object) -> lt.TorchTask:
    given: dict = {"space": SPACE, "model": network, "data": data(), "loss": lt.losses.cross_entropy, "batch_size": 16}
    return lt.TorchTask(**{**given, **settings})


@pytest.fixture(scope="module")
def both() -> lt.TorchTask:
    return task()


CONFIGS = SPACE.sample(np.random.default_rng(0), 12)


def names_in_shared(shared, config, key=7):
    """The child's parameters by their names in the shared network."""
    model = shared._model(config, key)
    names = {id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    child = settle(model, config)
    return {name: names[id(tensor)] for name, tensor in [*child.named_parameters(), *child.named_buffers()]}


@pytest.mark.parametrize("rule", [2, RULE])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_child_under_shared_weights_is_the_plain_child_bit_for_bit(config, rule):
    """In the same form: a child is never in a stack, and runs as a member in turn does; under rule 2 by vmap."""
    both = task().under(rule)
    plain, shared = both.program(config), both.sharing().program(config)
    if rule == RULE:
        plain.network.turn("as a child does")
    alone, child = plain.init(config, 7), shared.init(config, 7)
    names = names_in_shared(shared, config)
    inputs, targets = both.tensors("train")
    batch, noise = (inputs[:16], targets[:16]), Noise(alone["key"], alone["t"])
    assert all(torch.equal(alone["params"][n], child["params"][names[n]]) for n in alone["params"])
    for _ in range(3):
        expected = plain.losses(alone["params"], alone["buffers"], alone["hyper"], batch, noise)
        found = shared.losses(child["params"], child["buffers"], child["hyper"], batch, noise)
        assert torch.equal(found[0], expected[0])
        assert all(torch.equal(found[1][names[n]], expected[1][n]) for n in expected[1])
        _, gradients, buffers = plain.gradient(alone, alone["hyper"], batch)
        _, of_all, buffers_of_all = shared.gradient(child, child["hyper"], batch)
        inside = {names[n] for n in gradients}
        assert all(torch.equal(of_all[names[n]], g) for n, g in gradients.items())
        assert all(not bool(g.any()) for n, g in of_all.items() if n not in inside), "an unchosen option has a gradient"
        alone = plain.apply(alone, alone["hyper"], gradients, buffers)
        child = shared.apply(child, child["hyper"], of_all, buffers_of_all)
    for name, value in plain.evaluate(alone, "valid").items():
        assert torch.equal(shared.evaluate(child, "valid")[name], value)


def test_a_choice_is_static_alone_and_dynamic_where_weights_are_shared(both):
    config = CONFIGS[0]
    assert {"norm", "skip", "depth"} <= set(dict(both.static(config))) and "width" not in dict(both.static(config))
    assert both.sharing().static(config) == ()
    assert both.sharing() is both.sharing() and both.sharing().sharing() is both.sharing()
    inactive = next(config for config in CONFIGS if config["skip"])
    assert "activation" not in dict(both.static(inactive)), "a layer inside an option that is not chosen is not there"


def test_only_the_chosen_option_is_trained(both):
    config = {**CONFIGS[0], "norm": "none", "skip": True, "depth": 1}
    config = {name: value for name, value in config.items() if name not in ("activation", "dropout")}
    program = both.program(config)
    assert sum(p.numel() for p in program.init(config, 0)["params"].values()) == 5 * 12 + 12 + 12 * 3 + 3


def test_members_with_other_decisions_run_in_turn(both):
    shared = both.sharing().program(CONFIGS[0])
    assert shared.execution.form == "loop"
    full = {**{"activation": "relu", "dropout": 0.1}, **CONFIGS[0]}
    states = [shared.init({**full, **config}, key) for key, config in enumerate(CONFIGS[:4])]
    stack = torch.utils._pytree.tree_map(lambda *tensors: torch.cat(tensors), *states)
    batch = tuple(tensor[:16] for tensor in both.tensors("train"))
    losses, gradients, buffers = shared.gradient(stack, stack["hyper"], batch)
    for i, state in enumerate(states):
        loss, gradient, buffer = shared.gradient(state, state["hyper"], batch)
        assert torch.equal(loss[0], losses[i])
        assert all(torch.allclose(gradient[n][0], gradients[n][i], atol=1e-6) for n in gradient)
        assert all(torch.equal(buffer[n][0], buffers[n][i]) for n in buffer)


def test_a_width_is_a_mask_and_has_one_value_a_member():
    model = nn.Sequential(nn.Linear(3, 6), lt.nn.Width("width"), nn.Linear(6, 2))
    stacked = Stacked(model, torch.randn(4, 3), {"width": 6.0})
    params = {name: p.detach().expand(2, *p.shape).clone() for name, p in model.named_parameters()}
    inputs = torch.randn(4, 3)
    outputs, _ = stacked(params, {}, inputs, {"width": torch.tensor([2.0, 6.0])})
    narrow = model[2].weight[:, :2] @ (model[0](inputs)[:, :2].t()) + model[2].bias[:, None]
    assert torch.allclose(outputs[0], narrow.t(), atol=1e-6)
    assert torch.allclose(outputs[1], model(inputs), atol=1e-6)


def test_a_width_of_channels():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), lt.nn.Width("width"), nn.Flatten())
    stacked = Stacked(model, torch.randn(2, 1, 5, 5), {"width": 4.0})
    params = {name: p.detach()[None] for name, p in model.named_parameters()}
    outputs, _ = stacked(params, {}, torch.randn(2, 1, 5, 5), {"width": torch.tensor([1])})
    assert bool(outputs[..., :9].any()) and not bool(outputs[..., 9:].any())


def test_a_module_in_two_options_is_one_set_of_weights():
    layer = nn.Linear(5, 5)
    twice = nn.Sequential(layer, nn.ReLU(), layer)

    def model(config: object) -> nn.Module:
        return nn.Sequential(lt.nn.Choose("depth", {1: layer, 2: twice}), nn.Linear(5, 3))

    tied = task(space=lt.Space(depth=lt.Choice([1, 2]), lr=lt.Float(0.01, 0.1)), model=model)
    program = tied.sharing().program({"depth": 1, "lr": 0.05})
    assert len(program.init({"depth": 1, "lr": 0.05}, 0)["params"]) == 4
    for depth in (1, 2):
        config = {"depth": depth, "lr": 0.05}
        state, alone = program.init(config, 0), tied.program(config).init(config, 0)
        batch = tuple(tensor[:16] for tensor in tied.tensors("train"))
        found = program.gradient(state, state["hyper"], batch)[0]
        assert torch.equal(found, tied.program(config).gradient(alone, alone["hyper"], batch)[0])


def test_a_forward_that_branches_on_values_shares_weights_too():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice = lt.nn.Choose(
                "depth", {1: nn.Linear(5, 3), 2: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))}
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.choice(x) if x.sum() > -1e9 else x

    space = lt.Space(depth=lt.Choice([1, 2]), lr=lt.Float(0.01, 0.1))
    shared = task(space=space, model=lambda config: Branching()).sharing()
    program = shared.program({"depth": 1, "lr": 0.05})
    assert program.execution.form == "loop"
    batch = tuple(tensor[:16] for tensor in shared.tensors("train"))
    for depth, count in ((1, 2), (2, 4)):
        state = program.init({"depth": depth, "lr": 0.05}, 0)
        _, gradients, _ = program.gradient(state, state["hyper"], batch)
        assert sum(bool(g.any()) for g in gradients.values()) == count


def refused(**settings: object) -> TaskError:
    with pytest.raises(TaskError) as error:
        made = task(**settings)
        made.sharing().program(made.space.sample(np.random.default_rng(0)))
    return error.value


def without(*names: str, **domains: object) -> lt.Space:
    rest = {name: domain for name, domain in SPACE.domains.items() if name not in names}
    return lt.Space({**rest, **domains})


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (without("norm"), "norm"),
        (without("width"), "width"),
        (without("norm", norm=lt.Choice(["none", "layer"])), "norm"),
        (without("norm", norm=lt.Choice(["none", "layer", "group"])), "norm"),
        (without("width", width=lt.Float(1.0, 12.0)), "width"),
        (without("depth", depth=lt.Choice(["1", "2"])), "depth"),
        (without("depth", depth=lt.Int(1, 2)), "depth"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space, named):
    error = refused(space=space)
    assert named in str(error) and error.where.startswith("model, ") and error.remedy
    with pytest.raises(TaskError, match=named):
        task(space=space).program(space.sample(np.random.default_rng(0)))


def test_a_name_that_is_inactive_where_a_layer_asks_for_it_is_refused():
    def model(config: object) -> nn.Module:
        head = lt.nn.Choose("depth", {1: nn.Linear(5, 3), 2: nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3))})
        return nn.Sequential(lt.nn.Skip("skip", nn.Linear(5, 5)), head)

    rate = lt.Float(0.01, 0.1)
    space = lt.Space(skip=lt.Choice([False, True]), depth=lt.Choice([1, 2], when={"skip": False}), lr=rate)
    made = task(space=space, model=model)
    assert made.program({"skip": False, "depth": 2, "lr": 0.05})
    with pytest.raises(TaskError, match="the configuration has no 'depth'") as error:
        made.program({"skip": True, "lr": 0.05})
    assert error.value.where == "model, 1 (Choose)" and "active" in error.value.remedy


def test_shapes_that_do_not_fit_are_named_with_their_layer():
    def model(config: object) -> nn.Module:
        layers = {1: nn.Linear(5, 8), 2: nn.Linear(5, 9)}
        return nn.Sequential(lt.nn.Choose("depth", layers), nn.Sequential(nn.ReLU(), nn.Linear(8, 3)))

    error = refused(model=model, space=lt.Space(depth=lt.Choice([1, 2]), lr=lt.Float(0.01, 0.1)))
    assert "1.1 (Linear)" in error.what and "(16, 9)" in error.what


@pytest.mark.parametrize(
    "make",
    [
        lambda: lt.nn.Choose("", {"a": nn.ReLU()}),
        lambda: lt.nn.Choose("a", {}),
        lambda: lt.nn.Choose("a", {"b": torch.relu}),  # type: ignore[dict-item]
        lambda: lt.nn.Width(""),
        lambda: lt.nn.Width("w", axis=0),
    ],
)
def test_layers_that_cannot_be_are_refused(make):
    with pytest.raises(TaskError) as error:
        make()
    assert error.value.where.startswith("lt.nn.") and error.value.remedy


def test_outside_luthier_a_model_runs_with_its_first_options():
    model = network().eval()
    assert model(torch.randn(2, 5)).shape == (2, 3)
    assert "Choose" in repr(model) and "'norm'" in repr(model)
