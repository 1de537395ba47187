"""States of trainings on disk: written whole or not at all, read without pickle."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from luthier.errors import CheckpointError
from luthier.store.process import Process, this_process

SUFFIX = ".ckpt"
_FORMAT = "luthier checkpoint 1"
_DAY = 86400.0
RECENT = 1 << 26  # bytes of states that are kept in memory as well, for whoever continues them in this process


class _Recent(NamedTuple):
    """A state that this process has just written."""

    content: dict[str, Any]
    size: int
    stamp: tuple[int, int, int]  # of its file


class Checkpoints:
    """A folder of checkpoints, one file a stack of members.

    Every file is new (its name gets a random part), is written beside its place and renamed, and is on the disk when
    :meth:`save` returns. It can be pickled, and used by many processes at once.

    Args:
        folder: A local folder, created by the first save, or an fsspec URL (``s3://bucket/runs``, ``memory://runs``),
            where the file is written under another name and moved.
        durable: Whether a file has to outlive a crash of the machine; False saves the wait for the disk.

    Example:
        >>> import tempfile, torch
        >>> checkpoints = Checkpoints(tempfile.mkdtemp())
        >>> file = checkpoints.save("job-7", {"w": torch.ones(2)}, {"jobs": [7]})
        >>> checkpoints.load(file)
        ({'w': tensor([1., 1.])}, {'jobs': [7]})
    """

    def __init__(self, folder: str | Path, durable: bool = True) -> None:
        text = str(folder)
        self._remote = "://" in text and not text.startswith("file://")
        self.folder = (
            text.rstrip("/") if self._remote else str(Path(text.removeprefix("file://")).expanduser().absolute())
        )
        self._durable, self._swept = durable, False
        self._recent: dict[str, _Recent] = {}  # oldest first

    def __repr__(self) -> str:
        return f"Checkpoints({self.folder!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": {}}

    def save(self, name: str, state: Any, meta: Mapping[str, Any] | None = None) -> str:
        """Write a state.

        Args:
            name: Start of the file's name, for people.
            state: Nested dicts and lists of tensors, numbers, strings, booleans and None; tensors are detached, and a
                view is written without the rest of its storage.
            meta: Plain values that are kept beside it.

        Returns:
            The file's name in the folder: what :meth:`load` takes, and what ``Result.checkpoint`` names.

        Raises:
            CheckpointError: If the state holds something else, or the disk is full or cannot be written; what was
                there before is untouched and nothing half-written stays.
        """
        import torch

        file = f"{quote(name, safe='')[:80]}-{uuid.uuid4().hex[:12]}{SUFFIX}"
        content = {"format": _FORMAT, "state": _checked(state, "state"), "meta": _checked(dict(meta or {}), "meta")}
        data = io.BytesIO()
        torch.save(content, data)
        try:
            if self._remote:
                self._write_remote(file, data.getvalue())
            else:
                if not self._swept:
                    self._sweep()
                self._write_local(file, data.getbuffer())
                self._remember(file, content, data.tell())
        except Exception as error:  # an object store raises what its own library raises
            raise _unwritten(self._name(file), error) from error
        return file

    def load(self, file: str) -> tuple[Any, dict[str, Any]]:
        """State and meta of a checkpoint, tensors on the CPU.

        Raises:
            CheckpointError: If the file is missing, cut short, or was not written by :meth:`save`.
        """
        import torch

        remedy = "Start a new study, or restore the folder from a backup."
        _check_name(file)
        recent = self._recent.get(file)
        if recent is not None and recent.stamp == self._stamp(file):
            return _copied(recent.content["state"]), _copied(recent.content["meta"])
        try:
            data = self._read(file)
        except FileNotFoundError:
            raise CheckpointError("the checkpoint does not exist", where=self._name(file), remedy=remedy) from None
        except Exception as error:
            remedy = "Check that the folder is reachable and readable by you, then run again."
            raise CheckpointError(f"cannot be read ({error})", where=self._name(file), remedy=remedy) from error
        try:
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            return content["state"], content["meta"]
        except Exception as error:  # torch raises many kinds on a damaged file
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"not a whole checkpoint of luthier ({len(data)} bytes: {first})", where=self._name(file), remedy=remedy
            ) from error

    def files(self) -> list[str]:
        """Names of all checkpoints in the folder, sorted."""
        if self._remote:
            fs, root = self._filesystem()
            if not fs.exists(root):
                return []
            names = [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(root, detail=False)]
        else:
            names = [path.name for path in Path(self.folder).glob(f"*{SUFFIX}")]
        return sorted(name for name in names if name.endswith(SUFFIX) and not name.startswith("."))

    def remove(self, files: Iterable[str]) -> None:
        """Remove checkpoints; one that is gone already is no error."""
        for file in files:
            _check_name(file)
            try:
                if self._remote:
                    fs, root = self._filesystem()
                    fs.rm_file(f"{root}/{file}")
                else:
                    (Path(self.folder) / file).unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                remedy = "Check the permissions of the folder; the file may be removed by hand."
                raise CheckpointError(f"cannot be removed ({error})", where=self._name(file), remedy=remedy) from error

    def keep_only(self, files: Collection[str], *, older: float = 0.0) -> list[str]:
        """Remove every checkpoint that is not among ``files``, and what dead processes left half-written.

        A file that a process has written but not yet recorded is named nowhere: while others work on the study, use
        :meth:`remove` on recorded files, or let ``older`` spare what is young.

        Args:
            files: Names to keep.
            older: Remove only files last written more than this many seconds ago.

        Returns:
            The names removed.
        """
        kept = set(files)
        gone = [name for name in self.files() if name not in kept and self._age(name) >= older]
        self.remove(gone)
        if not self._remote:
            self._sweep()
        return gone

    def clear(self) -> None:
        """Remove the folder and all that is in it."""
        try:
            if self._remote:
                fs, root = self._filesystem()
                if fs.exists(root):
                    fs.rm(root, recursive=True)
            elif Path(self.folder).exists():
                shutil.rmtree(self.folder)
        except OSError as error:
            remedy = "Check its permissions; it may be removed by hand."
            raise CheckpointError(f"cannot be removed ({error})", where=self.folder, remedy=remedy) from error

    def _name(self, file: str) -> str:
        return f"{self.folder}/{file}"

    def _read(self, file: str) -> bytes:
        if self._remote:
            fs, root = self._filesystem()
            return fs.cat_file(f"{root}/{file}")
        return (Path(self.folder) / file).read_bytes()

    def _age(self, file: str) -> float:
        try:
            if not self._remote:
                return time.time() - (Path(self.folder) / file).stat().st_mtime
            fs, root = self._filesystem()
            return time.time() - fs.modified(f"{root}/{file}").timestamp()
        except FileNotFoundError:
            return 0.0

    def _remember(self, file: str, content: dict[str, Any], size: int) -> None:
        """Keep a state in memory, and let go of the oldest where that is too much."""
        stamp = self._stamp(file)
        if stamp is None or size > RECENT or _shared(content):
            return
        self._recent[file] = _Recent(_copied(content), size, stamp)
        total = sum(recent.size for recent in self._recent.values())
        for old in list(self._recent):
            if total <= RECENT:
                break
            total -= self._recent.pop(old).size

    def _stamp(self, file: str) -> tuple[int, int, int] | None:
        """What tells one content of a file from another; None where there is no file."""
        try:
            found = Path(self._name(file)).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _write_local(self, file: str, data: memoryview) -> None:
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{file}.{_owner_mark()}.tmp"
        try:
            with temporary.open("wb", buffering=0) as out:
                while data:
                    data = data[out.write(data) :]
                if self._durable:
                    os.fsync(out.fileno())
            temporary.rename(folder / file)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        if self._durable:
            _sync_folder(folder)

    def _write_remote(self, file: str, data: bytes) -> None:
        fs, root = self._filesystem()
        fs.makedirs(root, exist_ok=True)
        temporary = f"{root}/.{file}.tmp"
        try:
            fs.pipe_file(temporary, data)
            fs.mv(temporary, f"{root}/{file}")
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(temporary)
            raise

    def _filesystem(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            fs, root = url_to_fs(self.folder)
        except (ImportError, ValueError) as error:
            remedy = "Use a local folder, or install fsspec and the package that it names for this kind of URL."
            raise CheckpointError(f"no such file system ({error})", where=self.folder, remedy=remedy) from error
        return fs, root.rstrip("/")

    def _sweep(self) -> None:
        """Remove what processes that are dead now had not finished writing."""
        self._swept = True
        for path in Path(self.folder).glob(f".*{SUFFIX}.*.tmp"):
            with contextlib.suppress(OSError, ValueError):
                host, pid, started = path.name.removesuffix(".tmp").rsplit(".", 3)[1:]
                here = this_process().host
                dead = host == _short(here) and Process(here, int(pid), started).dead
                if dead or time.time() - path.stat().st_mtime > _DAY:
                    path.unlink(missing_ok=True)


def study_folder(root: str | Path, study: str) -> str:
    """The folder of one study under ``root``; any study name gives one folder name of its own."""
    name = quote(study, safe=" ()+,=@")
    if len(name) > 200:
        name = f"{name[:160]}-{uuid.uuid5(uuid.NAMESPACE_URL, study).hex}"
    return f"{str(root).rstrip('/')}/{name.replace('.', '%2E') if name.strip('.') == '' else name}"


def _owner_mark() -> str:
    return _mark(os.getpid())


@cache
def _mark(pid: int) -> str:
    """The mark of this process, whose number is given since a fork has another."""
    process = this_process()
    return f"{_short(process.host)}.{process.pid}.{process.started or 0}"


def _short(host: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_DNS, host).hex


def _check_name(file: str) -> None:
    if not isinstance(file, str) or not file.endswith(SUFFIX) or file.startswith(".") or set(file) & set("/\\\0"):
        remedy = "Checkpoints are named as save() returned it; the database may have been changed by hand."
        raise CheckpointError("not the name of a checkpoint", where=repr(file), remedy=remedy)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a folder cannot be opened; the rename is as durable as the system makes it
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(file: str, error: Exception) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    what = "the disk is full" if full else f"cannot be written ({type(error).__name__}: {error})"
    remedy = (
        "Free some space and run again: nothing recorded is lost."
        if full
        else "Check that the folder exists and that you may write there, then run again: nothing recorded is lost."
    )
    return CheckpointError(what, where=file, remedy=remedy)


def _copied(value: Any) -> Any:
    """A copy of what :func:`_checked` returned: whoever holds the other may write into its tensors."""
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(entry) for entry in value)
    return value.clone() if hasattr(value, "clone") else value


def _shared(value: Any) -> bool:
    """Whether two tensors lie in the same memory, as a file keeps them and copies one by one would not."""
    seen: list[int] = []
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (dict, list, tuple)):
            todo += one.values() if isinstance(one, dict) else one
        elif hasattr(one, "untyped_storage") and one.numel():
            seen.append(one.untyped_storage().data_ptr())
    return len(set(seen)) < len(seen)


def _checked(value: Any, path: str) -> Any:
    """A copy of ``value`` that :func:`torch.load` can read without pickle: tensors detached, on the CPU, without what
    lies around a view in its storage."""
    import torch

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(value, Mapping):
        return {_checked(key, f"a key of {path}"): _checked(entry, f"{path}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        kind = list if isinstance(value, list) else tuple
        return kind(_checked(entry, f"{path}[{place}]") for place, entry in enumerate(value))
    raise CheckpointError(
        f"{type(value).__name__} cannot be stored in a checkpoint",
        where=path,
        remedy="A state is made of dicts and lists of tensors, numbers, strings, booleans and None.",
    )
