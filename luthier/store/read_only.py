"""An SQLite file opened to be read: by whoever may read it, and so that nothing beside it changes.

SQLite writes even to read. A database in WAL mode needs its ``-shm`` file, which a reader makes where it is not there;
made by another user it would lock the writers out. So a file that this user may not write, or in a folder that it may
not write to, is opened

- as it is (``mode=ro``), while writers are at work: their ``-shm`` is there;
- as one that does not change (``immutable=1``), where no ``-wal`` is there, until one is;
- as a copy in a temporary folder, where a writer that was killed has left its ``-wal`` alone, or where the database is
  of an older schema: the copy is brought up to date.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.errors import StoreError

REMEDY = "Give the path that the study was run with."


class Reader:
    """Connections to a file that are for reading alone.

    Args:
        name: The path of the file.
        wait: Seconds to wait for a lock.

    Raises:
        StoreError: If there is no such file.
    """

    def __init__(self, name: str, wait: float) -> None:
        self._file, self._wait = Path(name), wait
        self._copy: Path | None = None
        self._remove: Any = None
        self.upgrade: Callable[[Path], None] | None = None  # brings a copy of an older database up to date
        self._seen: Any = None  # what the files were like when a connection was made that does not see changes
        self.check()

    def check(self) -> None:
        """Raise StoreError where the file is gone."""
        where = f"store {self._file}"
        try:
            found = self._file.is_file()
        except OSError as error:
            raise StoreError(f"it cannot be looked at ({error.strerror})", where=where, remedy=REMEDY) from error
        if not found:
            what = "it is a folder" if self._file.is_dir() else "there is no such file"
            raise StoreError(what, where=where, remedy=REMEDY)

    def connect(self) -> sqlite3.Connection:
        """A new connection; the driver's own errors come through."""
        self._seen = None
        if self.upgrade is not None:
            self._seen, copy = self._state(), self._copied()
            self.upgrade(copy)
            return self._open(f"{copy.as_uri()}?mode=rw")
        if os.access(self._file, os.W_OK) and os.access(self._file.parent, os.W_OK):
            ways = ["mode=rw", "mode=ro"]  # its last connection to close puts the WAL into the file, as any would
        elif not self._size("-wal"):
            ways, self._seen = ["immutable=1"], self._state()
        else:
            ways = ["mode=ro"] if self._size("-shm") else []
        for way in ways:
            try:
                return self._open(f"{self._file.as_uri()}?{way}")
            except sqlite3.OperationalError:
                if way == ways[-1] and not self._size("-wal"):
                    raise
        self._seen = self._state()
        return self._open(f"{self._copied().as_uri()}?mode=rw")

    def close(self) -> None:
        """Remove the copy, if one was made."""
        if self._remove is not None:
            self._remove()
            self._remove = self._copy = None

    @property
    def stale(self) -> bool:
        """True if the files have changed under a connection that does not notice."""
        return self._seen is not None and self._seen != self._state()

    def _open(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(uri, timeout=self._wait, check_same_thread=False, uri=True, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _copied(self) -> Path:
        """A copy of the file with its WAL, in a folder that goes with this object."""
        if self._copy is None:
            folder = tempfile.mkdtemp(prefix="luthier-")
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._copy = Path(folder, "copy.db")
        for ending in ("", "-wal", "-shm"):
            copy = Path(f"{self._copy}{ending}")
            copy.unlink(missing_ok=True)
            if ending != "-shm" and self._size(ending):
                shutil.copyfile(f"{self._file}{ending}", copy)
        return self._copy

    def _state(self) -> Any:
        """Return a value that differs after every write, for connections that look at no lock."""
        found = []
        for ending in ("", "-wal"):
            try:
                stat = Path(f"{self._file}{ending}").stat()
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except OSError:
                found.append(None)
        return found

    def _size(self, ending: str) -> int:
        try:
            return Path(f"{self._file}{ending}").stat().st_size
        except OSError:
            return 0
