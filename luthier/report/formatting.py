"""Values as text: numbers, durations and names for people, escaped for HTML, for Plotly and for a script element."""

from __future__ import annotations

import html
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from luthier.report.info import StudyInfo
from luthier.text import plain


def escape(text: object) -> str:
    """``text`` for an HTML element or a quoted attribute; characters that cannot be seen or written become escapes."""
    return html.escape(plain(text), quote=True)


def label(text: object, limit: int = 48) -> str:
    """``text`` for a Plotly title, tick or template: Plotly reads tags and ``%{...}`` in them, so both are defused."""
    return (
        html.escape(clipped(" ".join(plain(text).split()), limit), quote=False)
        .replace("%", "&#37;")
        .replace("$", "&#36;")
    )


def clipped(text: str, limit: int) -> str:
    """``text`` in at most ``limit`` letters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def number(value: object, digits: int = 4) -> str:
    """A number to ``digits`` significant digits.

    Examples:
        >>> number(0.97234567), number(12345), number(0.0000123), number(float("nan"))
        ('0.9723', '12,345', '1.23e-5', 'NaN')
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{int(value):,}"
    if not isinstance(value, float | np.floating):
        return str(value)
    real = float(value)
    if math.isnan(real):
        return "NaN"
    if math.isinf(real):
        return "∞" if real > 0 else "-∞"
    if real == 0:
        return "0"
    if 1e-3 <= abs(real) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(real))))
        text = f"{real:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{real:.{digits - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def setting(value: object, digits: int = 4, items: int = 4) -> str:
    """The value of a hyperparameter: a number, a word, or the first ``items`` of a vector."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        shown = ", ".join(setting(item, digits, items) for item in value[:items])
        return f"[{shown}]" if len(value) <= items else f"[{shown}, …] ({len(value):,} values)"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return number(value, digits)


def duration(seconds: float) -> str:
    """Seconds for people.

    Examples:
        >>> duration(0.25), duration(75), duration(7380)
        ('250 ms', '1 min 15 s', '2 h 03 min')
    """
    if not math.isfinite(seconds):
        return number(float(seconds))
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``12,000 trials``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def moment(seconds: float) -> str:
    """A time stamp in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe(value: object) -> str:
    """A setting that may be nested, on one line: ``{"name": "pbt", "size": 8}`` is ``pbt (size=8)``."""
    if isinstance(value, Mapping):
        items = {str(key): item for key, item in value.items() if item is not None}
        name = next(
            (items.pop(key) for key in ("name", "method", "type", "kind") if isinstance(items.get(key), str)), ""
        )
        inside = ", ".join(f"{key}={describe(item)}" for key, item in items.items())
        return f"{name} ({inside})" if name and inside else str(name or inside)
    if isinstance(value, list | tuple):
        return ", ".join(describe(item) for item in value)
    return setting(value)


def grid(kind: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """A table as HTML: its heads are text, its rows HTML already."""
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def tile(value: object, name: str, kind: str = "", more: str = "") -> str:
    """A value over its name; ``more`` is HTML below."""
    shown = f'<div class="value">{escape(value)}</div><div class="name">{escape(name)}</div>'
    return f'<div class="tile {kind}">{shown}{more}</div>'


def folded(summary: str, text: str) -> str:
    """Text that is folded away under one line."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def folded_json(summary: str, value: Mapping[str, Any]) -> str:
    """JSON for people, folded away under one line, and cut where it is very long."""
    text = json.dumps(dict(value), indent=2, default=str, ensure_ascii=False)
    return folded(summary, text if len(text) <= 20_000 else text[:20_000] + "\n…")


def export_command(info: StudyInfo) -> str:
    """The command that writes every trial to a file."""
    return info.export if info.export is not None else f"luthier export {shlex.quote(info.name)}"


def script_json(value: object) -> str:
    """JSON that is safe inside a script element: numbers to 6 digits, what is not finite as null, no ``<``."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
