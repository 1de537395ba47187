"""Addresses of stores: read, checked, and shown without their passwords."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc

from luthier.errors import StoreError
from luthier.files import absolute
from luthier.text import SECRET, plain, without_secrets

WAIT = 60.0  # seconds to wait for another writer, unless the URL says otherwise
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
# No paths, though they have no "://": postgres:/host, sqlite//a.db, postgresql:host, file:a.db, and libpq's words.
_MISSPELT = re.compile(r"(?i)\w\w+(\+\w+)?:/|(postgres\w*|psql|pg|sqlite3?|mysql|mariadb|file)(\+\w+)?(:|//)")
_WORDS = re.compile(r"(^|\s)(host|dbname|user|password|service)\s*=")


class Address(NamedTuple):
    """Location of a store.

    Args:
        url: For SQLAlchemy.
        name: Name used in messages: the path of an SQLite file, or the URL without its passwords.
        wait: Seconds to wait for other writers.
        synchronous: SQLite's ``synchronous`` setting, NORMAL or FULL.
        secrets: Texts that no message may hold.
    """

    url: sa.URL
    name: str
    wait: float = WAIT
    synchronous: str = "NORMAL"
    secrets: tuple[str, ...] = ()

    @property
    def sqlite(self) -> bool:
        return self.url.drivername == "sqlite"


def parse(url: str | Path) -> Address:
    """The address that a URL or a path means.

    Raises:
        StoreError: If it is of no kind that luthier knows, or has options that it does not.
    """
    text = str(url)
    if isinstance(url, Path) or "://" not in text:
        if _MISSPELT.match(text) or _WORDS.search(text):
            raise _unknown(f"{text.partition(':')[0].partition('/')[0].partition('=')[0]}…")
        return Address(_file(text), str(_file(text).database))
    try:
        parsed = sa.make_url(text)
    except (exc.ArgumentError, ValueError):
        raise _unknown(f"{text.partition('://')[0]}://…") from None  # SQLAlchemy's error shows the text
    options = dict(parsed.query)
    wait = _seconds(options.pop("timeout", WAIT))
    if parsed.drivername in _POSTGRESQL:
        if "@" in f"{parsed.host or ''}{parsed.database or ''}":
            remedy = "Write it as a URL does: %40 for @, %2F for /, %3A for :, %3F for ?, %23 for #."
            raise StoreError("an @ stands in the host or in the database", where="store postgresql://…", remedy=remedy)
        found = parsed.set(drivername="postgresql+psycopg", query=options)
        secrets = _secrets(found)
        return Address(found, without_secrets(shown(found), secrets), wait, secrets=secrets)
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise _unknown(shown(parsed))
    if parsed.host or parsed.username or parsed.password or parsed.port or not parsed.database:
        remedy = "A file has no host: write sqlite:///a.db for one in this folder, sqlite:////home/me/a.db elsewhere."
        raise StoreError("a host stands where a path begins", where=f"store {shown(parsed)}", remedy=remedy)
    synchronous = str(options.pop("synchronous", "normal")).upper()
    if synchronous not in ("NORMAL", "FULL") or options:
        wrong = f"synchronous={synchronous.lower()}" if not options else ", ".join(options)
        remedy = "The options of an SQLite store are synchronous=normal, synchronous=full and timeout=seconds."
        raise StoreError(f"{wrong} is not known", where=f"store {parsed.database}", remedy=remedy)
    file = _file(parsed.database)
    return Address(file, str(file.database), wait, synchronous)


def shown(url: sa.URL) -> str:
    """The URL without passwords: three stars in the place of the first, other options that hold one left out."""
    query = {name: value for name, value in url.query.items() if not SECRET.search(name)}
    return url.set(query=query).render_as_string(hide_password=True)


def _file(path: str) -> sa.URL:
    whole = absolute(path)
    try:
        str(whole).encode()
        os.fsencode(whole)  # what a locale that is not UTF-8 cannot name
    except UnicodeEncodeError:
        remedy = "SQLite names files in UTF-8: rename the file or its folder, or set LC_ALL=C.UTF-8."
        raise StoreError(
            "its path is not UTF-8, or the locale is not", where=f"store {plain(str(whole))}", remedy=remedy
        ) from None
    return sa.URL.create("sqlite", database=str(whole))


def _secrets(url: sa.URL) -> tuple[str, ...]:
    """The passwords of a URL, as they are and as they are spelt in it; short ones would be found in any text."""
    given = [str(url.password or ""), *(str(value) for name, value in url.query.items() if SECRET.search(name))]
    return tuple(one for one in given if len(one) > 3)


def _seconds(given: object) -> float:
    try:
        wait = float(str(given))
    except ValueError:
        wait = -1.0
    if not 0 <= wait < 1e6:
        remedy = "Give seconds: ?timeout=60."
        raise StoreError(f"timeout={given!r} is no number of seconds", where="store", remedy=remedy)
    return wait


def _unknown(url: str) -> StoreError:
    remedy = "Give a path, sqlite:///path or postgresql://user@host/database."
    return StoreError(f"{url!r} is no store that luthier knows", where="store", remedy=remedy)
