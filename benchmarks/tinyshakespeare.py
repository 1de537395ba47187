"""Windows of tinyshakespeare, for language models of characters in benchmarks.

The text is karpathy/char-rnn's data/tinyshakespeare/input.txt (commit 6f9487a; in the public domain). It is not part of
this repository: it is read from ``text/tinyshakespeare.txt`` in the folder that LUTHIER_DATA names, by default
../shared/data beside the checkout, and its checksum is looked at.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

import luthier as lt

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FILE, SHA256 = "text/tinyshakespeare.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def characters() -> Tensor:
    """The whole text, each character as its place among those that there are, (1115394,) int64."""
    path = DATA / FILE
    if not path.exists():
        raise SystemExit(f"there is no {path}: LUTHIER_DATA names the folder that holds {FILE} of karpathy/char-rnn")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise SystemExit(f"{path} is another text than karpathy/char-rnn's")
    place = {symbol: i for i, symbol in enumerate(sorted(set(raw)))}
    return torch.tensor([place[symbol] for symbol in raw])


def splits(seed: int, train: int, valid: int, test: int, window: int = 32) -> tuple[lt.Splits, int]:
    """Windows of characters and the characters after each, and how many different ones there are.

    The seed chooses where in the first eight tenths of the text the training windows begin; those for validation and
    test are the first of the ninth and of the last tenth, whatever the seed.
    """
    text = characters()
    held = len(text) * 8 // 10
    begin = (seed * 7_919 * window) % (held - train * window - 1)

    def part(start: int, windows: int) -> lt.Split:
        chosen = text[start : start + windows * window + 1]
        return lt.Split(chosen[:-1].view(windows, window).clone(), chosen[1:].view(windows, window).clone())

    parts = part(begin, train), part(held, valid), part(len(text) * 9 // 10, test)
    return lt.Splits(*parts), int(text.max()) + 1
