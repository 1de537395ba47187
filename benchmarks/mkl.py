"""What MKL's strict mode costs: the products of a training step with and without it, in processes that alternate.

    python benchmarks/mkl.py [--repeats 7] [--output benchmarks/results/mkl.json]

luthier sets ``MKL_CBWR=AVX2,STRICT`` so that a network alone equals the same network in a stack, bit for bit. Each
process times the products of a 784-128-10 network at batch 64, alone and in a stack of 16, one thread, and MKL itself
is asked for the branch that it took (``MKL_VERBOSE``), for the variable may name one that the processor does not have.
Ratios are those of neighbouring processes; asserted is the median, at most 1.03.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import luthier as lt

LIMIT = 1.03
TIMED = """
import time, torch
torch.set_num_threads(1)
rows, wide, deep = torch.randn(64, 784), torch.randn(784, 128), torch.randn(64, 128)
many, weights = torch.randn(16, 64, 784), torch.randn(16, 784, 128)
works = {
    "forward": lambda: rows @ wide,
    "gradient of the weights": lambda: rows.T @ deep,
    "small layer": lambda: deep @ wide[:128, :10],
    "stack of 16": lambda: torch.bmm(many, weights),
}
for name, work in works.items():
    times = []
    for _ in range(300):
        clock = time.perf_counter()
        work()
        times.append(time.perf_counter() - clock)
    print(name, "=", sorted(times)[len(times) // 2] * 1e6)
"""


def printed(code: str, mode: dict[str, str]) -> list[str]:
    """Lines of a fresh process under a mode."""
    inherited = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}  # luthier has set it here
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=inherited | mode, capture_output=True, text=True, check=True).stdout.splitlines()


def measured(mode: dict[str, str]) -> dict[str, float]:
    """Microseconds of each product in a process of its own, the median of 300."""
    return {name: float(value) for name, value in (line.split(" = ") for line in printed(TIMED, mode))}


def branch(mode: dict[str, str]) -> str:
    """Code path that MKL says it took."""
    lines = printed("import torch; torch.randn(64, 784) @ torch.randn(784, 128)", mode | {"MKL_VERBOSE": "1"})
    return next(line.split("CNR:")[1].split()[0] for line in lines if "GEMM(" in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/mkl.json"))
    arguments = parser.parse_args()
    modes: dict[str, dict[str, str]] = {"free": {}, "strict": {"MKL_CBWR": "AVX2,STRICT"}}
    taken = {name: branch(mode) for name, mode in modes.items()}
    print("branches:", taken)
    pairs = [{name: measured(mode) for name, mode in modes.items()} for _ in range(arguments.repeats)]
    rows = {}
    for work in pairs[0]["free"]:
        ratios = [pair["strict"][work] / pair["free"][work] for pair in pairs]
        rows[work] = {
            **{name: statistics.median(pair[name][work] for pair in pairs) for name in modes},
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
        print(f"{work:26}" + "  ".join(f"{name} {value:.3f}" for name, value in rows[work].items()))
    found = {"machine": {**lt.environment(), "repeats": arguments.repeats}, "branches": taken, "microseconds": rows}
    arguments.output.write_text(json.dumps(found, indent=2) + "\n")
    slow = {name: row["ratio"] for name, row in rows.items() if row["ratio"] > LIMIT}
    raise SystemExit(f"above {LIMIT}: {slow}" if slow else 0)


if __name__ == "__main__":
    main()
