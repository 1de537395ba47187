"""One thread for tensors this small: two take ten times the processor time of one, and round otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import numpy as np  # noqa: F401  the libraries must be loaded before they can be found
import scipy.linalg  # noqa: F401
from threadpoolctl import ThreadpoolController

_torch = threading.RLock()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """Give NumPy's and SciPy's linear algebra one thread, and so the same rounding on any number of cores."""
    return _controller().limit(limits=1, user_api="blas")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """The same for torch, which is imported for it; also a decorator, ``@one_torch_thread()``."""
    import torch

    with _torch:
        threads = torch.get_num_threads()
        if threads > 1:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if threads > 1:
                torch.set_num_threads(threads)
