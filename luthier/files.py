"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

_STREAMS = ("/dev/fd/", "/proc/self/fd/")


def absolute(path: str | Path) -> Path:
    """The absolute path, with ``~`` read as a shell does: where there is no such user, ``~a.db`` is a file name.

    Examples:
        >>> absolute("/data/~/a.db"), absolute("~a.db").name
        (PosixPath('/data/~/a.db'), '~a.db')
    """
    return Path(os.path.expanduser(path)).absolute()  # noqa: PTH111 - Path.expanduser raises there


def write_whole(path: str | Path, data: str | bytes, make_folder: bool = False) -> Path:
    """Write a file whole or not at all: until the new content is on the disk the old one stays.

    It is written beside its place, under a name that nobody can guess, and moved there. A symbolic link in its place
    is replaced, not followed. The file keeps its permissions; a new one gets those that the umask leaves. A device or a
    pipe, such as ``/dev/stdout``, is written to directly.

    Args:
        path: The file.
        data: Its content; text is written in UTF-8, what that cannot hold as an escape.
        make_folder: Make its folder where it does not exist.

    Returns:
        The absolute path of the file.

    Raises:
        OSError: If it cannot be written. What was there is untouched then, and nothing half-written stays.
    """
    target = absolute(path)
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    if _is_stream(target):
        target.write_bytes(content)
        return target
    if target.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial, partial.open("r+b") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return target


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new file beside ``target``, under a name that nobody can guess, which takes its place at the end.

    An exception removes it, and leaves what was there.
    """
    partial = target.parent / f".{secrets.token_hex(12)}.part"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        try:
            with contextlib.suppress(OSError):  # there is no such file yet, or its permissions are not ours to give
                found = target.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                    os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & 0o777)
        finally:
            os.close(descriptor)
        yield partial
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _is_stream(target: Path) -> bool:
    text = str(target)
    if text in ("/dev/stdout", "/dev/stderr") or text.startswith(_STREAMS):
        return True
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
