"""Checkpoints of strangers: what claims more than it holds is refused before anything of that size is made."""

from __future__ import annotations

import os
import pickle
import resource
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from luthier.errors import CheckpointError
from luthier.store.checkpoints import Checkpoints
from luthier.store.folder import owner_mark


def forged(
    folder: Path, name: str, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> str:
    """A checkpoint of a small state, changed record by record."""
    checkpoints = Checkpoints(folder)
    source = folder / checkpoints.save("source", {"w": torch.ones(3, 4)})
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(folder / name, "w", compression) as out:
        for record in whole.infolist():
            out.writestr(record.filename, change(record.filename, whole.read(record.filename)))
    return name


class Bytes:
    def __reduce__(self) -> Any:
        return bytearray, (10**11,)


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    ("part", "change", "compression", "message"),
    [
        ("data/0", lambda data: data + bytes(10**8), zipfile.ZIP_DEFLATED, r"its record .* claims"),
        ("data.pkl", lambda data: data.replace(b"K\3K\4\x86", b"J\xff\xff\xff\x7fK\4\x86", 1), 0, r"\[2147483647, 4\]"),
        ("data.pkl", lambda data: data.replace(b"K\3K\4\x86", b"K\4K\4\x86", 1), 0, ""),
        ("data.pkl", lambda data: data.replace(b"K\x0c", b"J\0\0\0\x7f", 1), 0, "its storage '0' claims 2130706432"),
        ("data.pkl", lambda data: pickle.dumps({"state": Bytes()}, 2), 0, "bytearray, which no checkpoint"),
        ("data.pkl", lambda data: pickle.dumps({"state": Command()}, 2), 0, "system, which no checkpoint"),
        ("data.pkl", lambda data: b"\x80\x02" + b"(" * 10**6, 0, "Ran out of input"),
    ],
)
def test_a_file_that_claims_more_than_it_holds_is_refused_by_name(
    part: str, change: Callable[[bytes], bytes], compression: int, message: str, tmp_path: Path
) -> None:
    edit = lambda name, data: change(data) if name.endswith("/" + part) else data  # noqa: E731
    name = forged(tmp_path, "forged.ckpt", edit, compression)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=rf"forged\.ckpt: not a whole checkpoint.*{message}"):
        Checkpoints(tmp_path).load(name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_everything_that_a_state_may_hold_passes_the_check(tmp_path: Path) -> None:
    tied = torch.arange(4.0)
    state = {
        "tensors": [torch.ones(3, 4).t(), torch.empty(0, 3), torch.tensor(True), nn.Parameter(tied), tied],
        "types": [
            torch.ones(2).to(kind) for kind in (torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.complex64)
        ],
        "rest": (1, 2.5, "text", None, True, {"a": [10**20, float("nan")]}),
    }
    file = Checkpoints(tmp_path).save("all", state)
    loaded, _ = Checkpoints(tmp_path).load(file)
    assert [tensor.shape for tensor in loaded["tensors"]] == [tensor.shape for tensor in state["tensors"]]
    assert [tensor.dtype for tensor in loaded["types"]] == [tensor.dtype for tensor in state["types"]]
    assert loaded["rest"][:5] == state["rest"][:5]


def test_a_planted_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    checkpoints = Checkpoints(tmp_path / "folder")
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))  # an attacker who has guessed the name
    name = checkpoints.save("job", {})
    (tmp_path / "folder" / name).unlink()
    (tmp_path / "folder" / f".{name}.{owner_mark()}.tmp").symlink_to(victim)
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.save("job", {})
    assert victim.read_text() == "precious"
