"""Line charts, legible at the width of a phone and told apart without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synthgrad.lab.experiment import Axis
from synthgrad.lab.report.curves import Curve
from synthgrad.lab.report.rounding import number
from synthgrad.lab.report.svg import STYLE, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In points. A phone shows it at about this size, so the font's size is what is read there.
WIDTH, HEIGHT = 324, 205

# Of more lines than this the legend names only some.
MAX_LEGEND = 8

# What stands for a line or for points in a legend.
MARKERS = {
    "": "M0 4H26",
    "o": "M9.5 4a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z",
    "s": "M10 1h6v6h-6Z",
    "^": "M13 .5L17 7.5H9Z",
    "D": "M13 0L17 4L13 8L9 4Z",
}

# A range as wide as this is shown on a logarithmic axis.
LOG_RATIO = 12.0


@dataclass(frozen=True)
class Look:
    """How a line is drawn: its colour, and its dashes as SVG has them (none: solid).

    Points have a marker instead, as matplotlib calls it: one of those in ``MARKERS``.
    """

    colour: str
    dashes: tuple[float, ...] = ()
    marker: str = ""

    @property
    def outline(self) -> str:
        """The path that stands for it in a legend of 26 by 8."""
        return MARKERS[self.marker]


@dataclass(frozen=True)
class Line:
    """One line of a chart, and its entry in the legend."""

    label: str
    curve: Curve
    look: Look
    last: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart as the page shows it.

    Attributes:
        title: above it.
        svg: the drawing.
        legend: the lines to name, beside the drawing and as text: all, or some of many.
        of: how many lines there are.
    """

    title: str
    svg: str
    legend: tuple[Line, ...]
    of: int


def chart(axis: Axis, lines: Sequence[Line], about: str, prefix: str) -> Chart:
    """Draws lines with their bands.

    Args:
        axis: what they show.
        lines: one or more.
        about: what the chart is about, for the description.
        prefix: makes ids unique in the page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    lines = [_ending(axis, line) for line in lines]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            _draw(axes, line, width=1.7 if len(lines) <= MAX_LEGEND else 1.1)
        if axis.reference is not None:
            axes.axhline(axis.reference, color="#767676", linewidth=0.8, zorder=1)
        axes.set_xlabel(axis.along)
        axes.set_ylabel(axis.label)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        scale(axes, axis, lines)
        if axis.stepped:
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend = _some(lines)
        ends = "; ".join(f"{line.label} {line.last}" for line in legend)
        description = f"{axis.title} against {axis.along}, {about}. At the end: {ends}."
        svg = inline(figure, description, prefix)
        return Chart(axis.title, svg, tuple(legend), len(lines))


def _ending(axis: Axis, line: Line) -> Line:
    return Line(line.label, line.curve, line.look, number(axis.metric, line.curve.last))


def _draw(axes: Axes, line: Line, width: float) -> None:
    curve, look = line.curve, line.look
    if len(curve.steps) == 1:
        axes.plot(curve.steps, curve.mean, "o", color=look.colour, markersize=4)
        return
    axes.plot(
        curve.steps,
        curve.mean,
        color=look.colour,
        linewidth=width,
        linestyle=(0, look.dashes) if look.dashes else "solid",
        drawstyle="steps-post" if curve.stepped else "default",
        clip_on=False,  # a line along the edge is seen whole
    )
    if (curve.low != curve.high).any():
        axes.fill_between(
            curve.steps,
            curve.low,
            curve.high,
            step="post" if curve.stepped else None,
            color=look.colour,
            alpha=0.18,
            linewidth=0,
        )


def _some(lines: Sequence[Line]) -> Sequence[Line]:
    if len(lines) <= MAX_LEGEND:
        return lines
    return [lines[i] for i in np.linspace(0, len(lines) - 1, 5).round().astype(int)]


def scale(axes: Axes, axis: Axis, lines: Sequence[Line]) -> None:
    """Makes the vertical axis fit: from zero, or logarithmic where the range is wide."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, StrMethodFormatter

    shown = np.concatenate([part for c in lines for part in (c.curve.low, c.curve.high)])
    shown = shown[np.isfinite(shown)]
    positive = shown[shown > 0]
    if axis.limits is not None:
        low, high = axis.limits
        axes.set_ylim(min(low, shown.min(initial=low)), max(high, shown.max(initial=high)))
        return
    if not axis.from_zero or not len(positive) or shown.min() < 0:
        return
    decades = np.log10(positive.max() / positive.min())
    if decades < np.log10(LOG_RATIO):
        axes.set_ylim(bottom=0)
        return
    subs = (1, 2, 5) if decades < 2 else (1,)
    if shown.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=subs))
    else:
        # Zero has no logarithm: below a power of ten near the smallest value the axis is linear.
        first = int(np.floor(np.log10(max(positive.min(), positive.max() / 1e4))))
        axes.set_yscale("symlog", linthresh=10.0**first, linscale=0.5)
        top = int(np.ceil(np.log10(positive.max())))
        axes.yaxis.set_major_locator(FixedLocator([0, *(10.0**e for e in range(first, top + 1))]))
        axes.set_ylim(bottom=0)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
