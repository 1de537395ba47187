"""The shells of the pages: what a browser gets before any part of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from urllib.parse import quote

from luthier.report.formatting import escape, grid, number, plural
from luthier.serve.live import Part
from luthier.store import StudySummary

# Scripts come from here and nowhere else, none stands in a page: text of a user cannot be one.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PLOTLY = "plotly.js"  # 5 MB: nothing waits for it but the figures
SCRIPTS = (PLOTLY, "errors.js", "parallel.js", "report.js", "live.js")
KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}


@cache
def asset(name: str) -> bytes:
    """A script or a style sheet by its name.

    Raises:
        KeyError: If there is none of that name.
    """
    if name == PLOTLY:
        from plotly.offline import get_plotlyjs

        return get_plotlyjs().encode()
    if name == "style.css":
        return b"".join(files(place).joinpath("assets", file).read_bytes() for place, file in STYLES)
    if name not in SCRIPTS:
        raise KeyError(name)
    place = "luthier.serve" if name == "live.js" else "luthier.report"
    return files(place).joinpath("assets", name).read_bytes()


STYLES = (("luthier.report", "report.css"), ("luthier.serve", "live.css"))


@cache
def address(name: str) -> str:
    """The address of an asset: it has the content's hash in it, so that a browser may keep it for ever."""
    return f"/assets/{hashlib.blake2b(asset(name), digest_size=8).hexdigest()}/{name}"


def shell(title: str, back: str = "") -> str:
    """A page that fills itself by its events.

    Args:
        title: Title of the window.
        back: The address of the page above; "" at the top.
    """
    small = "".join(f'<script defer src="{address(name)}"></script>\n' for name in SCRIPTS if name != PLOTLY)
    scripts = f'{small}<script async id="plotly" src="{address(PLOTLY)}"></script>\n'
    up = f'<a class="up" href="{escape(back)}">← all studies</a>' if back else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · luthier</title>
<link rel="stylesheet" href="{address("style.css")}">
<link rel="icon" href="data:,">
{scripts}</head>
<body>
<div class="sheet">
<p class="bar">{up}<span id="state" role="status">connecting</span></p>
<noscript><p class="notice">This page is filled by a script, and scripts are switched off.</p></noscript>
<div id="top"></div>
<nav id="links" aria-label="Sections" hidden></nav>
<main id="parts"></main>
</div>
</body>
</html>
"""


def problem(title: str, text: str) -> str:
    """A page that says why there is none."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{escape(title)} · luthier</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60ch; margin: 15vh auto; padding: 0 20px }}</style></head>
<body><h1>{escape(title)}</h1><p>{escape(text)}</p></body></html>
"""


def studies_part(place: str, found: Sequence[StudySummary]) -> list[Part]:
    """The list of studies, the one written last first."""
    head = (
        f'<div id="header"><header><p class="over">luthier · live</p><h1>{escape(place)}</h1>'
        f'<p class="lead">{escape("1 study" if len(found) == 1 else f"{len(found):,} studies")}</p></header></div>'
    )
    rows = [_row(one) for one in sorted(found, key=lambda one: -(one.updated if one.updated > 0 else 0))]
    table = grid("now studies", ("study", "jobs", "ended", "objective", "best", "last written"), rows)
    body = f'<section id="studies"><div class="scroll">{table}</div></section>' if found else ""
    return [Part("header", "", head), Part("studies", "", body or '<section id="studies">No study yet.</section>')]


def _row(one: StudySummary) -> str:
    link = f'<a href="/study/{quote(one.name, safe="")}">{escape(one.name)}</a>'
    if one.damaged:
        return f'<tr><td>{link}</td><td colspan="5" class="message">damaged: {escape(one.damaged)}</td></tr>'
    running = one.jobs - one.done
    jobs = f"{one.jobs:,}" + (f' <span class="muted">({plural(running, "job")} not ended)</span>' if running else "")
    best = "" if one.best_value is None else escape(number(float(one.best_value), 5))
    when = datetime.fromtimestamp(one.updated).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f'<tr><td>{link}</td><td class="n">{jobs}</td><td class="n">{one.done:,}</td>'
        f'<td>{escape(one.objective or "")}</td><td class="n">{best}</td><td class="n">{when}</td></tr>'
    )
