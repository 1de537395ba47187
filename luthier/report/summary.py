"""The top of the page: what the study was, how it stands, and its best configuration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from luthier.jobs import DIVERGED, FAILED, OK, PENDING, PRUNED
from luthier.limits import described
from luthier.report.facts import INFEASIBLE, STATUS_NAMES, WAITING, Facts
from luthier.report.figures import Html, Section
from luthier.report.formatting import (
    clipped,
    describe,
    duration,
    escape,
    folded_json,
    grid,
    moment,
    number,
    plural,
    setting,
    tile,
)
from luthier.report.info import StudyInfo
from luthier.report.table import metric_list

HEADER = ("method", "seed", "budget", "execution")


def header(known: Facts, info: StudyInfo) -> str:
    """Name, one sentence, settings and counts."""
    lines = [(key, describe(info.settings[key])) for key in HEADER if info.settings.get(key) is not None]
    if known.history.limits:
        lines.append(("limits", described(known.history.limits)))
    if info.created is not None and math.isfinite(info.created):
        lines.append(("started", moment(info.created)))
    facts_line = "".join(f"<div><dt>{key}</dt><dd>{escape(value)}</dd></div>" for key, value in lines if value)
    tiles = "".join(tile(value, name, kind) for name, value, kind in _tiles(known, info))
    return (
        f'<header><p class="over">luthier · study report</p><h1>{escape(info.name)}</h1>'
        f'<p class="lead">{_sentence(known)}</p>'
        + (f'<dl class="facts">{facts_line}</dl>' if facts_line else "")
        + (f'<div class="tiles">{tiles}</div>' if len(known.history) else "")
        + "</header>"
    )


def _sentence(known: Facts) -> str:
    if len(known.history) == 0:
        return "This study has no trials yet: nothing has been proposed or trained."
    total = plural(len(known.history), known.noun)
    if known.best is None:
        ended = len(known.history.arrival)
        if ended == 0:
            return f"{total} started, none has ended yet."
        limits = f" within the limits ({escape(described(known.history.limits))})" if known.history.limits else ""
        return f"{ended:,} of {total} ended, none with a finite {escape(known.objective)}{limits}."
    value = number(float(known.values[known.best]), 5)
    return (
        f"Best <strong>{escape(known.objective)} {value}</strong> ({known.better}), reached by {known.noun} "
        f"{known.best:,}; {known.count(OK):,} of {total} finished."
    )


def _tiles(known: Facts, info: StudyInfo) -> list[tuple[str, str, str]]:
    history = known.history
    tiles = []
    if known.best is not None:
        tiles.append((f"best {known.objective}", number(float(known.values[known.best]), 5), "best"))
    if known.front:
        tiles.append(("in the Pareto set", f"{len(known.front):,}", "best"))
    if known.continued:
        tiles.append(("trials started", f"{known.trials:,}", ""))
    tiles.append((f"{known.noun}s finished", f"{known.count(OK):,}", ""))
    for status in (INFEASIBLE, PRUNED, DIVERGED, FAILED, PENDING, WAITING):
        name = STATUS_NAMES[status]
        if known.count(status):
            tiles.append((name, f"{known.count(status):,}", name))
    steps = int(history.steps[history.status != PENDING].sum())
    if steps > len(history.arrival):  # a function that is called once has no steps to speak of
        tiles.append(("training steps", f"{steps:,}", ""))
    seconds = sum(result.seconds for result in history.results if result is not None)
    if seconds > 0:
        tiles.append(("training time", duration(seconds), ""))
    if info.wall_seconds is not None:
        tiles.append(("wall time", duration(info.wall_seconds), ""))
    return tiles


def best_section(known: Facts, info: StudyInfo) -> Section | None:
    """The best configuration with its metrics; None while there is none."""
    if known.best is None:
        return None
    history = known.history
    result = history.results[known.best]
    assert result is not None
    config, final = history.jobs[known.best].config, history.final(known.best)
    parts = [_metrics(known, info, list(result.metrics.items()))]
    names = [name for name in history.space.names if name in final]
    names += [name for name in final if name not in history.space.domains]
    moved = any(not _same(final[name], config.get(name)) for name in names)
    rows = []
    for name in names:
        start = f'<td class="n">{_exact(config.get(name))}</td>'
        end = f'<td class="n">{_exact(final[name])}</td>' if moved else ""
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>{start}{end}<td class="domain">{_domain(known, name)}</td></tr>'
        )
    parts.append(grid("config", ("hyperparameter", *(("start", "end") if moved else ("value",)), "searched"), rows))
    if all(not isinstance(value, list | tuple | np.ndarray) or len(value) <= 16 for value in config.values()):
        parts.append(folded_json("as JSON", config))
    title = f"Best configuration by {known.objective}" if known.front else "Best configuration"
    return Section("best", title, [Html("".join(parts))])


def _metrics(known: Facts, info: StudyInfo, metrics: list[tuple[str, Any]]) -> str:
    goals = ", ".join(
        f"{name} ({'higher' if mode == 'max' else 'lower'} is better)"
        for name, mode in known.history.objectives.items()
    )
    first = f" Best by the first of them, {known.objective}; all that are best are below." if known.front else ""
    order = list(known.history.objectives)
    metrics = sorted(metrics, key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    age, own = int(known.history.age[known.best or 0]), int(known.history.steps[known.best or 0])
    steps = f" after {plural(age, 'training step')}" if age > 1 else ""
    inherited = f", {own:,} of them its own" if own < age else ""
    parts = [
        f'<div class="measured"><h3>{known.noun.capitalize()} {known.best}{steps}{inherited}</h3>',
        metric_list(metrics),
        f'<p class="caption">Objective{"s" if len(order) > 1 else ""}: {escape(goals)}.{escape(first)}</p></div>',
    ]
    if info.test_metrics:
        parts.append(f'<div class="measured test"><h3>Test split</h3>{metric_list(info.test_metrics.items())}')
        parts.append('<p class="caption">Read once, for this configuration; nothing was chosen on it.</p></div>')
    return f'<div class="measures">{"".join(parts)}</div>'


def _exact(value: object) -> str:
    """A value at 6 digits, with all of them in the tooltip."""
    if value is None:
        return "None"
    vector = isinstance(value, list | tuple | np.ndarray)
    shown = setting(value, 4, 3) if vector else setting(value, 6)
    return f'<span title="{escape(clipped(repr(value), 300))}">{escape(shown)}</span>'


def _domain(known: Facts, name: str) -> str:
    domain = known.history.space.domains.get(name)
    if domain is None:
        return ""
    options = getattr(domain, "options", None)
    if options is not None:
        return escape(clipped(", ".join(str(option) for option in options), 300))
    scale = ", log scale" if getattr(domain, "log", False) else ""
    return escape(f"{setting(getattr(domain, 'low', None))} to {setting(getattr(domain, 'high', None))}{scale}")


def _same(a: object, b: object) -> bool:
    if isinstance(a, list | tuple | np.ndarray):
        return np.array_equal(np.asarray(a, dtype=object), np.asarray(b, dtype=object))
    return a == b


def settings_section(info: StudyInfo) -> str:
    """All settings, folded away; "" where there are none."""
    return folded_json("All settings of this study", info.settings) if info.settings else ""
