"""The examples of one's own method, adapter, executor, follower and op, held to the contracts of luthier's own."""

import runpy
import sys
from pathlib import Path

import pytest

from luthier.testing import ProposerContract
from luthier.testing.adapters import AdapterContract
from luthier.testing.executors import ExecutorContract

FOLDER = Path(__file__).parents[1] / "examples/extend"
sys.path.insert(0, str(FOLDER))

from adapter import Plateau  # noqa: E402
from executor import Forked  # noqa: E402
from proposer import Anneal  # noqa: E402


class TestProposer(ProposerContract):
    learns = True
    milliseconds_per_job = 1.0

    def make(self):
        return Anneal()


class TestAdapter(AdapterContract):
    moves = frozenset({"lr"})

    def make(self):
        return Plateau(5)


class TestExecutor(ExecutorContract):
    def make(self):
        return Forked()

    # It is for functions: a killed process saves no state that could be gone on from.
    test_a_state_given_back_is_gone_on_from = None


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_each_example_prints_one_line_that_shows_that_it_works(name, capsys):
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    line = capsys.readouterr().out
    assert "True" in line and "False" not in line and line.count("\n") == 1, line
