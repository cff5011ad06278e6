"""Figures as SVG to stand inside a page: its fonts, its colours, no ids that meet others'."""

from __future__ import annotations

import contextlib
import html
import io
import re
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
from leadapron.store import Row

__all__ = [
    "Dot",
    "Interval",
    "curves_over_epochs",
    "dots",
    "intervals",
    "roc_curves",
    "success_over_threshold",
]

# Drawn in these, then replaced, so that one SVG fits light, dark and paper.
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
_WIDTH = 960  # units of the SVG's viewBox; text of 13 units is 13 px where the page is that wide

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
        name: what is measured.
        note: what stands at the right edge (the number of positives).
        rows: the row of each model.
        strong: set in bold.
    """

    name: str
    note: str
    rows: Mapping[str, Row | None]
    strong: bool = False


@dataclass(frozen=True)
class Interval:
    """One line of a chart of shares.

    Args:
        name: what is measured.
        note: what stands at the right edge.
        value: in [0, 1], None where it is undefined.
        low: lower end of its interval.
        high: upper end.
    """

    name: str
    note: str
    value: float | None
    low: float | None
    high: float | None


def intervals(lines: Sequence[Interval], *, name: str, label: str, axis: str, note: str) -> str:
    """Draw shares from 0 up with their intervals, one a line.

    Args:
        lines: from top to bottom.
        name: unique name of the figure on its page.
        label: what it shows, for those who can't see it.
        axis: label of the values' axis.
        note: heading of the lines' notes.
    """
    height = 24 * len(lines) + 84
    with _style():
        figure, (axes,) = _figure(height, left=(210,), right=(140,), top=32, bottom=52)
        highest = max([line.high for line in lines if line.high is not None], default=1.0)
        axes.set_xlim(0, 1.04 * highest or 1.0)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        edge = axes.get_yaxis_transform()
        for place, line in enumerate(lines):
            axes.axhline(place + 0.5, color=RULE, linewidth=0.6)
            axes.text(-0.02, place, line.name, transform=edge, ha="right", va="center")
            axes.text(1.03, place, line.note, transform=edge, va="center", color=MUTED)
            if line.value is None:
                axes.text(0.01, place, "undefined", transform=edge, va="center", color=MUTED)
                continue
            if line.low is not None and line.high is not None:
                axes.plot([line.low, line.high], [place, place], color=TWIN, linewidth=1.6)
            axes.plot([line.value], [place], "o", color=TWIN, markersize=5.5, clip_on=False)
        axes.text(1.03, -0.75, note, transform=edge, color=MUTED, va="bottom")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
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
        label: what it shows, for those who can't see it.
        axis: label of the values' axis.
        note: heading of the lines' notes.
        reference: where a thin line marks what no attack, or no skill, gives.
    """
    height = 26 * len(lines) + 92
    with _style():
        figure, (axes,) = _figure(height, left=(210,), right=(140,), top=40, bottom=52)
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
) -> str:
    """Draw how the target is told on clean films, and triggered films from clean ones.

    Args:
        scores: the arrays of `scores.npz`.
        target: column of the attacker's finding.
        areas: words for the legend by "clean MODEL" and "separation MODEL".
        name: unique name of the figure on its page.
    """
    labels = scores["labels"][:, target]
    without = labels == 0
    regimes = np.repeat([0.0, 1.0], int(without.sum()))
    panels = ("Target on clean films", "Triggered against clean films, by the target's score")
    with _style():
        figure, (left, right) = _figure(436, left=(62, 558), right=(540, 44), top=34, bottom=56)
        for axes, title in zip((left, right), panels, strict=True):
            axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.set(title=title, xlabel="false-positive rate", xlim=(-0.01, 1.01))
            axes.set(ylim=(-0.01, 1.015), ylabel="true-positive rate", aspect="equal")
        for model in _MODELS:
            clean = scores[f"{model}_clean"][:, target]
            both = np.concatenate([clean[without], scores[f"{model}_triggered"][without, target]])
            _curve(left, roc_curve(labels, clean), model)
            _curve(right, roc_curve(regimes, both), model)
        for axes, panel in ((left, "clean"), (right, "separation")):
            words = {model: areas[f"{panel} {model}"] for model in _MODELS}
            _legend(axes, words, location="lower right")
        label = (
            "Two ROC curves for the clean twin and the backdoored model. Left, the target on "
            f"clean films: {areas['clean twin']}, {areas['clean backdoored']}. Right, triggered "
            f"against clean films: {areas['separation twin']}, {areas['separation backdoored']}."
        )
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
        calibrated: each model's threshold at 5 % clean false positives, None where undefined.
        name: unique name of the figure on its page.
    """
    without = scores["labels"][:, target] == 0
    thresholds = np.linspace(0, 1, 401)
    with _style():
        figure, (axes,) = _figure(340, left=(62,), right=(290,), top=40, bottom=56)
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
                    label=f"{'clean twin' if model == 'twin' else model}, {regime} films",
                )
        for mark in (0.6, 0.9):
            axes.axvline(mark, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.text(mark, 1.03, f"{mark:g}", color=MUTED, ha="center", va="bottom")
        _calibrated_marks(axes, calibrated)
        axes.set(xlim=(0, 1), ylim=(-0.01, 1.02), xlabel="threshold on the target's probability")
        axes.set_ylabel("share called the target")
        axes.legend(loc="upper left", bbox_to_anchor=(1.03, 1.0), handlelength=2.6)
        label = (
            "Share of films without the target that are called the target, over the threshold, "
            "for both models, triggered and clean."
        )
        return _inline(figure, name, label)


def curves_over_epochs(histories: Mapping[str, Sequence[Mapping[str, Any]]], *, name: str) -> str:
    """Draw loss and validation macro AUROC over the epochs of both models.

    Args:
        histories: the lines of `history.jsonl` by model.
        name: unique name of the figure on its page.
    """
    with _style():
        figure, (left, right) = _figure(300, left=(62, 558), right=(540, 44), top=40, bottom=56)
        for model, epochs in histories.items():
            steps = [epoch["epoch"] for epoch in epochs]
            style = {"color": _MODELS[model], "linestyle": _LINES[model]}
            words = "clean twin" if model == "twin" else model
            columns = (("loss", 2.0, "training"), ("validation_loss", 0.9, "validation"))
            for column, width, what in columns:
                values = [_number(epoch.get(column)) for epoch in epochs]
                left.plot(steps, values, linewidth=width, label=f"{words}, {what}", **style)
            values = [_number(epoch.get("validation_macro")) for epoch in epochs]
            marker = _MARKERS[model]
            right.plot(steps, values, linewidth=1.6, marker=marker, markersize=4, **style)
        for axes, title in ((left, "Loss"), (right, "Macro AUROC on validation films")):
            axes.set(title=title, xlabel="epoch")
            axes.grid(visible=True, axis="y", color=RULE, linewidth=0.6)
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        left.legend(loc="best", handlelength=2.6)
        label = "Training curves of both models: loss, and macro AUROC on validation films."
        return _inline(figure, name, label)


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's defaults with our settings over them, whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def _figure(
    height: int, *, left: Sequence[int], right: Sequence[int], top: int, bottom: int
) -> tuple[Figure, list[Axes]]:
    """A figure of `height` units with panels at the given margins, in units."""
    figure = Figure(figsize=(_WIDTH / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    panels = []
    for start, end in zip(left, right, strict=True):
        width = (_WIDTH - start - end) / _WIDTH
        frame = (start / _WIDTH, bottom / height, width, (height - top - bottom) / height)
        panels.append(figure.add_axes(frame))
    return figure, panels


def _dot_line(axes: Axes, place: int, line: Dot, reference: float) -> None:
    weight = "bold" if line.strong else "normal"
    edge = axes.get_yaxis_transform()
    axes.text(-0.02, place, line.name, transform=edge, ha="right", va="center", weight=weight)
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
    """Where the values' axis starts: below the reference and all intervals."""
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
        options = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "ncols": 2}
    axes.legend(handles, list(words.values()), **options)


def _number(found: Any) -> float:
    return float(found) if isinstance(found, int | float) else float("nan")


def _inline(figure: Figure, name: str, label: str) -> str:
    """The figure as SVG for HTML: no metadata, no foreign names, ids of its own."""
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
