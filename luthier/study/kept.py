"""The files that trials have kept: each has a folder of its own, beside the checkpoints of its study."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from luthier.report import KeptFile
from luthier.study.ledger import Ledger

MOST = 1_000  # files of one trial that are listed
TRIALS = 200  # whose files are listed, the latest


def trial_files(ledger: Ledger) -> str | None:
    """The folder of the trials' own files, beside the study's checkpoints; None where those are at a URL."""
    folder = str(ledger.checkpoints.folder)
    return None if "://" in folder else f"{folder}/trials"


def kept_files(ledger: Ledger, numbers: Collection[int] | None = None) -> dict[int, list[KeptFile]]:
    """The files in the folders of jobs, by job; of the latest ``TRIALS`` by default."""
    folder = trial_files(ledger)
    if folder is None:
        return {}
    try:
        names = [path.name for path in Path(folder).iterdir()]
    except OSError:
        return {}
    there = sorted(int(name) for name in names if name.isascii() and name.isdigit())
    wanted = there[-TRIALS:] if numbers is None else [number for number in there if number in numbers]
    found = {number: sorted(_files(f"{folder}/{number}", "", [MOST])) for number in wanted}
    return {number: files for number, files in found.items() if files}


def _files(folder: str, inside: str, left: list[int]) -> Iterator[KeptFile]:
    """The files of a folder and of those in it; links are not followed, and what cannot be read is left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if left[0] <= 0:
            return
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{inside}{entry.name}/", left)
            elif entry.is_file(follow_symlinks=False):
                left[0] -= 1
                yield KeptFile(f"{inside}{entry.name}", entry.stat(follow_symlinks=False).st_size)
        except OSError:
            continue
