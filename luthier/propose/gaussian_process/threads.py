"""One thread for the linear algebra: on matrices this small, two threads take ten times the processor time of one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import numpy as np  # noqa: F401  the libraries must be loaded before they can be found
import scipy.linalg  # noqa: F401
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """Within it, NumPy's and SciPy's linear algebra has one thread, and so the same rounding on any number of cores."""
    return _controller().limit(limits=1, user_api="blas")
