"""Matplotlib's SVG files as parts of an HTML page."""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# As Any, because matplotlib's types list the names that its own version knows.
STYLE: Any = {
    # Text stays text: it can be found, read aloud and scaled. The page's style chooses the font.
    "svg.fonttype": "none",
    "svg.hashsalt": "synthgrad",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#767676",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def inline(figure: Figure, description: str, prefix: str) -> str:
    """Renders a figure as an ``<svg>`` element.

    Args:
        figure: what to render.
        description: what a reader who cannot see it is told.
        prefix: put before the element's ids, which must be unique in the page.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True)
    text = out.getvalue()
    size = re.search(r'viewBox="[^"]*"', text)
    assert size is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", size.end()) + 1 :]
    # Who made it and when, and a style for everything in the page: the page has its own.
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r' id="[a-z0-9]+_\d+"', "", body)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"<[^>]*>", _rounded, body)
    body = re.sub(r">\s+<", "><", body)
    label = html.escape(description, quote=True)
    return f'<svg {size[0]} role="img" aria-label="{label}">{body.strip()}'


def _rounded(tag: re.Match[str]) -> str:
    """A tag with coordinates to the hundredth of a point, which is all that can be seen."""
    return re.sub(r"-?\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), tag[0])
