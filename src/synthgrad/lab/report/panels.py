"""Which charts a report shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby

from synthgrad.lab.experiment import Axis
from synthgrad.lab.experiments import charts
from synthgrad.lab.report import chance
from synthgrad.lab.report.chance import families
from synthgrad.lab.report.charts import MAX_LEGEND, Chart, Line, Look, chart
from synthgrad.lab.report.curves import Curve, across
from synthgrad.lab.report.groups import Group

CURVES = charts()
DISTANCES = (
    Axis("cosine", "Cosine with the true gradient", "cosine", 0.0, limits=(0, 1)),
    Axis("sign_error", "Sign error (chance: 0.5)", "share of wrong signs", 0.5, limits=(0, 0.6)),
    Axis("l2", "L2 distance from the true gradient", "L2, per example"),
)

# Okabe and Ito's colours, which the colour-blind can tell apart, less yellow, which is too faint
# on white; with dashes, which need no colour.
_METHODS = {
    "backprop": Look("#222222"),
    "bptt": Look("#222222"),
    "none": Look("#D55E00", (6, 2, 1, 2)),
    "stale": Look("#CC79A7", (1.2, 1.6)),
    "dni": Look("#0072B2", (5, 2)),
    "dni-aux": Look("#009E73"),
    "cdni": Look("#009E73"),
}
_OTHERS = ("#E69F00", "#56B4E9", "#882255", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (6, 2, 1, 2), (9, 3))


@dataclass(frozen=True)
class Panel:
    """The charts that belong together.

    Attributes:
        title: what they are about.
        charts: in the order of the page.
    """

    title: str
    charts: tuple[Chart, ...]


def panels(groups: Sequence[Group], prefix: str) -> list[Panel]:
    """The panels of one recipe: for each depth its curves, then its interfaces by method."""
    numbers = count()
    found = []
    for layers, members in groupby(groups, key=lambda group: group.layers):
        same = list(members)
        depth = "" if layers is None else f"{layers} layers"
        about = f"{same[0].recipe} {depth}".strip()
        found += _by_chance(same, depth, about, prefix, numbers)
        # Those are too many for a line each.
        apart = [group for family in families(same) for group in family]
        rest = [group for group in same if group not in apart]
        found.append(Panel(depth or "Curves", tuple(_curves(rest, about, prefix, numbers))))
        for group in rest:
            if group.method == "none":
                continue  # zero errors are at no angle to anything
            title = ", ".join(filter(None, (depth, _label(group)))) + ": interfaces"
            found.append(Panel(title, tuple(_distances(group, about, prefix, numbers))))
    return [panel for panel in found if panel.charts]


def _by_chance(
    groups: Sequence[Group], depth: str, about: str, prefix: str, numbers: Iterator[int]
) -> Iterator[Panel]:
    """Figure 7: for each way in which layers go by chance, a chart for each method."""
    references = [group for group in groups if group.method == "backprop"]
    for title, members in groupby(sorted(families(groups), key=chance.title), key=chance.title):
        drawn = [
            chart
            for family in members
            for chart in chance.charts(family, references, about, prefix, numbers)
        ]
        yield Panel(", ".join(filter(None, (depth, title))), tuple(drawn))


def _label(group: Group) -> str:
    return group.label if group.finished else f"{group.label} (unfinished)"


def _curves(
    groups: Sequence[Group], about: str, prefix: str, numbers: Iterator[int]
) -> Iterator[Chart]:
    looks = _looks(groups)
    for axis in CURVES:
        lines = [
            Line(_label(group), curve, look)
            for group, look in zip(groups, looks, strict=True)
            if (curve := _curve(group, axis)) is not None
        ]
        if lines:
            yield chart(axis, lines, about, f"{prefix}-{next(numbers)}")


def _curve(group: Group, axis: Axis) -> Curve | None:
    return across(group.shown, axis.metric, axis.over, stepped=axis.stepped)


def _looks(groups: Sequence[Group]) -> list[Look]:
    """A look for each group: by its method, and another where several have the same method."""
    looks: list[Look] = []
    spare = iter(_OTHERS * len(groups))
    for group in groups:
        look = _METHODS.get(group.method)
        if look is None or look in looks:
            look = next(
                new
                for c in spare
                if (new := Look(c, _DASHES[len(looks) % len(_DASHES)])) not in looks
            )
        looks.append(look)
    return looks


def _distances(group: Group, about: str, prefix: str, numbers: Iterator[int]) -> Iterator[Chart]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = dict.fromkeys(
        key.split("/", 1)[1].rpartition("/")[0]
        for run in group.shown
        for key in run.series
        if key.startswith("interface/")
    )
    for axis in DISTANCES:
        lines = []
        for i, name in enumerate(names):
            curve = across(group.shown, f"interface/{name}/{axis.metric}")
            # From dark to light with depth; the lightest are too faint on white.
            shade = to_hex(colormaps["plasma"](0.65 * i / max(len(names) - 1, 1)))
            dashes = _DASHES[i % len(_DASHES)] if len(names) <= MAX_LEGEND else ()
            if curve is not None:
                lines.append(Line(name, curve, Look(shade, dashes)))
        if lines:
            yield chart(axis, lines, f"{about}, {_label(group)}", f"{prefix}-{next(numbers)}")
