"""Point charts, in the manner of the line charts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synthgrad.lab.experiment import Axis
from synthgrad.lab.report.charts import HEIGHT, WIDTH, Chart, Line, scale
from synthgrad.lab.report.rounding import number
from synthgrad.lab.report.svg import STYLE, inline


def scatter(axis: Axis, series: Sequence[Line], name: str, about: str, prefix: str) -> Chart:
    """Draws points over a horizontal axis from 0 to 1.

    Args:
        axis: what they show, and over what.
        series: one or more; what a curve calls steps is where its points are.
        name: which points, for the title.
        about: what the chart is about, for the description.
        prefix: makes ids unique in the page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    named = [Line(s.label, s.curve, s.look, _middle(axis, s)) for s in series]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        axes = figure.subplots()
        for line in named:
            axes.plot(
                line.curve.steps,
                line.curve.mean,
                line.look.marker,
                color=line.look.colour,
                markersize=4.2,
                markeredgewidth=0,
                alpha=0.85,
                clip_on=False,
            )
        axes.set_xlabel(axis.over)
        axes.set_ylabel(axis.label)
        axes.set_xlim(0, 1)
        scale(axes, axis, named)
        medians = "; ".join(f"{line.label} {line.last}" for line in named)
        description = f"{axis.title}, {about}. Medians over all {axis.over}: {medians}."
        svg = inline(figure, description, prefix)
    return Chart(f"{axis.title}: {name}", svg, tuple(named), len(named))


def _middle(axis: Axis, line: Line) -> str:
    return f"median {number(axis.metric, float(np.median(line.curve.mean)))}"
