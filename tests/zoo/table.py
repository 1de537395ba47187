"""Write docs/networks.md: every network of the zoo, run. ``PYTHONPATH=.:tests python -m zoo.table [NAME…]``."""

from __future__ import annotations

import sys
import traceback
import warnings
from pathlib import Path

import torch
from zoo.networks import ZOO
from zoo.rows import Row, row_of

FORMS = {"rules": "rewritten for a stack", "vmap": "vmap", "loop": "in turn", "": ""}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "networks.md"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lines = []
    for name, entry in ZOO.items():
        if names and name not in names:
            continue
        try:
            row = row_of(entry)
        except Exception as error:
            traceback.print_exc()
            row = Row("error", note=f"{type(error).__name__}: {error}")
        off = "" if row.plain is None else f"{row.plain:.0e}"
        note = " ".join(row.note.split()).replace("|", "\\|")
        lines.append(f"| {entry.kind} | {name} | {row.runs} | {FORMS[row.form]} | {off} | {row.same} | {note} |")
        print(lines[-1], flush=True)
    if names:
        return
    counts = ", ".join(
        f"{sum(f'| {kind} |' in line for line in lines)} {kind}" for kind in ("runs", "refused", "wrong", "error")
    )
    head = f"""# Networks that run

{len(lines)} networks in plain torch, written as others write them, each run by one command, `make zoo`: {counts}.
"Off" is the relative difference of the validation loss to a plain torch loop over the same weights and minibatches,
without dropout; "equal" is what equals a member alone, bit for bit, at dropout 0.1: the member in a stack, in a traced
stack, and after its state was written and read. A network that draws in itself has no plain loop to be compared with.
Made with torch {torch.__version__} on a CPU.

| kind | network | | form | off | equal | |
|---|---|---|---|---|---|---|
"""
    PAGE.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
