"""Text of users made safe to show: on a terminal, in a file, and without the passwords in it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import unquote

# What a terminal obeys instead of showing it, what turns the direction of a line around, and halves of characters
# that no encoding can write (file names that are not UTF-8 hold them).
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_OPTION = re.compile(r"([\w%.-]+)(\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&;,'\")\]}]+)")
_ADDRESS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*(?::/{1,3}|//))([^\s'\"<>]*)@")
SECRET = re.compile(r"(?i)password|passwd|passfile|\bpwd\b|secret|access_key$|scram_\w+_key")  # names of options
STARS = "***"
_OURS = f"{Path(__file__).parent}/"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four are full width


class Tolerant:
    """A stream that drops what it cannot write: a full disk, a closed file or a reader that has gone ends no training.

    Args:
        stream: Stream that takes the text; None where a program has no console.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)  # pyright: ignore[reportOptionalMemberAccess]
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that can be done."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()  # pyright: ignore[reportOptionalMemberAccess]

    def isatty(self) -> bool:
        """True if there is a terminal, which shows what is written."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return self._stream.isatty()  # pyright: ignore[reportOptionalMemberAccess]
        return False


def plain(text: object) -> str:
    r"""Text in which everything can be seen and written: control characters and lone surrogates as escapes.

    Line ends and tabs stay.

    Examples:
        >>> print(plain("scan-\udcff.png \x1b[2J"))
        scan-\udcff.png \x1b[2J
    """
    return _UNSEEN.sub(_escaped, str(text).replace("\r\n", "\n"))


def cell(value: Any) -> Any:
    """A value as a cell of a CSV file: numbers as numbers, nothing that a spreadsheet or a terminal would obey."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = plain(json.dumps(value) if isinstance(value, list | tuple | dict) else value)
    return f"'{text}" if text.lstrip(" \n").startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Text without the passwords that stand in it: in addresses, in options such as ``password=…``, and those given.

    Examples:
        >>> without_secrets("postgresql://me:one@host/db?sslpassword=two failed for three", ["three"])
        'postgresql://me:***@host/db?sslpassword=*** failed for ***'
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, STARS)
    if "@" in text:
        text = _ADDRESS.sub(_address, text)
    return _OPTION.sub(_option, text) if "=" in text else text


def public_url(url: str) -> str:
    """A store's URL without its passwords, which libpq then takes from the environment or its own files.

    Examples:
        >>> public_url("postgresql://me:one@host/luthier?password=two&sslmode=require")
        'postgresql://me@host/luthier?sslmode=require'
    """
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.startswith("sqlite"):
        return url
    place, asked, query = rest.partition("?")
    if asked and "@" in query and ":" in place and "@" not in place:  # the ? is part of the password
        place, query = rest, ""
    user, at, place = place.rpartition("@")
    kept = "&".join(part for part in query.split("&") if part and not SECRET.search(unquote(part.partition("=")[0])))
    return f"{scheme}://{user.partition(':')[0]}{at}{place}{'?' if kept else ''}{kept}"


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _address(found: re.Match[str]) -> str:
    """The user before the last @ of an address, without the password, which may hold a / or an @ itself."""
    scheme, rest = found.groups()
    user, colon, _ = rest.partition(":")
    return f"{scheme}{user}:{STARS}@" if colon else found.group()


def _option(found: re.Match[str]) -> str:
    name, equals, _ = found.groups()
    return f"{name}{equals}{STARS}" if SECRET.search(unquote(name)) else found.group()


def warn(text: str) -> None:
    """Warn of what happens at the user's own line: the innermost one outside of luthier."""
    frame, level = sys._getframe(1), 2
    while frame.f_code.co_filename.startswith(_OURS) and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, RuntimeWarning, stacklevel=level)
