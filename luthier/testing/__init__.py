"""Contract tests that anyone can run on parts of their own, and what they are made of.

May import: public (luthier itself and all that is below it).

Subclass a contract in a test file, say how to make the part, and pytest runs every check on it.
"""

from __future__ import annotations

from luthier.testing.problems import PROBLEMS, SPACES, Problem
from luthier.testing.proposers import ProposerContract
from luthier.testing.simulation import rebuild, simulate

__all__ = ["PROBLEMS", "SPACES", "Problem", "ProposerContract", "rebuild", "simulate"]
