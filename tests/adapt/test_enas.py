"""The controller over shared weights: what children are worth, what they leave alone, and what comes of a search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import luthier as lt
from luthier.adapt.children import ChildTraining, judge, part_of, put_back
from luthier.adapt.controller import policy_of
from luthier.adapt.enas import Enas
from luthier.data import Split, Splits
from luthier.errors import MethodError
from luthier.jobs import Job
from luthier.policy.reinforce import Reinforce
from luthier.seeds import Seeds
from luthier.task.batches import Batches
from luthier.testing.adapters import equal
from luthier.train import Work
from luthier.train.stack import run_stack

SPACE = lt.Space(
    norm=lt.Choice(["none", "layer"]),
    depth=lt.Choice([1, 2]),
    optimizer=lt.Choice(["sgd", "adam"]),
    lr=lt.Float(1e-3, 0.1, log=True),
    momentum=lt.Float(0.0, 0.95, when={"optimizer": "sgd"}),
    weight_decay=lt.Float(1e-6, 1e-2, log=True),
)
SWITCH = lt.optim.Switch("optimizer", {"sgd": lt.optim.sgd, "adam": lt.optim.adam})


def network(config: object) -> nn.Module:
    norm = lt.nn.Choose("norm", {"none": nn.Identity(), "layer": nn.LayerNorm(16)})
    deep = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 10))
    layers = nn.Flatten(), nn.Linear(64, 16), norm, nn.Tanh()
    return nn.Sequential(*layers, lt.nn.Choose("depth", {1: nn.Linear(16, 10), 2: deep}))


def task(**settings: object) -> lt.TorchTask:
    given: dict = {"space": SPACE, "model": network, "data": lt.data.digits(), "loss": lt.losses.cross_entropy}
    given |= {"optimizer": SWITCH, "batch_size": 32, "metrics": {"accuracy": lt.metrics.accuracy}}
    return lt.TorchTask(**{**given, **settings})


SAFE = lt.optim.Adam(lr=1e-3)
CHILD = {"norm": "none", "depth": 2, "optimizer": "sgd", "lr": 0.05, "momentum": 0.6, "weight_decay": 1e-3}


@pytest.fixture(scope="module")
def double():
    """Program, adapter and state of a search in float64, after some steps of plain training."""
    torch.set_num_threads(1)
    program = task(dtype=torch.float64).sharing().program(CHILD)
    state = Enas().init(program, CHILD, 3)
    hyper = program.hyper(CHILD)
    batches = Batches(program, "train", Seeds(0))
    for t in range(20):
        part = part_of(program, state, hyper)
        _, gradients, buffers = program.gradient(part, hyper, batches.at(t))
        state = put_back(state, program.apply(part, hyper, gradients, buffers))
    return program, state, [batches.at(20 + i) for i in range(3)], Batches(program, "valid", Seeds(0)).at(0)


def judged(double, response="unrolled", config=CHILD, floats=("lr", "momentum", "weight_decay"), **settings):
    program, state, batches, valid = double
    hyper = program.hyper(config)
    problem = ChildTraining(program, part_of(program, state, hyper), {n: hyper[n] for n in floats}, batches, valid)
    return judge(problem, response, settings)


def finite_difference(double, name, config=CHILD):
    """The derivative of the reward after the child's steps, by training twice more."""
    step = 1e-6 * config[name]
    up, down = (judged(double, config={**config, name: config[name] + sign * step}, floats=())[1] for sign in (1, -1))
    return float(((up.direct + up.response) - (down.direct + down.response)) / (2 * step))


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_unrolled_slopes_agree_with_finite_differences(double, name):
    slope = float(judged(double)[1].slopes[name])
    assert slope == pytest.approx(finite_difference(double, name), rel=1e-5)


def test_unrolled_slopes_under_adam_agree_with_finite_differences(double):
    config = {n: v for n, v in CHILD.items() if n != "momentum"} | {"optimizer": "adam", "lr": 0.01}
    slope = float(judged(double, config=config, floats=("lr", "weight_decay"))[1].slopes["lr"])
    assert slope == pytest.approx(finite_difference(double, "lr", config), rel=1e-4)


def test_identity_is_exact_for_one_step_and_near_for_a_few(double):
    program, state, batches, valid = double
    one = judged((program, state, batches[:1], valid), "identity")[1]
    for name in ("lr", "weight_decay"):
        assert float(one.slopes[name]) == pytest.approx(
            finite_difference((program, state, batches[:1], valid), name), rel=1e-5
        )
    few, exact = judged(double, "identity")[1], judged(double)[1]
    assert torch.allclose(few.direct + few.response, exact.direct + exact.response)
    assert float(few.slopes["lr"]) == pytest.approx(float(exact.slopes["lr"]), rel=0.5)


def test_the_parts_add_up_and_none_is_the_direct_part_alone(double):
    none, unrolled = judged(double, "none", floats=())[1], judged(double)[1]
    assert float(none.response) == 0.0 and torch.equal(none.direct, unrolled.direct)
    program, state, _, valid = double
    hyper = program.hyper(CHILD)
    before = program.objective(state["params"], state["buffers"], hyper, valid)
    after = judged(double)[0]
    assert torch.allclose(unrolled.direct + unrolled.response, -program.objective(after["params"], {}, hyper, valid)[0])
    assert torch.equal(none.direct, -before[0])


def test_none_knows_nothing_of_the_learning_rate(double):
    """The paper's argument: what enters the training alone has only a response gradient."""
    rewards = {
        response: [sum(judged(double, response, {**CHILD, "lr": lr}, ())[1][:2]) for lr in (1e-3, 1e-2, 5e-2)]
        for response in ("none", "unrolled")
    }
    assert len({float(reward) for reward in rewards["none"]}) == 1
    assert float(rewards["unrolled"][2]) > float(rewards["unrolled"][0])


def test_implicit_of_a_quadratic_is_the_newton_step():
    """Least squares: the way to the minimum and the slope by the weight decay, against dense linear algebra."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(48, 4, generator=generator, dtype=torch.float64)
    parts = [Split(x, x @ torch.ones(4, 1, dtype=torch.float64) + 0.3 * x[:, :1] ** 2) for x in inputs.split(16)]
    space = lt.Space(weight_decay=lt.Float(1e-6, 1.0), lr=lt.Float(0.001, 0.1), depth=lt.Choice([1, 2]))
    options = {1: nn.Linear(4, 1, bias=False), 2: nn.Linear(4, 1, bias=False)}
    quadratic = lt.TorchTask(
        space=space,
        model=lambda config: nn.Sequential(lt.nn.Choose("depth", options)),
        data=Splits(*parts),
        loss=lambda output, target: ((output - target) ** 2).mean() + 10.0,  # a straight line must not end below zero
        optimizer=lt.optim.sgd,
        batch_size=16,
        dtype=torch.float64,
    )
    config = {"weight_decay": 0.2, "lr": 0.01, "depth": 1}
    program = quadratic.sharing().program(config)
    state = Enas().init(program, config, 0)
    train, valid = (Batches(program, split, Seeds(0)).at(0) for split in ("train", "valid"))
    hyper, damping = program.hyper(config), 0.05
    problem = ChildTraining(
        program, part_of(program, state, hyper), {"weight_decay": hyper["weight_decay"]}, [train], valid
    )
    _, found = judge(problem, "implicit", {"iterations": 20, "damping": damping})

    (w,) = (p[0, 0] for p in problem.state["params"].values())
    h = 2 * train[0].t() @ train[0] / 16 + (0.2 + damping) * torch.eye(4, dtype=torch.float64)
    g = 2 * train[0].t() @ (train[0] @ w[:, None] - train[1]) / 16 + 0.2 * w[:, None]
    v = 2 * valid[0].t() @ (valid[0] @ w[:, None] - valid[1]) / 16
    q = torch.linalg.solve(h, v)
    assert float(found.response) == pytest.approx(float(q.t() @ g), rel=1e-6)
    assert float(found.slopes["weight_decay"]) == pytest.approx(float(q.t() @ w[:, None]), rel=1e-6)


def started(adapter: Enas, made: lt.TorchTask | None = None, config=CHILD):
    program = (made or task()).sharing().program(config)
    batches, valid = (Batches(program, split, Seeds(0)) for split in ("train", "valid"))
    window = adapter.window

    def data(t):
        return [batches.at(t * window + i) for i in range(window)], valid.at(t)

    return program, adapter.init(program, config, 5), data


@pytest.mark.parametrize("response", ["none", "identity", "unrolled", "implicit"])
def test_what_is_not_in_a_child_stands_still(response):
    adapter = Enas(response, samples=2, steps=3, guard=1e9)  # type: ignore[arg-type]
    program, state, _ = started(adapter)
    hyper = program.hyper(CHILD)
    batches = Batches(program, "train", Seeds(1))
    problem = ChildTraining(
        program, part_of(program, state, hyper), {}, [batches.at(i) for i in range(3)], batches.at(9)
    )
    after = put_back(state, judge(problem, response, {"iterations": 2} if response == "implicit" else {})[0])
    inside = {n for n in state["params"] if n.startswith(("1.", "4.options.1"))}
    assert inside == set(problem.state["params"])
    for name, param in state["params"].items():
        assert torch.equal(after["params"][name], param) == (name not in inside)
        assert int(after["opt"]["sgd"]["count"][name]) == (3 if name in inside else 0)
        assert bool(after["opt"]["sgd"]["momentum"][name].any()) == (name in inside)
        assert int(after["opt"]["adam"]["count"][name]) == 0 and not bool(after["opt"]["adam"]["first"][name].any())
    assert after["t"].item() == 3


def test_a_child_that_ruins_the_weights_is_undone():
    space = lt.Space({**SPACE.domains, "lr": lt.Float(30.0, 90.0)})
    adapter = Enas("none", samples=2, steps=3, shared=None)
    program, state, data = started(adapter, task(space=space), {**CHILD, "lr": 50.0})
    after, metrics = adapter.step(program, state, *data(0))
    assert float(metrics["undone"]) == 1.0 and bool(metrics["train_loss"].isfinite().all())
    assert equal(after["params"], state["params"]) and equal(after["opt"], state["opt"])
    assert after["t"].item() == adapter.window


@pytest.mark.parametrize("response", ["none", "identity", "unrolled"])
def test_shared_weights_do_not_depend_on_the_optimizers_of_children(response):
    """The children trained copies: what is shared is the same under rates of 1e-4 and of 50."""
    adapter, ends = Enas(response, samples=2, steps=3, warmup=9.0, shared=SAFE), []
    for low, high in ((1e-4, 1e-3), (30.0, 90.0)):
        space = lt.Space({**SPACE.domains, "lr": lt.Float(low, high)})
        program, state, data = started(adapter, task(space=space), {**CHILD, "lr": (low + high) / 2})
        after, metrics = adapter.step(program, state, *data(0))
        assert float(metrics["undone"]) == 0.0 and not equal(after["params"], state["params"])
        assert equal(after["opt"], state["opt"]) and not equal(after["own"]["shared"], state["own"]["shared"])
        ends.append((after["params"], float(metrics["reward_response"])))
    assert equal(ends[0][0], ends[1][0])
    assert (ends[0][1] > ends[1][1]) == (response != "none"), "the rewards are of the copies"


def test_shared_weights_train_as_under_torch():
    adapter = Enas("none", samples=2, steps=4, shared=lt.optim.SGD(lr=0.3, momentum=0.9))
    program, state, data = started(adapter, task(dtype=torch.float64))
    common, hyper, batches = (
        adapter._common(program, policy_of("lstm", None, program)),
        program.hyper(CHILD),
        data(0)[0],
    )
    problem = ChildTraining(program, part_of(program, state, hyper), {}, batches[:4], data(0)[1])
    _, after, _ = common.train(state, problem, judge(problem, "none", {}, trains=False)[1])  # type: ignore[union-attr]
    model = network({})
    plain = nn.Sequential(*model[:2], nn.Tanh(), *model[4].options[1]).double()  # type: ignore[union-attr,index]
    assert len(list(plain.parameters())) == len(problem.state["params"])
    for param, start in zip(plain.parameters(), problem.state["params"].values(), strict=True):
        param.data = start[0].clone()
    sgd = torch.optim.SGD(plain.parameters(), 0.3, momentum=0.9)
    for inputs, targets in batches[:4]:
        sgd.zero_grad()
        nn.functional.cross_entropy(plain(inputs), targets).backward()
        sgd.step()
    for param, name in zip(plain.parameters(), problem.state["params"], strict=True):
        assert torch.allclose(param, after["params"][name][0], rtol=0, atol=1e-12)


def test_a_fixed_optimizer_trains_the_shared_weights_itself_and_an_older_state_gets_its_slots():
    fixed = started(Enas("identity", decide=("norm", "depth"), shared=SAFE))[1]
    assert "shared" not in fixed["own"]
    program, old, data = started(Enas("identity", samples=2, steps=3, shared=None))
    adapter = Enas("identity", samples=2, steps=3, shared=SAFE)
    state = adapter.init(program, CHILD, 5, parent=old)
    after, _ = adapter.step(program, state, *data(0))
    assert "shared" not in old["own"] and not equal(after["own"]["shared"], state["own"]["shared"])


def test_the_guard_holds_for_the_safe_optimizer_too():
    adapter = Enas("none", samples=2, steps=3, shared=lt.optim.SGD(lr=50.0))
    program, state, data = started(adapter)
    after, metrics = adapter.step(program, state, *data(0))
    assert float(metrics["undone"]) == 1.0 and equal(after["params"], state["params"])


@pytest.mark.parametrize("shared", [None, SAFE], ids=["theirs", "safe"])
@pytest.mark.parametrize("response", ["none", "identity", "unrolled", "implicit"])
def test_children_that_overflow_do_not_end_the_search(response, shared):
    wild = lt.Space(**{**SPACE.domains, "lr": lt.Float(1e-3, 1e30, log=True)})
    program = task(space=wild).sharing().program(CHILD)
    adapter = Enas(response, samples=6, steps=3, warmup=0.0, shared=shared)
    state, undone = adapter.init(program, CHILD, 3), 0.0
    train, valid = Batches(program, "train", Seeds(0)), Batches(program, "valid", Seeds(0))
    for t in range(12):  # long enough for a look at the controller
        batches = [train.at(adapter.window * t + i) for i in range(adapter.window)]
        state, metrics = adapter.step(program, state, batches, valid.at(t))
        undone += float(metrics["undone"][0])
        assert all(torch.isfinite(value).all() for value in metrics.values()), t
        assert all(torch.isfinite(tensor).all() for tensor in pytree.tree_leaves(state))
    assert (undone > 1.0) == (shared is None), "some of them did overflow, and the shared weights where they train them"


@pytest.mark.parametrize("policy", ["lstm", "factorised"])
def test_the_controller_finds_the_option_that_works(policy):
    class Nothing(nn.Module):
        def forward(self, x):
            return 0.0 * x

    def model(config):
        return nn.Sequential(nn.Flatten(), lt.nn.Choose("depth", {1: nn.Identity(), 2: Nothing()}), nn.Linear(64, 10))

    space = lt.Space(depth=lt.Choice([1, 2]), lr=lt.Float(1e-3, 0.3, log=True))
    adapter = Enas("none", policy=policy, decide="depth", warmup=0.0, learner=Reinforce(lr=0.05), samples=4, steps=2)
    config = {"depth": 2, "lr": 0.1}
    program, state, data = started(adapter, task(space=space, model=model, optimizer=lt.optim.sgd), config)
    for t in range(61):
        state, metrics = adapter.step(program, state, *data(t))
    assert float(metrics["policy.depth=1"]) > 0.9
    assert program.values("depth", state["hyper"]["depth"]) == [1]
    assert adapter.hyperparameters(state).keys() == {"depth"}


def test_a_controller_left_with_one_decision_is_reported():
    adapter = Enas("none", decide=("norm", "depth"), policy="factorised", samples=2, steps=1)
    program, state, data = started(adapter)
    assert float(adapter.step(program, state, *data(0))[1]["collapsed"]) == 0.0
    state["own"]["enas"]["params"]["norm"] += torch.tensor([20.0, 0.0])
    state["own"]["enas"]["params"]["depth"] += torch.tensor([20.0, 0.0])
    for t in range(10):
        state, metrics = adapter.step(program, state, *data(t))
    assert float(metrics["collapsed"]) == 1.0 and float(metrics["entropy"]) < 0.01


def test_without_a_learner_the_controller_stays_where_it_was():
    adapter = Enas("none", learner=None, samples=2, steps=1, warmup=0.0)
    program, state, data = started(adapter)
    after = state
    for t in range(3):
        after, _ = adapter.step(program, after, *data(t))
    assert equal(after["own"]["enas"], state["own"]["enas"]) and not equal(after["params"], state["params"])


METHOD = (lt.propose.Derive(draws=5), Enas("unrolled", samples=2, steps=2, warmup=0.0))


def summary(study):
    return [
        (job.config, result.status, dict(result.metrics), dict(result.final))
        for job, result in zip(study.history.jobs, study.history.results, strict=True)
    ]


@pytest.fixture(scope="module")
def study():
    return lt.tune(task(), method=METHOD, trials=4, epochs=2, seed=0, progress=False)


def test_a_study_searches_draws_and_trains_from_scratch(study):
    jobs, results = study.history.jobs, study.history.results
    assert [job.tag["phase"] for job in jobs] == ["search"] + 5 * ["draw"] + 2 * ["train"]
    assert all(result.status == "ok" for result in results)
    assert sum(result.steps for result in results[:6]) == 2 * jobs[6].steps - 2, (
        "half of four trainings, in whole windows"
    )
    for job, result in zip(jobs, results, strict=True):
        SPACE.check(result.final)
        assert ("loss" in result.metrics) == (job.tag["phase"] == "train")
        assert ("shared_loss" in result.metrics) == (job.tag["phase"] != "train")
    ranked = sorted(range(1, 6), key=lambda n: results[n].metrics["shared_loss"])
    assert [job.tag["draw"] for job in jobs[6:]] == ranked[:2]
    assert all(jobs[6 + i].config == results[n].final for i, n in enumerate(ranked[:2]))
    assert study.best.number >= 6 and study.best.metrics["accuracy"] > 0.5 and study.best.test
    assert isinstance(study.model(), nn.Module)


def test_a_child_from_scratch_is_an_ordinary_trial_bit_for_bit(study):
    job = study.history.jobs[study.best.number]
    work = Work(task(), Seeds(0))
    (alone,) = run_stack(work, [Job(job.number, job.config, job.steps)], {}, lambda reports: set())
    assert dict(alone.metrics) == dict(study.best.metrics)


def test_decisions_are_reported_over_time(study):
    reports = study.history.reports[0]
    assert len(reports) >= 3
    for report in reports:
        SPACE.check(report.hyperparameters)
        shares = [report.metrics[f"policy.norm={option}"] for option in ("none", "layer")]
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
        assert {"entropy", "reward", "reward_direct", "reward_response", "gradient_direct", "undone"} <= set(
            report.metrics
        )
        low, mean, high = (report.metrics[f"policy.lr.{what}"] for what in ("low", "mean", "high"))
        assert 1e-3 <= low <= mean <= high <= 0.1


def test_the_report_draws_decisions_and_the_network_that_was_found(study, tmp_path: Path):
    text = study.write_report(tmp_path / "study.html").read_text()
    section = text[text.index('<section id="decisions">') :]
    section = section[: section.index("</section>")]
    for name, value in study.best.config.items():
        if isinstance(value, str):
            assert f'<div class="value">{value}</div><div class="name">{name}</div>' in section
    for shown in ("reward over time", "entropy, nats over time", "How norm was decided", "How lr was decided"):
        assert shown in section
    curves = text[text.index('<section id="curves">') :]
    assert "policy." not in curves[: curves.index("</section>")]


KILLED = """
import sys
sys.path[:0] = {path!r}
import luthier as lt
import test_enas
from luthier.train import stack
stack.PARTIAL_SECONDS = 0.0
settings = dict(trials=4, epochs=2, seed=0, store={store!r}, name="s", progress=False)
lt.tune(test_enas.task(), method=test_enas.METHOD, **settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seen", [2, 8])
def test_a_search_that_is_killed_goes_on_bit_for_bit(study, tmp_path: Path, seen):
    store = f"sqlite:///{tmp_path}/study.db"
    folder = Path(__file__).parent
    script = KILLED.format(path=[str(folder), str(folder.parents[1])], store=store)
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        try:
            there = lt.Study.load("s", store).history
            if len(there.events) >= seen:
                break
        except lt.LuthierError:
            pass  # not there yet
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()  # type: ignore[union-attr]
    resumed = lt.tune(task(), method=METHOD, trials=4, epochs=2, seed=0, store=store, name="s", progress=False)
    assert summary(resumed) == summary(study)


@pytest.mark.parametrize(
    "settings",
    [
        {"response": "second order"},
        {"policy": "transformer"},
        {"samples": 1},
        {"steps": 0},
        {"steps": 2.5},
        {"guard": -1.0},
        {"shared": "adam"},
        {"shared": lt.optim.SGD()},
        {"warmup": float("nan")},
        {"iterations": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(MethodError) as error:
        Enas(**settings)
    assert error.value.where == "Enas" and error.value.remedy


def test_what_it_cannot_decide_is_refused():
    fixed = task(
        model=lambda config: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        space=lt.Space(lr=SPACE["lr"]),
        optimizer=lambda config: lt.optim.SGD(lr=config["lr"]),
    )
    for made, decide, words in (
        (fixed, None, "nothing that it can decide"),
        (fixed, ("lr",), "read by"),
        (task(), ("width",), "not in the space"),
        (task(), ("momentum",), "condition"),
    ):
        config = made.space.sample(np.random.default_rng(0))
        with pytest.raises(MethodError, match=words):
            policy_of("lstm", decide, made.sharing().program(config))
    with pytest.raises(MethodError, match="trials=1"):
        lt.tune(task(), method="enas", epochs=1, progress=False)


def test_states_stack():
    """What the contract asks of every adapter, for decisions that differ."""
    adapter = Enas("identity", samples=2, steps=1, warmup=0.0)
    program, first, data = started(adapter)
    second = adapter.init(program, CHILD, 6)
    stack = pytree.tree_map(lambda *tensors: torch.cat(tensors), first, second)
    for t in range(3):
        batches, valid = data(t)
        first, second = (adapter.step(program, one, batches, valid)[0] for one in (first, second))
        stack, _ = adapter.step(program, stack, batches, valid)
    assert equal(stack, pytree.tree_map(lambda *tensors: torch.cat(tensors), first, second))
