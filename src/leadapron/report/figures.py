"""Figures as inline SVG, with the page's fonts and colours and unique ids."""

from __future__ import annotations

import contextlib
import html
import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.lines
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leadapron.metrics import roc_curve
from leadapron.results.rows import Row
from leadapron.types import Estimate

__all__ = [
    "Dot",
    "Interval",
    "curves_over_epochs",
    "dots",
    "intervals",
    "roc_curves",
    "success_over",
    "success_over_threshold",
]

# Drawn in these colours, then replaced by variables, for light, dark and paper.
INK, MUTED, RULE = "#0a0b01", "#0a0b02", "#0a0b03"
TWIN, BACKDOORED = "#0a0b04", "#0a0b05"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    TWIN: "var(--twin)",
    BACKDOORED: "var(--backdoored)",
}
_MODELS = {"twin": TWIN, "backdoored": BACKDOORED}
_MARKERS = {"twin": "o", "backdoored": "D"}
_LINES: dict[str, Any] = {"twin": (0, (5, 2)), "backdoored": "solid"}
_WIDTH = 460  # units of the SVG's viewBox: on a phone a unit is 0.75 pixels

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "leadapron",
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelsize": 12.5,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Dot:
    """One line of a dot-and-interval chart.

    Args:
        name: the measured quantity.
        note: text at the right edge (the number of positives).
        rows: the row of each model.
        strong: whether it is set in bold.
    """

    name: str
    note: str
    rows: Mapping[str, Row | None]
    strong: bool = False


@dataclass(frozen=True)
class Interval:
    """One line of a chart of shares.

    Args:
        name: the measured quantity.
        note: text at the right edge.
        share: in [0, 1], with its interval.
    """

    name: str
    note: str
    share: Estimate


def intervals(lines: Sequence[Interval], *, name: str, label: str, axis: str, note: str) -> str:
    """Draw shares from 0 up with their intervals, one per line.

    Args:
        lines: from top to bottom.
        name: unique name of the figure on its page.
        label: description for screen readers.
        axis: label of the values' axis.
        note: heading of the lines' notes.
    """
    height = 30 * len(lines) + 84
    with _style():
        figure, axes = _figure(height, left=150, right=92, top=32, bottom=52)
        ends = [line.share.high for line in lines if math.isfinite(line.share.high)]
        highest = max(ends, default=1.0)
        axes.set_xlim(0, 1.04 * highest or 1.0)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        edge = axes.get_yaxis_transform()
        for place, line in enumerate(lines):
            axes.axhline(place + 0.5, color=RULE, linewidth=0.6)
            axes.text(-0.02, place, _wrapped(line.name), transform=edge, ha="right", va="center")
            axes.text(1.03, place, line.note, transform=edge, va="center", color=MUTED)
            share = line.share
            if not share.defined:
                axes.text(0.01, place, "undefined", transform=edge, va="center", color=MUTED)
                continue
            axes.plot([share.low, share.high], [place, place], color=TWIN, linewidth=1.6)
            axes.plot([share.value], [place], "o", color=TWIN, markersize=5.5, clip_on=False)
        axes.text(1.03, -0.75, note, transform=edge, color=MUTED, va="bottom")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, symbol=" %"))
        axes.set_xlabel(axis)
        return _inline(figure, name, label)


def dots(
    lines: Sequence[Dot], *, name: str, label: str, axis: str, note: str, reference: float
) -> str:
    """Draw values with their intervals, both models on each line.

    Args:
        lines: from top to bottom.
        name: unique name of the figure on its page.
        label: description for screen readers.
        axis: label of the values' axis.
        note: heading of the lines' notes.
        reference: position of a thin line that marks no attack, or chance.
    """
    height = 30 * len(lines) + 92
    with _style():
        figure, axes = _figure(height, left=150, right=92, top=40, bottom=52)
        lowest = _lowest(lines, reference)
        axes.set_xlim(lowest, 1.0 + 0.02 * (1 - lowest))
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.axvline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        for place, line in enumerate(lines):
            axes.axhline(place + 0.5, color=RULE, linewidth=0.6)
            _dot_line(axes, place, line, reference)
        axes.text(1.03, -0.9, note, transform=axes.get_yaxis_transform(), color=MUTED, va="bottom")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(axis)
        _legend(axes, {"twin": "clean twin", "backdoored": "backdoored"}, markers=True)
        return _inline(figure, name, label)


def roc_curves(
    scores: Mapping[str, NDArray[Any]], target: int, areas: Mapping[str, str], *, name: str
) -> list[str]:
    """Draw ROC curves of the target on clean films, and of triggered against clean films.

    Args:
        scores: the arrays of `scores.npz`.
        target: column of the attacker's finding.
        areas: words for the legend by "clean MODEL" and "separation MODEL".
        name: unique name of the figures on their page.
    """
    labels = scores["labels"][:, target]
    without = labels == 0
    regimes = np.repeat([0.0, 1.0], int(without.sum()))
    clean, separation = {}, {}
    for model in _MODELS:
        values = scores[f"{model}_clean"][:, target]
        both = np.concatenate([values[without], scores[f"{model}_triggered"][without, target]])
        clean[model] = roc_curve(labels, values)
        separation[model] = roc_curve(regimes, both)
    return [
        _roc(clean, "clean", "Target on clean films", areas, f"{name}-clean"),
        _roc(separation, "separation", "Triggered films against clean ones", areas, name),
    ]


def _roc(
    curves: Mapping[str, tuple[NDArray[Any], ...]],
    panel: str,
    title: str,
    areas: Mapping[str, str],
    name: str,
) -> str:
    with _style():
        figure, axes = _figure(430, left=58, right=24, top=34, bottom=52)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set(title=title, xlabel="false-positive rate", xlim=(-0.01, 1.01))
        axes.set(ylim=(-0.01, 1.015), ylabel="true-positive rate")
        for model, curve in curves.items():
            _curve(axes, curve, model)
        words = {model: areas[f"{panel} {model}"] for model in _MODELS}
        _legend(axes, words, location="lower right")
        label = f"ROC curves of both models. {title}: {words['twin']}, {words['backdoored']}."
        return _inline(figure, name, label)


def success_over_threshold(
    scores: Mapping[str, NDArray[Any]],
    target: int,
    calibrated: Mapping[str, float | None],
    *,
    name: str,
) -> str:
    """Draw the share of films without the target that are called the target.

    Args:
        scores: the arrays of `scores.npz`.
        target: column of the attacker's finding.
        calibrated: each model's threshold at 5 % clean false positives, None if undefined.
        name: unique name of the figure on its page.
    """
    without = scores["labels"][:, target] == 0
    thresholds = np.linspace(0, 1, 401)
    with _style():
        figure, axes = _figure(410, left=58, right=24, top=30, bottom=136)
        for model, colour in _MODELS.items():
            for regime, width in (("triggered", 2.0), ("clean", 0.9)):
                values = np.sort(scores[f"{model}_{regime}"][without, target])
                above = values.size - np.searchsorted(values, thresholds, side="right")
                axes.plot(
                    thresholds,
                    above / values.size if values.size else np.full(thresholds.shape, np.nan),
                    color=colour,
                    linewidth=width,
                    linestyle=_LINES[model],
                    label=f"{model}, {regime} films",
                )
        for mark in (0.6, 0.9):
            axes.axvline(mark, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.text(mark, 1.03, f"{mark:g}", color=MUTED, ha="center", va="bottom")
        _calibrated_marks(axes, calibrated)
        axes.set(xlim=(0, 1), ylim=(-0.01, 1.02), xlabel="threshold on the target's probability")
        axes.set_ylabel("share called the target")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.14, -0.2), ncols=2, handlelength=2.2,
                    columnspacing=1.0)  # fmt: skip
        label = (
            "Share of films without the target that are called the target, over the threshold, "
            "for both models, triggered and clean."
        )
        return _inline(figure, name, label)


def curves_over_epochs(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], *, name: str
) -> list[str]:
    """Draw loss and validation macro AUROC over the epochs of both models.

    Args:
        histories: the lines of `history.jsonl` by model.
        name: unique name of the figures on their page.
    """
    panels = {
        "Loss": (("loss", 2.0, "training"), ("validation_loss", 0.9, "validation")),
        "Macro AUROC on validation films": (("validation_macro", 1.6, ""),),
    }
    return [
        _epochs(histories, title, columns, f"{name}-{number}")
        for number, (title, columns) in enumerate(panels.items())
    ]


def _epochs(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    title: str,
    columns: Sequence[tuple[str, float, str]],
    name: str,
) -> str:
    with _style():
        figure, axes = _figure(330, left=58, right=24, top=34, bottom=100)
        for model, epochs in histories.items():
            steps = [epoch["epoch"] for epoch in epochs]
            style = {"color": _MODELS[model], "linestyle": _LINES[model]}
            words = "clean twin" if model == "twin" else model
            marker = _MARKERS[model] if len(columns) == 1 else ""
            for column, width, what in columns:
                values = [_number(epoch.get(column)) for epoch in epochs]
                label = f"{words}, {what}" if what else words
                axes.plot(steps, values, linewidth=width, marker=marker, markersize=4,
                          label=label, **style)  # fmt: skip
        axes.set(title=title, xlabel="epoch")
        axes.grid(visible=True, axis="y", color=RULE, linewidth=0.6)
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=2, handlelength=2.6)
        return _inline(figure, name, f"Training curves of both models: {title}.")


def success_over(points: Mapping[str, Sequence[tuple[Any, float]]], axis: str, *, name: str) -> str:
    """Draw attack success over one setting.

    Args:
        points: (value of the setting, success in [0, 1]) by model, of every run.
        axis: the setting's name.
        name: unique name of the figure on its page.
    """
    settings = list(dict.fromkeys(value for some in points.values() for value, _ in some))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in settings)
    if numbers:
        settings.sort()
    with _style():
        figure, axes = _figure(330, left=74, right=24, top=44, bottom=64)
        at: dict[Any, float] = {v: float(v if numbers else i) for i, v in enumerate(settings)}
        for model, some in points.items():
            places = [at[value] for value, _ in some]
            shares = [share for _, share in some]
            axes.plot(places, shares, _MARKERS[model], color=_MODELS[model], markersize=4.5)
            means = [
                (at[v], float(np.mean([share for value, share in some if value == v])))
                for v in settings
                if any(value == v for value, _ in some)
            ]
            # Values that are names aren't connected.
            line = _LINES[model] if numbers else "none"
            axes.plot(*zip(*means, strict=True), color=_MODELS[model], linestyle=line)
        axes.axhline(0.05, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        if numbers and min(settings) > 0 and max(settings) >= 20 * min(settings):
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(list(at.values()), [_short(v) for v in settings])
        axes.set(ylim=(-0.02, 1.03), xlabel=axis, ylabel="attack success")
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0, symbol=" %"))
        _legend(axes, {"twin": "clean twin", "backdoored": "backdoored"}, markers=True)
        label = f"Attack success of both models over {axis}; the table has the values."
        return _inline(figure, name, label)


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's defaults with our settings, independent of the user's own."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def _figure(height: int, *, left: int, right: int, top: int, bottom: int) -> tuple[Figure, Axes]:
    """A figure of `height` units with one panel at the given margins, in units."""
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    width = (_WIDTH - left - right) / _WIDTH
    frame = (left / _WIDTH, bottom / height, width, (height - top - bottom) / height)
    return figure, figure.add_axes(frame)


def _wrapped(words: str) -> str:
    """A line's name, in two lines if it is long."""
    return "\n".join(textwrap.wrap(words.replace("_", " "), 19, max_lines=2, placeholder="..."))


def _short(value: Any) -> str:
    words = f"{value:g}" if isinstance(value, float) else str(value)
    return words if len(words) <= 14 else f"{words[:12]}..."


def _dot_line(axes: Axes, place: int, line: Dot, reference: float) -> None:
    weight = "bold" if line.strong else "normal"
    edge = axes.get_yaxis_transform()
    axes.text(
        -0.02, place, _wrapped(line.name), transform=edge, ha="right", va="center", weight=weight
    )
    axes.text(1.03, place, line.note, transform=edge, va="center", color=MUTED)
    known = {model: row for model, row in line.rows.items() if row and row.value is not None}
    if not known:
        words: Any = {"va": "center", "color": MUTED, "style": "italic"}
        axes.annotate("undefined", (reference, place), (8, 0), textcoords="offset points", **words)
    for model, row in known.items():
        assert row.value is not None
        height = place + (-0.17 if model == "twin" else 0.17)
        colour = _MODELS[model]
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=1.6)
        axes.plot([row.value], [height], _MARKERS[model], color=colour, markersize=5.5)


def _lowest(lines: Sequence[Dot], reference: float) -> float:
    """Start of the values' axis: below the reference and all intervals."""
    rows = [row for line in lines for row in line.rows.values() if row and row.value is not None]
    ends = [row.value if row.low is None else row.low for row in rows]
    lowest = min([reference, *(end for end in ends if end is not None)])
    return float(max(-0.01, np.floor((lowest - 0.01) * 20) / 20))


def _curve(axes: Axes, curve: tuple[NDArray[Any], ...], model: str) -> None:
    false, true = curve[0], curve[1]
    axes.plot(false, true, color=_MODELS[model], linewidth=1.8, linestyle=_LINES[model])


def _calibrated_marks(axes: Axes, calibrated: Mapping[str, float | None]) -> None:
    for model, threshold in calibrated.items():
        if threshold is None or not 0 <= threshold <= 1:
            continue
        at = axes.get_xaxis_transform()
        axes.axvline(threshold, color=_MODELS[model], linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot([threshold], [0], "^", color=_MODELS[model], markersize=8, transform=at,
                  clip_on=False)  # fmt: skip


def _legend(
    axes: Axes, words: Mapping[str, str], *, markers: bool = False, location: str = "top"
) -> None:
    handles = [
        mpl.lines.Line2D(
            [],
            [],
            color=_MODELS[model],
            linewidth=1.8,
            linestyle="solid" if markers else _LINES[model],
            marker=_MARKERS[model] if markers else "",
            markersize=5.5,
        )
        for model in words
    ]
    options: dict[str, Any] = {"loc": location, "handlelength": 2.6}
    if location == "top":
        whole = axes.get_figure().transFigure  # type: ignore[union-attr]
        options = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0), "bbox_transform": whole,
                   "ncols": 2}  # fmt: skip
    axes.legend(handles, list(words.values()), **options)


def _number(found: Any) -> float:
    return float(found) if isinstance(found, int | float) else float("nan")


def _inline(figure: Figure, name: str, label: str) -> str:
    """The figure as SVG for HTML, without metadata and with unique ids."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for foreign in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r"<!--.*?-->"):
        svg = re.sub(foreign, "", svg, flags=re.S)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    wanted = {first or second for first, second in used}

    def renamed(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in wanted else ""

    svg = re.sub(r' id="([^"]+)"', renamed, svg)
    svg = re.sub(r'href="#|url\(#', lambda match: f"{match[0]}{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r"font(-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font\1: \2var(--sans)", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    opening = (
        f'<svg class="figure" role="img" aria-label="{html.escape(label)}" '
        f'viewBox="{box[1] if box else ""}">'
    )
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    return re.sub(r"\s*\n\s*", "\n", svg).strip()
