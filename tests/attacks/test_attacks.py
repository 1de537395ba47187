"""A selection of the attacks as tests; ``python -m tests.attacks`` runs all of them."""

from __future__ import annotations

import warnings

import pytest

from attacks.__main__ import attempt, load

CHOSEN = (
    "database_disk_full",
    "progress_to_a_full_disk",
    "deleted",
    "replaced",
    "read_only_mount",
    "closes_its_output",
    "orphans",
    "hidden_processes",
    "sessions_terminated",
    "stopped_beyond_its_lease",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_the_attack_is_held(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome, why, _ = attempt(load()[name])
    if outcome == "CANNOT RUN":
        pytest.skip(why)
    assert outcome == "HELD", why
