"""Line charts, legible at the width of a phone and told apart without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synthgrad.lab.report.curves import Curve
from synthgrad.lab.report.results import number
from synthgrad.lab.report.svg import STYLE, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In points. A phone shows it at about this size, so the font's size is what is read there.
WIDTH, HEIGHT = 324, 205

# A range as wide as this is shown on a logarithmic axis.
LOG_RATIO = 12.0


@dataclass(frozen=True)
class Look:
    """How a line is drawn: its colour, and its dashes as SVG has them (none: solid)."""

    colour: str
    dashes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of a chart, and its entry in the legend."""

    label: str
    curve: Curve
    look: Look
    last: str = ""


@dataclass(frozen=True)
class Axis:
    """What a chart's vertical axis shows.

    Attributes:
        metric: the metric's name, or its last part.
        title: above the chart.
        label: beside the axis, with the unit.
        reference: a value to draw a thin line at, such as that of pure chance.
        logarithmic: whether the axis may be logarithmic where the range is wide.
    """

    metric: str
    title: str
    label: str
    reference: float | None = None
    logarithmic: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart as the page shows it: the legend stands beside the drawing, as text."""

    title: str
    svg: str
    lines: tuple[Line, ...]


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
            _draw(axes, line)
        if axis.reference is not None:
            axes.axhline(axis.reference, color="#767676", linewidth=0.8, zorder=1)
        axes.set_xlabel("step")
        axes.set_ylabel(axis.label)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _scale(axes, axis, lines)
        ends = "; ".join(f"{line.label} {line.last}" for line in lines)
        description = f"{axis.title} against training steps, {about}. At the end: {ends}."
        return Chart(axis.title, inline(figure, description, prefix), tuple(lines))


def _ending(axis: Axis, line: Line) -> Line:
    return Line(line.label, line.curve, line.look, number(axis.metric, line.curve.last))


def _draw(axes: Axes, line: Line) -> None:
    curve, look = line.curve, line.look
    if len(curve.steps) == 1:
        axes.plot(curve.steps, curve.mean, "o", color=look.colour, markersize=4)
        return
    style = (0, look.dashes) if look.dashes else "solid"
    axes.plot(curve.steps, curve.mean, color=look.colour, linewidth=1.7, linestyle=style)
    if (curve.low != curve.high).any():
        axes.fill_between(
            curve.steps, curve.low, curve.high, color=look.colour, alpha=0.18, linewidth=0
        )


def _scale(axes: Axes, axis: Axis, lines: Sequence[Line]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter, SymmetricalLogLocator

    shown = np.concatenate([part for c in lines for part in (c.curve.low, c.curve.high)])
    shown = shown[np.isfinite(shown)]
    positive = shown[shown > 0]
    wide = len(positive) and shown.min() >= 0 and positive.max() > LOG_RATIO * positive.min()
    if not (axis.logarithmic and wide):
        if len(shown) and shown.min() >= 0 and axis.logarithmic:
            axes.set_ylim(bottom=0)
        return
    if shown.min() > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        # Zero has no logarithm: below the smallest value the axis is linear.
        axes.set_yscale("symlog", linthresh=float(positive.min()), linscale=0.5)
        axes.yaxis.set_major_locator(
            SymmetricalLogLocator(base=10, linthresh=float(positive.min()), subs=[1, 2, 5])
        )
        axes.set_ylim(bottom=0)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
