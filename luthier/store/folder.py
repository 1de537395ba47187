"""Folders that hold checkpoints: one in this machine's file system, or one behind an fsspec URL."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from luthier.errors import CheckpointError
from luthier.files import absolute
from luthier.store.liveness import ProcessIdentity, this_process

_DAY = 86400.0

Stamp = tuple[int, int, int]  # what tells one content of a file from another


class Folder(Protocol):
    """A folder of files that are written whole or not at all; ``name`` is a file's name in it.

    A missing file is a FileNotFoundError; other failures are those of the file system.
    """

    path: str

    def write(self, name: str, data: memoryview) -> None:
        """Write a file that is not there yet."""
        ...

    def read(self, name: str) -> bytes:
        """All of a file."""
        ...

    def names(self) -> list[str]:
        """Return the names of all files in the folder; empty if it does not exist."""
        ...

    def remove(self, name: str) -> None:
        """Remove one file."""
        ...

    def age(self, name: str) -> float:
        """Seconds since it was written; 0 where it is gone."""
        ...

    def stamp(self, name: str) -> Stamp | None:
        """Return a stamp that changes with the file's content; None where that is not known."""
        ...

    def sweep(self) -> None:
        """Remove unfinished files of processes that are now dead."""
        ...

    def clear(self) -> None:
        """Remove the folder and all that is in it."""
        ...


def folder_at(place: str | Path, durable: bool) -> Folder:
    """The folder at a path or URL; ``durable`` ones outlive a crash of the machine."""
    text = str(place)
    if "://" in text and not text.startswith("file://"):
        return RemoteFolder(text.rstrip("/"))
    return LocalFolder(str(absolute(text.removeprefix("file://"))), durable)


class LocalFolder:
    """A folder of this machine, made by the first write. Paths are plain strings: a small state costs little else."""

    def __init__(self, path: str, durable: bool) -> None:
        self.path, self._durable = path, durable
        self._swept = False  # whether it is there, and was swept

    def write(self, name: str, data: memoryview) -> None:
        if not self._swept:
            os.makedirs(self.path, exist_ok=True)
            self.sweep()
        temporary = f"{self.path}/.{name}.{owner_mark()}.tmp"
        try:
            with open(temporary, "xb", buffering=0) as out:  # x: a link that was planted there is not followed
                while data:
                    data = data[out.write(data) :]
                if self._durable:
                    os.fsync(out.fileno())
            os.rename(temporary, f"{self.path}/{name}")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if self._durable:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def read(self, name: str) -> bytes:
        return Path(self.path, name).read_bytes()

    def names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return os.listdir(self.path)
        return []

    def remove(self, name: str) -> None:
        os.unlink(f"{self.path}/{name}")

    def age(self, name: str) -> float:
        try:
            return time.time() - os.stat(f"{self.path}/{name}").st_mtime
        except FileNotFoundError:
            return 0.0

    def stamp(self, name: str) -> Stamp | None:
        try:
            found = os.stat(f"{self.path}/{name}")
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def sweep(self) -> None:
        self._swept = True
        for name in self.names():
            if not (name.startswith(".") and name.endswith(".tmp")):
                continue
            with contextlib.suppress(OSError, ValueError):
                host, pid, started = name.removesuffix(".tmp").rsplit(".", 3)[1:]
                here = this_process().host
                dead = host == _short(here) and ProcessIdentity(here, int(pid), started).dead
                if dead or self.age(name) > _DAY:
                    self.remove(name)

    def clear(self) -> None:
        self._swept = False
        if os.path.exists(self.path):
            shutil.rmtree(self.path)


class RemoteFolder:
    """A folder behind an fsspec URL (``s3://bucket/runs``), where a file is written under another name and moved."""

    def __init__(self, url: str) -> None:
        self.path = url

    def write(self, name: str, data: memoryview) -> None:
        fs, root = self._filesystem()
        fs.makedirs(root, exist_ok=True)
        temporary = f"{root}/.{name}.tmp"
        try:
            fs.pipe_file(temporary, bytes(data))
            fs.mv(temporary, f"{root}/{name}")
        except BaseException:
            with contextlib.suppress(Exception):
                fs.rm_file(temporary)
            raise

    def read(self, name: str) -> bytes:
        fs, root = self._filesystem()
        return fs.cat_file(f"{root}/{name}")

    def names(self) -> list[str]:
        fs, root = self._filesystem()
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(root, detail=False)] if fs.exists(root) else []

    def remove(self, name: str) -> None:
        fs, root = self._filesystem()
        fs.rm_file(f"{root}/{name}")

    def age(self, name: str) -> float:
        fs, root = self._filesystem()
        try:
            return time.time() - fs.modified(f"{root}/{name}").timestamp()
        except FileNotFoundError:
            return 0.0

    def stamp(self, name: str) -> Stamp | None:
        return None

    def sweep(self) -> None:
        """Nothing: whose a half-written file is, cannot be known."""

    def clear(self) -> None:
        fs, root = self._filesystem()
        if fs.exists(root):
            fs.rm(root, recursive=True)

    def _filesystem(self) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs

            fs, root = url_to_fs(self.path)
        except (ImportError, ValueError) as error:
            remedy = "Use a local folder, or install fsspec and the package that it names for this kind of URL."
            raise CheckpointError(f"no such file system ({error})", where=self.path, remedy=remedy) from error
        return fs, root.rstrip("/")


def owner_mark() -> str:
    """Return the mark that identifies this process in the files that it is writing."""
    return _mark(os.getpid())


@cache
def _mark(pid: int) -> str:
    """The mark of this process, whose number is given since a fork has another."""
    process = this_process()
    return f"{_short(process.host)}.{process.pid}.{process.started or 0}"


def _short(host: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_DNS, host).hex
