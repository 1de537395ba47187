"""The page: sections in reading order, put into one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from luthier.jobs import History
from luthier.report.curves import best_so_far, learning_curves
from luthier.report.decisions import decisions
from luthier.report.facts import facts
from luthier.report.figures import Figure, Html, Section
from luthier.report.formatting import escape, export_command, script_json
from luthier.report.importance import Importance, importance
from luthier.report.influence import importance_section, parallel, slices
from luthier.report.info import StudyInfo
from luthier.report.kept import kept
from luthier.report.lineage import lineage_section
from luthier.report.moving import schedules
from luthier.report.sampling import sampler_section
from luthier.report.summary import best_section, header, settings_section
from luthier.report.table import failures, table
from luthier.report.tradeoff import trade_off

# The browser itself refuses any request to a network, and any script that is built from a string.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def sections(
    history: History, info: StudyInfo, judge: Callable[[History], Importance | None] = importance
) -> list[Section]:
    """The sections that have something to show, in reading order.

    Args:
        history: The study's history.
        info: Facts that the history does not hold.
        judge: Computes the importance of hyperparameters, by far the costliest part of a page: a live page does it
            less often than the rest.
    """
    known, found = facts(history, info.waiting), judge(history)
    order = found.names if found else history.space.names
    candidates = [
        best_section(known, info),
        best_so_far(known),
        trade_off(known),
        learning_curves(known),
        importance_section(known, found),
        slices(known, order),
        parallel(known, order),
        sampler_section(known, info.samples, order),
        lineage_section(known),
        decisions(known),
        schedules(known),
        failures(known),
        table(known, info),
        kept(history, info),
    ]
    return [section for section in candidates if section is not None]


def page(history: History, info: StudyInfo) -> str:
    """The whole page of a study as HTML."""
    every = f"Every trial as a file: <code>{escape(export_command(info))}</code>" if len(history) else ""
    footer = f"{settings_section(info)}<p>{every}</p>"
    return document(info.name, header(facts(history, info.waiting), info), sections(history, info), footer)


def document(title: str, top: str, parts: Sequence[Section], footer: str) -> str:
    """One HTML file that needs nothing else.

    Args:
        title: Title of the window.
        top: The page's header, HTML.
        parts: Its sections.
        footer: HTML.
    """
    from plotly.offline import get_plotlyjs

    made = [rendered(section) for section in parts]
    main, figures = "".join(text for text, _ in made), [figure for _, drawn in made for figure in drawn]
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in parts)
    plotly = f"<script>{get_plotlyjs()}</script>" if any(figure["kind"] == "plotly" for figure in figures) else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · luthier</title>
<style>
{_asset("report.css")}</style>
<script>
{_asset("errors.js")}</script>
</head>
<body>
<div class="sheet">
{top}
{f'<nav aria-label="Sections">{links}</nav>' if len(parts) > 2 else ""}
<noscript><p class="notice">The figures are drawn by scripts inside this file, which are switched off.</p></noscript>
<main>{main}</main>
<footer>{footer}</footer>
</div>
<script type="application/json" id="figures">{script_json(figures)}</script>
{plotly}
<script>
{_asset("parallel.js")}
{_asset("report.js")}
luthier.draw(JSON.parse(document.getElementById("figures").textContent));
luthier.table();</script>
</body>
</html>
"""


def rendered(section: Section) -> tuple[str, list[dict[str, Any]]]:
    """A section as HTML, and its figures: each with the id of its box, what draws it, and what is drawn."""
    drawn: list[dict[str, Any]] = []
    body = "".join(_block(block, section.anchor, drawn) for block in section.blocks)
    return f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>{body}</section>\n', drawn


def _block(block: object, place: str, drawn: list[dict[str, Any]]) -> str:
    """HTML as it is, text as an escaped caption, a figure, or a grid of figures."""
    if isinstance(block, Figure):
        return _figure(block, place, drawn)
    if isinstance(block, str):
        return f'<p class="caption">{escape(block)}</p>'
    if isinstance(block, Html):
        return block.text
    assert isinstance(block, list)
    columns = "wide" if len(block) <= 2 else "narrow"
    return f'<div class="grid {columns}">{"".join(_figure(figure, place, drawn) for figure in block)}</div>'


def _figure(figure: Figure, place: str, drawn: list[dict[str, Any]]) -> str:
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    anchor = f"figure-{place}-{len(drawn)}"
    drawn.append({"id": anchor, "kind": figure.kind, "spec": figure.spec})
    told = f'role="img" aria-label="{escape(figure.alt)}"'
    box = f'<div class="plot" id="{anchor}" {told} style="height:{figure.height}px"></div>'
    return f"<figure>{box}{caption}</figure>"


def _asset(name: str) -> str:
    return files("luthier.report").joinpath("assets", name).read_text(encoding="utf-8")
