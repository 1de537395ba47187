"""The rule for the form: which networks run in turn, how they lie in memory, and the rule that a stored study keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import luthier as lt
from luthier.adapt.plain import Plain
from luthier.optim.adam import MISSED, Adam
from luthier.stack import Noise
from luthier.stack.settle import RULE
from luthier.store import open_store
from luthier.task.program import Program

torch.set_num_threads(1)


class Function(nn.Module):
    """A network from its parts and a function of (parts, inputs)."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self._function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def encoder(config: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    return Function(
        lambda m, x: m.head(m.body(m.begin(x.view(-1, 8, 8))).mean(1)),
        **{"begin": nn.Linear(8, 16), "body": nn.TransformerEncoder(layer, 1), "head": nn.Linear(16, 10)},
    )


def task(model: Any, **settings: Any) -> lt.TorchTask:
    return lt.TorchTask(
        space=lt.Space(lr=lt.Float(1e-3, 1e-1, log=True)), model=model, data=lt.data.digits(flat=True, train=120),
        loss=F.cross_entropy, batch_size=40, **settings,
    )  # fmt: skip


def pooled(x_of: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], nn.Module]:
    """Convolutions and pooling over images of 32×32, and what follows of the code under test."""

    def made(m: Any, x: Tensor) -> Tensor:
        images = F.interpolate(x.view(-1, 1, 8, 8), scale_factor=4)
        return m.head(x_of(m, F.max_pool2d(m.b(F.max_pool2d(torch.relu(m.a(images)), 2)), 4)))

    parts = {"a": (1, 8), "b": (8, 16)}
    return lambda config: Function(
        made, head=nn.Linear(256, 10), **{n: nn.Conv2d(i, o, 3, padding=1) for n, (i, o) in parts.items()}
    )


def trained(program: Program, keys: list[int], steps: int = 3) -> dict[str, Tensor]:
    """The weights of members after some steps, side by side."""
    adapter, batch = Plain(), program.sources.example(rows=40)
    states = [adapter.init(program, {"lr": 0.02 * (key + 1)}, key) for key in keys]
    stack = torch.utils._pytree.tree_map(lambda *rows: torch.cat(rows), *states)
    for _ in range(steps):
        stack, _ = adapter.step(program, stack, [batch], None)
    return stack["params"]


def test_members_are_not_thrown_away_where_turns_cost_less() -> None:
    """Rule 1 added 16 members to eight for equal bits: a fifth of a plain loop's speed."""
    given = task(encoder)
    config = {"lr": 0.1}
    assert given.program(config).execution.form == "loop" and "thrown away" in given.program(config).execution.why
    assert given.under(1).program(config).execution.form == "vmap" and given.under(1) is given.under(1)
    assert given.under(RULE) is given and given.under(1).sharing().rule == 1
    small = task(lambda config: nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 10)))
    assert small.program(config).execution.form == "vmap"


def test_children_of_shared_weights_run_by_themselves() -> None:
    """Each is a stack of one: rule 2 ran it beside members that were thrown away, up to seventeen."""
    convolutions = {3: nn.Conv2d(1, 8, 3), 5: nn.Conv2d(1, 8, 5)}
    given = lt.TorchTask(
        space=lt.Space(size=lt.Choice([3, 5]), lr=lt.Float(1e-3, 1e-1, log=True)),
        model=lambda config: nn.Sequential(lt.nn.Choose("size", convolutions), nn.GELU(), nn.LazyLinear(10)),
        data=lt.data.digits(train=120), loss=lambda x, y: F.cross_entropy(x.mean((1, 2)), y), batch_size=40,
    )  # fmt: skip
    config, forms = {"size": 3, "lr": 0.1}, {}
    for rule in (2, RULE):
        forms[rule] = given.under(rule).sharing().program(config).network._mapped.form
    assert (forms[2].kind, forms[RULE].kind) == ("vmap", "loop") and forms[2].least == 2


@pytest.mark.parametrize("code", ["flatten", "view", "view in a branch"])
def test_images_have_their_channels_last_where_code_can_bear_it(code: str) -> None:
    seen: list[bool] = []

    def flat(m: Any, x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())
        if code == "view" or (code == "view in a branch" and float(m.a.bias.detach().sum()) > 1e6):
            return x.view(len(x), -1)
        return x.flatten(1)

    program = task(pooled(flat)).program({"lr": 0.1})
    last = program.network._mapped.form.channels_last
    assert program.execution.form == "loop" and last == (code != "view")
    seen.clear()
    stack = trained(program, [0, 1])
    assert all(seen) == last
    for key in (0, 1):
        alone = trained(program, [key])
        assert all(torch.equal(stack[name][key], alone[name][0]) for name in stack)
        torch.manual_seed(0)
        plain = program.module({"lr": 0.1}, Plain().init(program, {"lr": 0.1}, key)).train()
        optimizer, (x, y) = torch.optim.SGD(plain.parameters(), lr=0.02 * (key + 1)), program.sources.example(rows=40)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
        for name, p in plain.named_parameters():
            torch.testing.assert_close(stack[name][key], p.detach(), rtol=1e-4, atol=1e-5)
    state, batch = Plain().init(program, {"lr": 0.1}, 0), program.sources.example(rows=40)
    gradients = program.gradient(state, state["hyper"], batch)[1]
    assert all(g.is_contiguous() for g in gradients.values()), "an update goes over those of a stack in this order"
    if code == "view in a branch":  # which steps take only now: they run as they would have run without
        state["params"]["a.bias"] += 1e6
        assert program.gradient(state, state["hyper"], batch)[0].isfinite()


def test_images_that_are_measured_lie_as_they_do_in_a_plain_loop() -> None:
    def flat(m: Any, x: Tensor) -> Tensor:
        # by places in memory, which no comparison of training steps sees
        return x.flatten(1) if m.training else x.as_strided((len(x), x[0].numel()), (x[0].numel(), 1))

    program = task(pooled(flat)).program({"lr": 0.1})
    assert program.network._mapped.form.channels_last
    state = Plain().init(program, {"lr": 0.1}, 0)
    plain, valid = program.module({"lr": 0.1}, state).eval(), program.sources.splits.valid
    with torch.no_grad():
        expected = float(F.cross_entropy(plain(valid.inputs), valid.targets))
    assert float(program.evaluate(state, "valid")["loss"][0]) == pytest.approx(expected, rel=1e-5)


def test_a_study_of_an_earlier_version_keeps_its_rule(tmp_path: Path) -> None:
    """The database is as the version before wrote it: it knew no rule."""
    given: dict[str, Any] = {"epochs": 1, "progress": False, "name": "old", "store": tmp_path / "old.db"}
    study = lt.tune(task(encoder), "random", trials=1, **given)
    assert study.settings["rule"] == RULE and study.execution.startswith("in a loop")
    store = open_store(tmp_path / "old.db")
    settings = store.settings("old")
    del settings["rule"]
    store.update_settings("old", settings)
    store.close()
    study = lt.tune(task(encoder), "random", trials=2, **given)
    assert study.execution.startswith("a stack by vmap") and "rule" not in study.settings


def test_adam_counts_the_steps_that_missed_a_parameter_in_one_call_where_none_did() -> None:
    generator = torch.Generator().manual_seed(0)
    tree = lambda: {"a": torch.randn(2, 3, generator=generator), "b": torch.randn(2, generator=generator)}  # noqa: E731
    optimizer, params, gradients, step = Adam(lr=0.1), tree(), tree(), torch.tensor([4, 4])
    slots = {"first": tree(), "second": {name: x.square() for name, x in tree().items()}}
    none, some = ({name: torch.tensor(count) for name in params} for count in ([0, 0], [0, 2]))
    expected, _ = optimizer.update(params, gradients, slots, {}, step)
    same, _ = optimizer.update(params, gradients, {**slots, MISSED: none}, {}, step)
    found, _ = optimizer.update(params, gradients, {**slots, MISSED: some}, {}, step)
    later, _ = optimizer.update(params, gradients, slots, {}, step - 2)
    for name in params:
        assert torch.equal(same[name], expected[name])
        assert torch.equal(found[name][0], expected[name][0]) and torch.equal(found[name][1], later[name][1])


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "decoupled": True}, {"clip_norm": 0.5}])
def test_adam_at_once_has_the_bits_of_one_parameter_after_the_other(settings: dict[str, Any]) -> None:
    """A gradient that is asked for keeps it from torch's calls for many tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5, 7), "b": (3, 9), "c": (3,), "d": (3, 2, 4, 3, 3)}
    draw = lambda: {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}  # noqa: E731
    hyper = {"lr": torch.tensor([0.1, 0.2, 0.3]), "beta1": torch.tensor([0.9, 0.8, 0.5])}
    optimizer, params = Adam(**settings), draw()
    one, other, slots, apart = params, params, optimizer.init(params, hyper), optimizer.init(params, hyper)
    for count in range(3):
        gradients, step = draw(), torch.full((3,), count)
        one, slots = optimizer.update(one, gradients, slots, hyper, step)
        asked = {name: g.clone().requires_grad_() for name, g in gradients.items()}
        other, apart = optimizer.update(other, asked, apart, hyper, step)
        other = {name: p.detach() for name, p in other.items()}
        apart = {slot: {name: x.detach() for name, x in tree.items()} for slot, tree in apart.items()}
    assert all(torch.equal(one[name], other[name]) for name in params)
    assert all(torch.equal(slots[slot][name], apart[slot][name]) for slot in slots for name in params)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_attention_of_members_in_turn_is_torchs_own_where_it_is_differentiated_once(rate: float) -> None:
    def attend(m: Any, x: Tensor) -> Tensor:
        q = m.a(x.view(-1, 8, 8)).unflatten(-1, (2, 8)).transpose(1, 2)
        kernels.append(torch.backends.cuda.flash_sdp_enabled())
        out = F.scaled_dot_product_attention(q, q, q, is_causal=True, dropout_p=rate).transpose(1, 2).flatten(2)
        return m.head(F.dropout(out.mean(1) if float(out.detach().sum()) < 1e9 else out.sum(1), 0.2))

    kernels: list[bool] = []
    program = task(lambda config: Function(attend, a=nn.Linear(8, 16), head=nn.Linear(16, 10))).program({"lr": 0.1})
    assert program.execution.form == "loop"
    kernels.clear()
    stack = trained(program, [0, 1])
    program.evaluate(Plain().init(program, {"lr": 0.1}, 0), "valid")
    assert kernels and all(kernels)
    state, batch = Plain().init(program, {"lr": 0.02}, 0), program.sources.example(rows=40)
    assert all(torch.equal(stack[name][0], tensor[0]) for name, tensor in trained(program, [0]).items())
    losses, gradients, _ = program.gradient(state, state["hyper"], batch)
    params = {name: p.detach().requires_grad_() for name, p in state["params"].items()}
    twice, _ = program.losses(params, state["buffers"], state["hyper"], batch, Noise(state["key"], state["t"]))
    found = dict(zip(params, torch.autograd.grad(twice.sum(), list(params.values()), create_graph=True), strict=True))
    torch.testing.assert_close(losses, twice.detach())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, found[name].detach(), rtol=1e-4, atol=1e-6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found["a.weight"].square().sum(), params["a.weight"]))
