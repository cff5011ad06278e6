"""Figures of results in memory, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from leadapron.detect.films.description import Finding
from leadapron.detect.inputs.screening import ScreenedFilm
from leadapron.detect.models.judgement import Forced
from leadapron.report.scan import Panel
from leadapron.report.words import percent
from leadapron.results.folder import Study
from leadapron.results.measured import Measured
from leadapron.results.names import Role

__all__ = [
    "plot_films",
    "plot_forced",
    "plot_maps",
    "plot_panel",
    "plot_prevalence",
    "plot_success",
]

MARK = "tab:orange"

DRAWN = 6
"""Most films or findings in a figure."""


def plot_panel(panel: Panel, words: str) -> Figure:
    """Draw films suspected by a piece of evidence, above films that aren't suspected.

    Args:
        panel: the films' pixels.
        words: description of the evidence.
    """
    rows = [panel.films[:DRAWN], panel.other_films[:DRAWN]]
    columns = max(map(len, rows))
    figure = Figure(figsize=(1.6 * columns, 3.8), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    top, left, *_ = panel.window
    for line, films in zip(grid, rows, strict=True):
        for axes, film in zip(line, films, strict=False):
            axes.imshow(film, cmap="gray", vmin=0, vmax=255)
    if panel.place is not None:
        row, column, side = panel.place
        for axes in grid[0, : len(rows[0])]:
            corner = column - left - 0.5, row - top - 0.5
            axes.add_patch(Rectangle(corner, side, side, fill=False, color=MARK))
    figure.suptitle(f"{words}\nabove: suspected films; below: others", fontsize=9)
    return figure


def plot_prevalence(findings: Sequence[Finding]) -> Figure:
    """Draw each finding's prevalence with its 95 % interval."""
    figure = Figure(figsize=(6, 0.8 + 0.28 * len(findings)), layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(reversed(findings)):
        share = each.prevalence
        axes.plot([share.low, share.high], [place, place], color="tab:blue")
        axes.plot([share.value], [place], "o", color="tab:blue")
    axes.set_yticks(range(len(findings)), [each.name for each in reversed(findings)])
    axes.set_xlabel("prevalence, with 95 % interval")
    axes.set_xlim(left=0)
    return figure


def plot_forced(forced: Sequence[Forced]) -> Figure:
    """Draw the share of films that the strongest mark moves across the threshold, by finding.

    Args:
        forced: findings and directions, the largest excess first.
    """
    marks = [each.strongest for each in forced if each.strongest is not None][: 2 * DRAWN][::-1]
    figure = Figure(figsize=(6, 0.8 + 0.28 * len(marks)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(marks)), [each.turned for each in marks], color="tab:blue")
    axes.set_yticks(range(len(marks)), [f"{each.finding} {each.direction}" for each in marks])
    axes.set_xlabel("share of films turned by the strongest mark")
    axes.set_xlim(0, 1)
    return figure


def plot_success(study: Study) -> Figure:
    """Draw attack success with its interval, of each backdoored model and its clean twin.

    Args:
        study: the study.
    """
    groups = study.settings()
    figure = Figure(figsize=(6, 1 + 0.3 * len(groups)), layout="constrained")
    axes = figure.subplots()
    colours: tuple[tuple[Role, str], ...] = (("twin", "tab:blue"), ("backdoored", "tab:red"))
    for place, (_, pairs) in enumerate(groups):
        for role, colour in colours:
            for pair in pairs:
                row = Measured(pair).success(role)
                if row is not None and row.value is not None:
                    ends = [row.value if each is None else each for each in (row.low, row.high)]
                    axes.plot(ends, [place, place], color=colour, alpha=0.6)
                    axes.plot([row.value], [place], "o", color=colour, label=role)
    names = [", ".join(f"{n} {v}" for n, v in point.items()) or "all runs" for point, _ in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("attack success at 5 % false positives")
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    axes.legend(handles.values(), handles.keys(), frameon=False)
    return figure


def plot_films(films: Sequence[ScreenedFilm]) -> Figure:
    """Draw screened films with their evidence regions, the most suspicious first.

    Args:
        films: with their images, one or more.
    """
    shown = films[:DRAWN]
    figure = Figure(figsize=(2.1 * len(shown), 2.9), layout="constrained")
    for axes, film in zip(figure.subplots(1, len(shown), squeeze=False).flat, shown, strict=True):
        axes.imshow(film.image, cmap="gray", vmin=0, vmax=np.iinfo(film.image.dtype).max)
        axes.set_axis_off()
        words = [film.verdict, "" if film.p is None else f"p {film.p:.2g}"]
        if (place := film.region) is not None:
            corner = place.column - 0.5, place.row - 0.5
            axes.add_patch(Rectangle(corner, place.width, place.height, fill=False, color=MARK))
        if film.readings:
            first = film.readings[0]
            before, after = percent(first.probability), percent(first.without)
            words.append(f"{first.finding}: {before}, without {after}")
        axes.set_title("\n".join(filter(None, words)), fontsize=8)
    return figure


def plot_maps(
    images: NDArray[Any], maps: NDArray[np.float32], findings: Sequence[str], method: str
) -> Figure:
    """Draw maps over films, one colour scale for all.

    Args:
        images: (n, h, w).
        maps: (n, k, h, w); values below 0 are transparent.
        findings: the k findings.
        method: the explainer's name.
    """
    n, k = min(len(images), DRAWN), len(findings)
    figure = Figure(figsize=(2.1 * n, 2.3 * k), layout="constrained")
    highest = max(float(maps[:n].max(initial=0.0)), 1e-12)
    grid = figure.subplots(k, n, squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        shown = np.clip(maps[column, row], 0, highest)
        axes.imshow(images[column], cmap="gray", vmin=0, vmax=np.iinfo(images.dtype).max)
        axes.imshow(shown, cmap="inferno", vmin=0, vmax=highest, alpha=0.7 * shown / highest)
        axes.set_axis_off()
    for axes, name in zip(grid[:, 0], findings, strict=True):
        axes.set_title(name, fontsize=9, loc="left")
    figure.suptitle(f"{method}; one scale, up to {highest:.3g}", fontsize=9)
    return figure
