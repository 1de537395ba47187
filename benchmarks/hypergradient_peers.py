"""One hypergradient of a 784-128-10 network with one log-penalty a weight (101,770), beside other libraries.

    python -m venv peers
    peers/bin/pip install -c constraints.txt torch numpy graphviz matplotlib optree
    peers/bin/pip install --no-deps --ignore-requires-python higher==0.2.1 torchopt==0.7.3 boat-torch==1.1.1 \\
        betty-ml==0.2.1
    peers/bin/python benchmarks/hypergradient_peers.py

The libraries pin versions that do not go together, hence an environment of their own; ``luthier.response`` needs torch
alone and runs in it too. Each peer takes turns with luthier in one process: the figure is the median of the ratios of
CPU time, one thread. Peak memory, each in a process of its own, is the growth of the resident set once warm. What each
computes is compared first. BOAT's ``run_iter`` measures both losses once more and its Neumann series makes one training
step; of Betty it is its function for the Neumann series alone, without the classes around it, which is in its favour.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from luthier import optim, response  # noqa: E402

BATCH, RATE = 128, 0.1
PEERS = {"higher": "higher", "TorchOpt": "torchopt", "BOAT": "boat-torch", "Betty": "betty-ml"}
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
Row = Callable[[], list[Tensor]]


class Problem:
    """The network with random weights, log-penalties of -6, and two random minibatches."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
        self.hyper = [torch.full_like(p, -6.0).requires_grad_() for p in self.model.parameters()]
        self.train = torch.rand(BATCH, 784), torch.randint(10, (BATCH,))
        self.valid = torch.rand(BATCH, 784), torch.randint(10, (BATCH,))

    def penalty(self, params: Sequence[Tensor], hyper: Sequence[Tensor]) -> Tensor:
        return torch.stack([(h.exp() * w.square()).sum() for w, h in zip(params, hyper, strict=True)]).sum()

    def loss(self, params: Sequence[Tensor], hyper: Sequence[Tensor] | None, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The training loss; without hyperparameters the validation loss."""
        names = [name for name, _ in self.model.named_parameters()]
        outputs = torch.func.functional_call(self.model, dict(zip(names, params, strict=True)), (batch[0],))
        plain = nn.functional.cross_entropy(outputs, batch[1])
        return plain if hyper is None else plain + self.penalty(params, hyper)


def luthier_row(problem: Problem, method: str, steps: int, memory: Any = "graph") -> Row:
    names = [name for name, _ in problem.model.named_parameters()]
    losses = response.functional(
        problem.model,
        nn.functional.cross_entropy,
        lambda p, h: torch.stack([(h[name].exp() * w.square()).sum() for name, w in p.items()]).sum(),
    )
    hyper = {name: h.detach() for name, h in zip(names, problem.hyper, strict=True)}
    given = response.Problem(losses.train_loss, losses.valid_loss, losses.params, hyper, [problem.train], problem.valid)
    if method == "unrolled":
        optimizer = optim.SGD(lr=RATE)
        return lambda: list(response.unrolled(given, optimizer=optimizer, steps=steps, memory=memory).total.values())
    return lambda: list(
        response.implicit(given, solver="neumann", iterations=steps, alpha=RATE, damping=0.0).total.values()
    )


def higher_row(problem: Problem, method: str, steps: int) -> Row:
    import higher

    optimizer = torch.optim.SGD(problem.model.parameters(), lr=RATE)

    def run() -> list[Tensor]:
        with higher.innerloop_ctx(problem.model, optimizer) as (model, inner):
            for _ in range(steps):
                loss = nn.functional.cross_entropy(model(problem.train[0]), problem.train[1])
                inner.step(loss + problem.penalty(list(model.parameters()), problem.hyper))
            loss = nn.functional.cross_entropy(model(problem.valid[0]), problem.valid[1])
            return list(torch.autograd.grad(loss, problem.hyper))

    return run


def torchopt_row(problem: Problem, method: str, steps: int) -> Row:
    import torchopt

    if method == "unrolled":
        inner = torchopt.MetaSGD(problem.model, lr=RATE)
        start = torchopt.extract_state_dict(problem.model, by="reference")
        slots = torchopt.extract_state_dict(inner, by="reference")

        def run() -> list[Tensor]:
            for _ in range(steps):
                loss = nn.functional.cross_entropy(problem.model(problem.train[0]), problem.train[1])
                inner.step(loss + problem.penalty(list(problem.model.parameters()), problem.hyper))
            loss = nn.functional.cross_entropy(problem.model(problem.valid[0]), problem.valid[1])
            found = list(torch.autograd.grad(loss, problem.hyper))
            torchopt.recover_state_dict(problem.model, start)
            torchopt.recover_state_dict(inner, slots)
            return found

        return run

    def optimality(params: Any, hyper: Any) -> Any:
        return torch.func.grad(lambda p: problem.loss(p, hyper, problem.train))(params)

    solver = torchopt.linear_solve.solve_inv(ns=True, maxiter=steps, alpha=RATE)
    solved = torchopt.diff.implicit.custom_root(optimality, argnums=1, solve=solver)(lambda params, hyper: params)

    def run_series() -> list[Tensor]:
        params = tuple(p.detach().requires_grad_() for p in problem.model.parameters())
        loss = problem.loss(solved(params, tuple(problem.hyper)), None, problem.valid)
        return list(torch.autograd.grad(loss, problem.hyper))

    return run_series


def boat_row(problem: Problem, method: str, steps: int) -> Row:
    import boat_torch

    upper = nn.Module()
    upper.hyper = nn.ParameterList([nn.Parameter(h.detach().clone()) for h in problem.hyper])
    module = types.ModuleType("boat_losses")  # BOAT imports loss functions by name

    def train_loss(feed: dict, above: nn.Module, model: nn.Module, params: Any = None, **_: Any) -> Tensor:
        weights = list(model.parameters()) if params is None else params
        outputs = model(feed["x"]) if params is None else model(feed["x"], params=params)
        return nn.functional.cross_entropy(outputs, feed["y"]) + problem.penalty(weights, list(above.hyper))

    def valid_loss(feed: dict, above: nn.Module, model: nn.Module, params: Any = None, **_: Any) -> Tensor:
        outputs = model(feed["x"]) if params is None else model(feed["x"], params=params)
        return nn.functional.cross_entropy(outputs, feed["y"])

    module.train_loss, module.valid_loss = train_loss, valid_loss  # type: ignore[attr-defined]
    sys.modules["boat_losses"] = module
    series = method == "Neumann"
    config = {
        "fo_op": None,
        "gm_op": ["NGD"],
        "na_op": ["IAD", "NS"] if series else ["RAD"],
        "lower_level_model": problem.model,
        "upper_level_model": upper,
        "lower_level_var": list(problem.model.parameters()),
        "upper_level_var": list(upper.parameters()),
        "lower_level_opt": torch.optim.SGD(problem.model.parameters(), lr=RATE),
        "upper_level_opt": torch.optim.SGD(upper.parameters(), lr=0.0),
        "lower_iters": 1 if series else steps,
        "device": "cpu",
        "accumulate_grad": False,
        "copy_last_param": False,
        "return_grad": True,
        "loss_log_path": os.devnull,
        "CG": {"k": steps, "tolerance": 0.0},
        "GDA": {"alpha_init": 0.0, "alpha_decay": 0.0},
        "RGT": {"truncate_iter": 0},
    }
    losses = {"lower_level_loss": "boat_losses.train_loss", "upper_level_loss": "boat_losses.valid_loss"}
    made = boat_torch.Problem(config, {key: {"function": value, "params": {}} for key, value in losses.items()})
    made.build_ll_solver()
    made.build_ul_solver()
    made.save_losses = lambda **_: None  # it writes a file and draws a picture at every step
    feeds = ({"x": problem.train[0], "y": problem.train[1]}, {"x": problem.valid[0], "y": problem.valid[1]})

    def run() -> list[Tensor]:
        for parameter in upper.parameters():
            parameter.grad = None
        return [gradient.detach() for gradient in made.run_iter(*feeds, current_iter=0)[0]]

    return run


def betty_row(problem: Problem, method: str, steps: int) -> Row:
    from betty.hypergradient.neumann import neumann

    config = types.SimpleNamespace(neumann_iterations=steps, neumann_alpha=RATE)
    leaves = list(problem.model.parameters())
    below = types.SimpleNamespace(
        paths=[],
        config=config,
        cur_batch=None,
        training_step_exec=lambda batch: problem.loss(leaves, problem.hyper, problem.train),
        trainable_parameters=lambda: leaves,
    )
    above = types.SimpleNamespace(trainable_parameters=lambda: problem.hyper)

    def run() -> list[Tensor]:
        vector = torch.autograd.grad(problem.loss(leaves, None, problem.valid), leaves)
        return list(neumann(vector, below, above, False))

    return run


ROWS: dict[tuple[str, int], list[str]] = {
    ("unrolled", 5): ["higher", "TorchOpt", "BOAT"],
    ("unrolled", 20): ["higher", "TorchOpt", "BOAT"],
    ("Neumann", 5): ["TorchOpt", "BOAT", "Betty"],
    ("Neumann", 20): ["TorchOpt", "BOAT", "Betty"],
}
MAKERS: dict[str, Callable[..., Row]] = {
    "luthier": luthier_row,
    "higher": higher_row,
    "TorchOpt": torchopt_row,
    "BOAT": boat_row,
    "Betty": betty_row,
}


def make(name: str, method: str, steps: int) -> Row:
    with contextlib.redirect_stdout(io.StringIO()):
        if name == "luthier, trajectory":
            return luthier_row(Problem(), method, steps, memory="trajectory")
        return MAKERS[name](Problem(), method, steps)


def timed(row: Row) -> float:
    start = time.process_time()
    row()
    return 1e3 * (time.process_time() - start)


def paired(name: str, method: str, steps: int, repeats: int) -> dict[str, Any]:
    """CPU times of luthier and of a peer in turns, and how far their gradients are apart."""
    torch.set_num_threads(1)
    ours, theirs = make("luthier", method, steps), make(name, method, steps)
    mine, other = torch.cat([x.flatten() for x in ours()]), torch.cat([x.flatten() for x in theirs()])
    apart = float((mine - other).norm() / mine.norm())
    timed(ours), timed(theirs)
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    ratios = sorted(a / b for a, b in pairs)
    return {
        "luthier ms": statistics.median(a for a, _ in pairs),
        "peer ms": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "gradients differ by": apart,
    }


def peak(name: str, method: str, steps: int) -> dict[str, float]:
    """Growth of the peak resident set by one more run, MiB."""
    torch.set_num_threads(1)
    row = make(name, method, steps)
    row()
    row()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before = _resident()
    row()
    return {"peak MiB": (_resident() - before) / 1024}


def _resident() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1])  # kB


def alone(name: str, method: str, steps: int, repeats: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--row", name, method, str(steps), "--repeats", str(repeats)]
    environment = {**os.environ, **(MAPPED if repeats == 0 else {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Every row in processes of its own; prints the table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "hypergradient_peers.json")
    options = parser.parse_args()
    if options.row:
        name, method, steps = options.row
        found = paired(name, method, int(steps), options.repeats) if options.repeats else peak(name, method, int(steps))
        print(json.dumps(found))
        return
    versions = {name: importlib.metadata.version(package) for name, package in PEERS.items()}
    rows = []
    print(f"{'':14}{'peer':>22}{'ours ms':>9}{'ms':>8}{'ratio':>8}{'ours MiB':>10}{'MiB':>8}{'differ':>10}")
    for (method, steps), peers in ROWS.items():
        own = alone("luthier", method, steps, 0)["peak MiB"]
        for name in peers:
            row = {"method": method, "steps": steps, "peer": name, "luthier peak MiB": own}
            row |= alone(name, method, steps, options.repeats) | alone(name, method, steps, 0)
            rows.append(row)
            if "failed" in row:
                print(f"{method:9}{steps:4} {name:>22} failed: {row['failed']}", flush=True)
                continue
            print(
                f"{method:9}{steps:4} {name:>22}{row['luthier ms']:9.1f}{row['peer ms']:8.1f}{row['ratio']:8.2f}"
                f"{own:10.1f}{row['peak MiB']:8.1f}{row['gradients differ by']:10.1e}",
                flush=True,
            )
    trajectory = alone("luthier, trajectory", "unrolled", 20, 0)["peak MiB"]
    print(f"unrolled  20 by trajectory: {trajectory:.1f} MiB")
    kept = {"torch": torch.__version__, "versions": versions, "rows": rows, "trajectory 20 peak MiB": trajectory}
    options.out.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
