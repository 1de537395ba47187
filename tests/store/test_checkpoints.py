"""Checkpoints: whole or not at all, and errors that name the file."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from luthier.errors import CheckpointError
from luthier.store.checkpoints import MARKER, Checkpoints, folder_name, study_folder

STATE = {
    "params": {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([[float("nan"), float("inf")]])},
    "opt": [{"step": 3, "name": "adam"}, (1, None, True)],
    "t": torch.tensor([1, 2], dtype=torch.int64),
    7: "größe",
}


@pytest.fixture(params=["local", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Checkpoints]:
    if request.param == "local":
        yield Checkpoints(tmp_path / "new" / "folder")
    else:
        made = Checkpoints(f"memory://luthier-{uuid.uuid4().hex}/runs")
        yield made
        made.clear()


def test_a_state_comes_back_exactly(checkpoints: Checkpoints) -> None:
    meta = {"jobs": [3, 4], "loss": 0.1}
    file = checkpoints.save("jobs 3/4", STATE, meta)
    state, found = checkpoints.load(file)
    assert found == meta
    assert list(state) == list(STATE) and state["opt"] == STATE["opt"] and state[7] == "größe"
    for name, tensor in STATE["params"].items():
        assert torch.equal(state["params"][name].nan_to_num(7), tensor.nan_to_num(7))
    assert state["t"].dtype == torch.int64
    assert pickle.loads(pickle.dumps(checkpoints)).load(file)[1] == meta


def test_what_was_just_saved_is_what_is_on_the_disk_and_belongs_to_whoever_loads_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved = {"w": torch.arange(6.0).reshape(2, 3).T, "rest": [(torch.ones(2),), {"n": 1}]}
    file = checkpoints.save("a", saved, {"jobs": [1]})
    saved["w"].zero_()  # whoever trained it goes on
    for _ in range(2):
        here, there = checkpoints.load(file), Checkpoints(tmp_path).load(file)
        assert torch.equal(here[0]["w"], there[0]["w"]) and here[0]["w"].stride() == there[0]["w"].stride()
        assert torch.equal(here[0]["rest"][0][0], there[0]["rest"][0][0]) and type(here[0]["rest"][0]) is tuple
        assert here[0]["rest"][1] == there[0]["rest"][1] == {"n": 1} and here[1] == there[1] == {"jobs": [1]}
        here[0]["w"].zero_()
        here[0]["rest"][0][0].zero_()
        here[1]["jobs"].append(2)
    assert len(pickle.dumps(checkpoints)) < 1_000, "what is kept in memory is not sent along"


def test_two_names_of_one_tensor_stay_one(tmp_path: Path) -> None:
    checkpoints, tensor = Checkpoints(tmp_path), torch.zeros(3)
    file = checkpoints.save("a", {"one": tensor, "two": tensor})
    state, _ = checkpoints.load(file)
    state["one"] += 1
    assert torch.equal(state["two"], torch.ones(3))


def test_memory_holds_the_latest_states_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.store.contents.BYTES", 12_500)
    checkpoints = Checkpoints(tmp_path)
    files = [checkpoints.save("a", {"w": torch.full((1_000,), float(i))}) for i in range(5)]
    large = checkpoints.save("a", {"w": torch.zeros(5_000)})
    assert checkpoints._recent.names() == files[-2:]
    assert all(checkpoints.load(file)[0]["w"][0] == i for i, file in enumerate(files))
    assert len(checkpoints.load(large)[0]["w"]) == 5_000


def test_a_file_that_was_changed_is_read_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, durable=False)
    one, two = (checkpoints.save("a", {"w": torch.full((3,), value)}) for value in (1.0, 2.0))
    (tmp_path / one).write_bytes((tmp_path / two).read_bytes())
    assert torch.equal(checkpoints.load(one)[0]["w"], torch.full((3,), 2.0))
    (tmp_path / two).unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.load(two)


def test_every_save_is_a_new_file(checkpoints: Checkpoints) -> None:
    one, two = checkpoints.save("same", {"n": 1}), checkpoints.save("same", {"n": 2})
    assert checkpoints.load(one)[0]["n"] == 1 and checkpoints.load(two)[0]["n"] == 2
    assert checkpoints.files() == sorted([one, two])


def test_files_are_removed(checkpoints: Checkpoints) -> None:
    assert checkpoints.files() == []
    names = [checkpoints.save("x", {"n": n}) for n in range(5)]
    checkpoints.remove([names[0], names[0]])
    assert checkpoints.files() == sorted(names[1:])
    checkpoints.clear()
    assert checkpoints.files() == []
    checkpoints.clear()


def test_a_missing_file_is_named(checkpoints: Checkpoints) -> None:
    with pytest.raises(CheckpointError, match=r"x-1\.ckpt: the checkpoint does not exist"):
        checkpoints.load("x-1.ckpt")


@pytest.mark.parametrize("file", ["../x.ckpt", "/etc/x.ckpt", "a/b.ckpt", "x", ".x.ckpt", "", None, "a\0.ckpt"])
def test_a_name_cannot_lead_out_of_the_folder(checkpoints: Checkpoints, file: str) -> None:
    for use in (checkpoints.load, lambda name: checkpoints.remove([name])):
        with pytest.raises(CheckpointError, match="not the name of a checkpoint"):
            use(file)


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": {"b": print}}, r"state\['a'\]\['b'\]: builtin_function_or_method"),
        ([1, object()], r"state\[1\]: object"),
        ({"a": {1, 2}}, r"state\['a'\]: set"),
        ({object(): 1}, "a key of state: object"),
    ],
)
def test_a_state_that_needs_pickle_is_refused(checkpoints: Checkpoints, state: object, place: str) -> None:
    with pytest.raises(CheckpointError, match=place):
        checkpoints.save("x", state)
    assert checkpoints.files() == []


def test_a_view_is_written_without_the_rest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    stack = torch.randn(64, 10_000, requires_grad=True)
    file = checkpoints.save("row", {"w": stack[3]})
    assert (tmp_path / file).stat().st_size < 50_000
    loaded = checkpoints.load(file)[0]["w"]
    assert torch.equal(loaded, stack[3]) and not loaded.requires_grad


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, part: float) -> None:
    checkpoints = Checkpoints(tmp_path)
    file = checkpoints.save("x", STATE)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: int(part * len(data))])
    with pytest.raises(CheckpointError, match="not a whole checkpoint") as caught:
        checkpoints.load(file)
    assert file in str(caught.value)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    "content",
    [{"w": torch.ones(1)}, [1], Evil(), {"format": "other", "state": 1, "meta": 2}],
    ids=["tensors", "list", "code", "another format"],
)
def test_a_foreign_file_is_named_and_its_code_never_runs(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        Checkpoints(tmp_path).load("x.ckpt")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        Checkpoints(tmp_path / "file").save("x", {})


def test_an_unknown_file_system_is_named() -> None:
    with pytest.raises(CheckpointError, match="no such file system"):
        Checkpoints("nowhere://bucket/runs").save("x", {})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    checkpoints = Checkpoints(small_disk / "runs")
    kept = checkpoints.save("kept", {"w": torch.ones(1000)})
    with pytest.raises(CheckpointError, match="the disk is full") as caught:
        checkpoints.save("large", {"w": torch.ones(1_000_000)})
    assert str(small_disk) in str(caught.value) and "Free some space" in str(caught.value)
    assert [path.name for path in (small_disk / "runs").iterdir()] == [kept], "no half-written file stays"
    assert torch.equal(checkpoints.load(kept)[0]["w"], torch.ones(1000))
    again = checkpoints.save("small", {"w": torch.ones(1000)})
    assert checkpoints.files() == sorted([kept, again])


def test_a_limit_on_the_size_of_files_is_like_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys, torch\n"
        "from luthier.errors import CheckpointError\n"
        "from luthier.store.checkpoints import Checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "checkpoints = Checkpoints(sys.argv[1])\n"
        "kept = checkpoints.save('kept', {'w': torch.ones(100)})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    checkpoints.save('large', {'w': torch.ones(1_000_000)})\n"
        "except CheckpointError as error:\n"
        "    assert 'the disk is full' in str(error), error\n"
        "    assert checkpoints.files() == [kept]\n"
        "    print('named')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True)
    assert done.stdout == "named\n", done.stderr
    assert not list(tmp_path.glob(".*"))


def test_what_a_killed_writer_left_is_swept_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from luthier.store.folder import owner_mark\n"
        "Path(sys.argv[1], f'.x-1.ckpt.{owner_mark()}.tmp').touch(); print('wrote', flush=True); sys.stdin.read()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout and writer.stdout.readline() == b"wrote\n"
        Checkpoints(tmp_path).save("y", {})
        assert len(list(tmp_path.glob(".*.tmp"))) == 1
        writer.kill()
    foreign = tmp_path / ".x-2.ckpt.another-machine.1.1.tmp"
    foreign.touch()
    Checkpoints(tmp_path).save("y", {})
    assert list(tmp_path.glob(".*.tmp")) == [foreign], "of another machine's nothing is known before a day has passed"
    os.utime(foreign, (0, 0))
    Checkpoints(tmp_path).save("y", {})
    assert not list(tmp_path.glob(".*.tmp"))


def test_each_study_has_a_folder_of_its_own() -> None:
    names = ["a", "a/b", "a_b", "a%2Fb", ".", "..", "...", "größe", "A b", "x" * 300, "x" * 299 + "y", "ö" * 100]
    folders = [study_folder("/root", folder_name(name)) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        name = Path(folder).name
        assert folder == f"/root/{name}" and name.strip(".") and len(name.encode()) < 255
    assert study_folder("s3://bucket/runs/", "a") == "s3://bucket/runs/a"


def test_a_file_is_known_by_its_ids(tmp_path: Path) -> None:
    mine = Checkpoints(tmp_path / "mine", identity={"store": "s", "study": "a"})
    theirs = Checkpoints(tmp_path / "theirs", identity={"store": "s", "study": "b"})
    file, other = mine.save("x", {"n": 1}), theirs.save("x", {"n": 2})
    assert mine.written_by(7).load(file) == ({"n": 1}, {}) and "-o7-" in mine.written_by(7).save("x", {})
    (tmp_path / "mine" / other).write_bytes((tmp_path / "theirs" / other).read_bytes())
    bare = Checkpoints(tmp_path / "mine").save("x", {"n": 3})
    for foreign in (other, bare):
        with pytest.raises(CheckpointError, match=r"belongs to another study .*'study': 'a'"):
            mine.load(foreign)
    older = Checkpoints(tmp_path / "mine", identity={"store": "s", "study": "a"}, older=True)
    assert older.load(bare) == ({"n": 3}, {}), "written before files had ids"
    with pytest.raises(CheckpointError, match="belongs to another study"):
        older.load(other)


def test_a_folder_is_known_by_its_marker(tmp_path: Path) -> None:
    Checkpoints(tmp_path, identity={"store": "s", "study": "a"}).save("x", {})
    assert (tmp_path / MARKER).exists()
    with pytest.raises(CheckpointError, match=r"the folder belongs to another study.*checkpoints="):
        Checkpoints(tmp_path, identity={"store": "s", "study": "b"}).save("x", {})
    assert len(list(tmp_path.iterdir())) == 2


def test_the_content_of_a_removed_file_is_not_kept(tmp_path: Path) -> None:
    """Or a training that is saved on its way would hold each state that a later one has replaced."""
    checkpoints = Checkpoints(tmp_path)
    files = [checkpoints.save("partial", {"w": torch.ones(9) * i}) for i in range(3)]
    checkpoints.remove(files[:2])
    assert checkpoints._recent.names() == files[2:]
    checkpoints.remove(files[2:])
    assert checkpoints._recent.names() == [] and checkpoints._recent._bytes == 0
