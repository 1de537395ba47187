"""Expected hypervolume improvement by BoTorch: several objectives, every kind of space, and what goes wrong."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.errors import MethodError
from luthier.interop.botorch import HypervolumeImprovement
from luthier.jobs import Budget, History, Job, Result
from luthier.pareto import hypervolume
from luthier.propose import GaussianProcess, Random
from luthier.seeds import Seeds
from luthier.space import Choice, Config, Float, Int, Space
from luthier.study.methods import METHODS
from luthier.study.resolve import resolve
from luthier.study.study import Study
from luthier.study.tuning import tune
from luthier.testing import rebuild, simulate

CONDITIONAL = Space(
    kind=Choice(["linear", "mlp"]),
    width=Int(4, 256, log=True, when={"kind": "mlp"}),
    lr=Float(1e-4, 1.0, log=True),
    activation=Choice(["relu", "tanh", "gelu"], when={"kind": "mlp"}),
)
GOALS = {"error": "min", "speed": "max"}


def network(config: Config) -> dict[str, float]:
    size = config.get("width", 1)
    wrong = {"relu": 0.02, "tanh": 0.05, "gelu": 0.0}.get(str(config.get("activation")), 0.3)
    off = (math.log10(config["lr"]) + 2) ** 2  # type: ignore[arg-type]
    return {"error": wrong + 1 / size + 0.1 * off, "speed": -math.log2(size)}  # type: ignore[operator, arg-type]


def test_gp_by_its_name_is_the_one_that_fits_the_objectives() -> None:
    assert type(resolve("gp").proposer) is GaussianProcess
    assert resolve("gp", {"initial": 5}, objectives=2).proposer == HypervolumeImprovement(initial=5)
    assert METHODS["gp"].load(3) is HypervolumeImprovement
    with pytest.raises(MethodError, match="one objective"):
        tune(lambda c: c["x"], HypervolumeImprovement(), space=Space(x=Float(0, 1)), trials=1, progress=False)
    with pytest.raises(MethodError, match=r"luthier\[botorch\]"):
        tune(network, GaussianProcess(), space=CONDITIONAL, metric=["error", "speed"], trials=1, progress=False)


def test_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch compiles extensions under a lock file that outlives a killed process: every later one waits for ever."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    simulate(HypervolumeImprovement(initial=3), network, CONDITIONAL, Budget(trials=4), objectives=GOALS)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tune_finds_a_better_front_than_random_search() -> None:
    reference, wins = np.array([1.5, 9.0]), []
    for seed in range(3):
        study = tune(
            network,
            "gp",
            space=CONDITIONAL,
            metric=list(GOALS),
            mode=list(GOALS.values()),
            trials=20,
            seed=seed,
            progress=False,
        )
        random = simulate(Random(), network, CONDITIONAL, Budget(trials=20), seed, objectives=GOALS)
        wins.append(hypervolume(study.history.values, reference) > hypervolume(random.values, reference))
        errors = [one.metrics["error"] for one in study.front]
        assert len(errors) > 2 and errors == sorted(errors)
    assert all(wins)


def test_a_finite_space_is_visited_once_and_ends_the_study() -> None:
    space = Space(n=Int(0, 3), kind=Choice(["a", "b"]), m=Int(0, 1, when={"kind": "b"}))
    history = simulate(
        HypervolumeImprovement(initial=3),
        lambda c: {"error": c["n"], "speed": c["n"] + c.get("m", 0)},
        space,
        Budget(trials=50),
        objectives=GOALS,
        workers=3,
    )
    texts = {json.dumps(job.config, sort_keys=True) for job in history.jobs}
    assert len(texts) == len(history) == 12 == space.size


def test_running_jobs_are_conditioned_on() -> None:
    method, space = HypervolumeImprovement(initial=4).bind(Budget(trials=40)), Space(x=Float(0.0, 1.0))
    history = History(space, {"a": "min", "b": "min"})
    for n, x in enumerate((0.05, 0.3, 0.6, 0.95)):
        history.add(Job(n, {"x": x}))
        history.add(Result(n, "ok", {"a": (x - 0.4) ** 2, "b": (x - 0.45) ** 2}))
    one = method.propose(rebuild(history), 1, Seeds(0))
    four = method.propose(rebuild(history), 4, Seeds(0))
    assert four[0] == one[0]
    places = sorted(job.config["x"] for job in four)
    assert min(b - a for a, b in itertools.pairwise(places)) > 0.01, "they are apart"
    history.add(one[0])
    assert method.propose(history, 1, Seeds(0)) == four[1:2], "asking one by one is asking for several"


def test_failures_and_what_is_not_finite_are_the_worst() -> None:
    space = Space(x=Float(0.0, 1.0))
    history = History(space, {"a": "min", "b": "min"})
    for n in range(12):
        x = n / 11
        history.add(Job(n, {"x": x}))
        if x > 0.5:  # the values would be best here
            status = ("failed", "diverged")[n % 2]
            history.add(Result(n, status, {} if status == "failed" else {"a": -5.0, "b": math.nan}))
        else:
            history.add(Result(n, "ok", {"a": -x, "b": x}))
    jobs = HypervolumeImprovement().bind(Budget(trials=99)).propose(history, 3, Seeds(0))
    assert all(job.config["x"] < 0.6 for job in jobs), [job.config for job in jobs]


def test_torch_is_left_as_it_was() -> None:
    history = simulate(Random(), network, CONDITIONAL, Budget(trials=9), objectives=GOALS)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    HypervolumeImprovement().bind(Budget(trials=20)).propose(history, 1, Seeds(0))
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_ask_and_tell_and_settings_that_cannot_be() -> None:
    study = Study("two", Space(x=Float(0, 1)), method="gp", metric=["a", "b"], trials=3)
    (job,) = study.ask(1)
    study.tell(job, {"a": 1.0, "b": 2.0})
    assert [one.number for one in study.front] == [0]
    with pytest.raises(MethodError, match="initial must be an integer ≥ 2, got 1"):
        HypervolumeImprovement(initial=1).bind(Budget())


def test_without_botorch_the_remedy_is_named() -> None:
    code = """
import sys
sys.modules["botorch"] = None
import luthier as lt
try:
    lt.tune(lambda c: {"a": 1.0, "b": 2.0}, "gp", space=lt.Space(x=lt.Float(0, 1)), metric=["a", "b"], trials=2)
except lt.LuthierError as error:
    print(error)
lt.tune(lambda c: c["x"], "gp", space=lt.Space(x=lt.Float(0, 1)), trials=2, progress=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'luthier[botorch]'" in done.stdout
