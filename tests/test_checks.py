"""One form of checking arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from luthier.checks import checked, maybe, one_of, real, require, whole
from luthier.errors import MethodError, TaskError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rule", "text", "good", "bad"),
    [
        (whole(), "an integer", [0, -3, np.int8(4)], [True, np.True_, 1.0, np.float64(1.0), "1", None, 1j]),
        (whole(1), "an integer ≥ 1", [1, 10**400, np.array(3)], [0, -1]),
        (whole(2, 4), "an integer ≥ 2 and ≤ 4", [2, 4], [1, 5]),
        (real(), "a finite number", [0, 1.5, np.float32(2.0)], [NAN, INF, -INF, True, "1", None, 1j]),
        (real(0, 1), "a finite number ≥ 0 and ≤ 1", [0, 1, 0.5], [-1e-9, 1.1]),
        (real(above=0, below=1), "a finite number > 0 and < 1", [0.5], [0, 1]),
        (one_of("a", "b", None), "'a', 'b' or None", ["a", np.str_("b"), None], ["c", 0, ["a"]]),
        (one_of(True, False), "True or False", [np.True_, True, np.array(False)], [1, "True", np.array([True])]),
        (one_of(1, 2), "1 or 2", [1], [True, 1.0, 3]),
        (maybe(whole(1)), "an integer ≥ 1 or None", [None, 1], [0]),
    ],
)
def test_a_rule_takes_what_it_says(rule, text, good, bad):
    for value in good:
        taken = checked("x", value, rule, where="here")
        assert taken == value and type(taken) in (int, float, str, bool, type(None))
    for value in bad:
        with pytest.raises(MethodError) as caught:
            checked("x", value, rule, where="here")
        assert str(caught.value) == f"here: x must be {text}, got {value!r}. Give {text}."


@dataclass(frozen=True)
class Settings:
    steps: int = 5
    lr: float = 0.1


def test_settings_become_plain_numbers_or_are_refused():
    settings = Settings(np.int64(7), np.float32(0.5))
    require(settings, "Settings", steps=whole(1), lr=real(above=0))
    assert repr(settings) == "Settings(steps=7, lr=0.5)"
    with pytest.raises(TaskError, match=r"^Settings: lr must be a finite number > 0, got 0. The default is 0.1.$"):
        require(Settings(lr=0), "Settings", TaskError, steps=whole(1), lr=real(above=0))
