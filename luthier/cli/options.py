"""Parts shared by the commands: options, luthier's errors as one line and an exit code, the console."""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from luthier.errors import ConfigError, DataError, LuthierError, MethodError, SpaceError, TaskError
from luthier.limits import described
from luthier.text import plain, public_url, without_secrets

_SIGN = re.compile("(<=|>=|=)")
WRONG_USE = (MethodError, TaskError, SpaceError, ConfigError, DataError)

StoreOption = Annotated[
    str, typer.Option("--store", "-s", envvar="LUTHIER_STORE", help="SQLite file or postgresql:// URL.")
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option(help="Bounds of a metric, LOW:HIGH: latency=:10 is at most 10; again for more.", metavar="NAME=:HIGH"),
]
NameArgument = Annotated[str, typer.Argument(help="The study, as [bold]luthier studies[/bold] lists it.")]
DEFAULT_STORE = "luthier.db"


class Mode(enum.StrEnum):
    """The direction in which a metric is better."""

    min = "min"
    max = "max"


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Print luthier's own errors, and a full standard output, as one red line, and exit with the code that fits."""
    try:
        yield
        sys.stdout.flush()
    except LuthierError as error:
        _complain(str(error))
        raise typer.Exit(2 if isinstance(error, WRONG_USE) else 1) from None
    except OSError as error:
        if error.errno == errno.EPIPE or not _output_fails():  # | head is answered by typer itself
            raise
        _complain(f"standard output cannot be written ({error.strerror})")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest would fail again at the exit
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _output_fails() -> bool:
    """True if standard output accepts no more, tested by an empty line: the text that failed is in no buffer now."""
    try:
        print(flush=True)
    except OSError:
        return True
    return False


@contextlib.contextmanager
def existing(store: str) -> Iterator[Any]:
    """A store that is there already, to look at."""
    from luthier.store import open_store

    with open_store(store, read_only=True) as opened:
        yield opened


def usage(message: str) -> typer.Exit:
    """Complain of wrong use; return the exit to raise."""
    _complain(message)
    return typer.Exit(2)


def failure(study: Any) -> typer.Exit:
    """Complain that no trial of a study ended well, with the last one's error; return the exit to raise."""
    errors = [record.error for record in study.trials if record.error]
    last = f"; the last failed with: {errors[-1]}" if errors else ""
    limits = f" within the limits ({described(study.history.limits)})" if study.history.limits else ""
    _complain(f"{study.name}: none of {len(study.trials)} trials ended well{limits}{last}")
    return typer.Exit(1)


def _complain(message: str) -> None:
    Console(stderr=True).print(Text(plain(without_secrets(message)), style="red"), soft_wrap=True)


def bounds(texts: list[str]) -> dict[str, tuple[float | None, float | None]]:
    """``["latency=:10", "accuracy>=0.9"]`` as limits: (low, high) by metric."""
    found: dict[str, tuple[float | None, float | None]] = {}
    for text in texts:
        name, sign, bound = (part.strip() for part in (*_SIGN.split(text, maxsplit=1), "", "")[:3])
        low, colon, high = {"<=": ("", ":", bound), ">=": (bound, ":", "")}.get(sign, bound.partition(":"))
        try:
            pair = float(low) if low.strip() else None, float(high) if high.strip() else None
        except ValueError:
            colon, pair = "", (None, None)
        if not name or name in found or not colon:
            remedy = "it is NAME=LOW:HIGH, once for each metric, and one end may be left out: latency=:10 is at most 10"
            raise usage(f"--limit {text}: {remedy}")
        found[name] = pair
    return found


def several(text: str | None) -> str | list[str] | None:
    """``"loss,latency"`` as two names; one name as it is."""
    names = [part.strip() for part in (text or "").split(",") if part.strip()]
    return names if len(names) > 1 else text


def directions(text: str | None) -> str | list[str] | None:
    """``"min,max"`` as two directions."""
    found = several(text)
    for one in [found] if isinstance(found, str) else found or []:
        if one not in tuple(Mode):
            raise usage(f"--mode {one}: it is min or max, for all objectives or one for each")
    return found


def options(pairs: list[str]) -> dict[str, Any]:
    """``["points=3", "shuffle=true"]`` as settings: JSON where it is JSON, else text."""
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise MethodError(f"{pair!r} is not KEY=VALUE", where="--set", remedy="Write --set points=5.")
        try:
            options[key] = json.loads(text)
        except json.JSONDecodeError:
            options[key] = text
    return options


def screen() -> Console:
    """Standard output, for tables."""
    console = Console()
    return console if console.is_terminal else Console(width=160)  # a pipe has no width to respect


def quoted(text: str) -> str:
    """A name or an address as a shell takes it."""
    return shlex.quote(public_url(text))


def named_method(text: str, settings: dict[str, Any], objectives: int) -> Any:
    """The method of ``--method`` and ``--set``: a name, or a proposer and an adapter with a plus between.

    A setting belongs to the part that has one of that name; ``PART.NAME`` says which where both have.

    Raises:
        MethodError: If a name is none of a method, or a setting none of theirs.
    """
    from luthier.study.methods import METHODS, settings_of
    from luthier.study.resolve import resolve

    parts = [part.strip() for part in text.split("+")]
    if len(parts) == 1 and not settings:
        return text
    if len(parts) != 2 or any(part not in METHODS for part in parts):
        return resolve(text, settings, objectives)  # one method, or an error that names all there are
    given: list[dict[str, Any]] = [{}, {}]
    known = [list(settings_of(part, alone=False)) for part in parts]
    for name, value in settings.items():
        owner, dot, rest = name.rpartition(".")
        places = [n for n, of in enumerate(known) if rest in of and (not dot or owner == parts[n])]
        if len(places) != 1:
            listed = "; ".join(f"{part}: {', '.join(of) or 'none'}" for part, of in zip(parts, known, strict=True))
            which = f"is a setting of both: write {parts[0]}.{rest} or {parts[1]}.{rest}" if places else "is no setting"
            raise MethodError(f"{name}={value!r} {which}", where=f"method {text}", remedy=f"The settings are {listed}.")
        given[places[0]][rest] = value
    return tuple(METHODS[part].load(objectives)(**own) for part, own in zip(parts, given, strict=True))
