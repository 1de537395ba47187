"""Settings of all tests: one thread for torch, hypothesis without chance."""

from __future__ import annotations

import os
import sys

import hypothesis

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

hypothesis.settings.register_profile(
    "luthier", derandomize=True, deadline=None, max_examples=60, database=None, print_blob=False
)
hypothesis.settings.load_profile("luthier")


def pytest_runtest_setup() -> None:
    """One thread: two OpenMP pools on few cores run many times slower. Torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
